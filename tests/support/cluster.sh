#!/bin/bash
# A cluster of one node, all of it in namespaces of its own: cluster.sh FOLDER BIN IMAGE...
# Prints nothing; FOLDER/kubeconfig leads to it from within. It ends, wholly, with its first process.
set -euo pipefail
folder=$1 bin=$2
shift 2
mount --make-rprivate /
mount --make-rshared /

# The kubelet would set these for the whole machine; here it sets files.
mkdir -p "$folder/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1; do
    file=$folder/sysctl/$(basename "${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done

ip link set lo up
ip link add cluster type bridge
ip address add 10.232.0.1/24 dev cluster
ip link set cluster up
cd "$folder"
mkdir -p pki cni
openssl genrsa -out pki/sa.key 2048 2>/dev/null
openssl rsa -in pki/sa.key -pubout -out pki/sa.pub 2>/dev/null
echo 'of-the-tests,admin,admin,"system:masters"' >pki/tokens.csv
cat >kubeconfig <<END
apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: of-the-tests}}]
contexts: [{name: it, context: {cluster: it, user: admin}}]
current-context: it
END
cat >cni/1.conflist <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "pods", "isGateway": true, "ipam": {
 "type": "host-local", "ranges": [[{"subnet": "10.233.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "$folder/addresses"}}]}
END
cat >containerd.toml <<END
version = 2
root = "$folder/containerd"
state = "$folder/containerd-state"
[grpc]
address = "$folder/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$folder/cni"
END
cat >kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failSwapOn: false
enforceNodeAllocatable: []
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
readOnlyPort: 0
nodeStatusUpdateFrequency: 2s
syncFrequency: 3s
clusterDNS: ["10.96.0.10"]
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: "50Mi"}
imageGCHighThresholdPercent: 100
END

export KUBECONFIG=$folder/kubeconfig
etcd --data-dir etcd --unsafe-no-fsync >etcd.log 2>&1 &
containerd -c containerd.toml >containerd.log 2>&1 &
"$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --insecure-port=0 \
    --advertise-address=10.232.0.1 --service-cluster-ip-range=10.96.0.0/16 --cert-dir=pki --token-auth-file=pki/tokens.csv \
    --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key \
    --service-account-issuer=https://kubernetes.default.svc --authorization-mode=RBAC \
    --kubelet-preferred-address-types=InternalIP >apiserver.log 2>&1 &
until [ -S containerd.sock ] && [ -s pki/apiserver.crt ]; do sleep 0.1; done
for image in "$@"; do ctr -a "$folder/containerd.sock" -n k8s.io images import "$image" >>containerd.log 2>&1; done
"$bin/kube-controller-manager" --kubeconfig kubeconfig --use-service-account-credentials --leader-elect=false \
    --service-account-private-key-file=pki/sa.key --root-ca-file=pki/apiserver.crt --cert-dir=pki --port=0 >manager.log 2>&1 &
"$bin/kube-scheduler" --kubeconfig kubeconfig --leader-elect=false --cert-dir=pki --port=0 >scheduler.log 2>&1 &
exec "$bin/kubelet" --kubeconfig kubeconfig --config kubelet.yaml --root-dir="$folder/kubelet" --cert-dir=pki \
    --container-runtime=remote --container-runtime-endpoint="unix://$folder/containerd.sock" --network-plugin=cni \
    --cni-conf-dir="$folder/cni" --cni-bin-dir=/usr/lib/cni --hostname-override=node --node-ip=10.232.0.1 >kubelet.log 2>&1

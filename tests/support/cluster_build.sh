#!/bin/bash
# Builds a Kubernetes from Debian 12's source package, the last one that holds all of it: cluster_build.sh FOLDER.
# Takes five minutes and two gigabytes; leaves four programs in FOLDER/bin, which are not built again.
set -euo pipefail
folder=$(realpath -m "$1")
[ -x "$folder/bin/kubelet" ] && exit 0
work=$folder/work
rm -rf "$work"
mkdir -p "$folder/bin" "$work/lists/partial"
cd "$work"

# Debian's archive of sources, beside the machine's own lists.
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 '/debian/\?$')
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >sources.list
apt=(apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
"${apt[@]}" update
"${apt[@]}" source kubernetes

export GOPATH=$work/gopath GOCACHE=$work/cache GO111MODULE=off GOPROXY=off GOFLAGS= CGO_ENABLED=0
export PATH=/usr/lib/go-1.19/bin:$PATH
mkdir -p "$GOPATH/src/k8s.io"
ln -s "$(echo "$work"/kubernetes-1.20*/)" "$GOPATH/src/k8s.io/kubernetes"
# Go finds the packages by the name of the folder, not by where the link leads.
cd "$GOPATH/src/k8s.io/kubernetes"
export PWD=$GOPATH/src/k8s.io/kubernetes

# The API server does not compile without this generated file; the package makes it with another tool.
go build -o "$work/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
marked() { grep -rl --include='*.go' --exclude='*_test.go' '+k8s:openapi-gen=' "$@" || true; }
unused='code-generator|sample-apiserver|gengo|kube-openapi|klog|utils|system-validators'
mapfile -t vendored < <(find vendor/k8s.io/ -mindepth 1 -maxdepth 1 | grep -Ev "/($unused)$")
packages=$( (marked cmd pkg plugin; for each in "${vendored[@]}"; do marked "$each/"; done) | xargs -n1 dirname | sort -u)
"$work/openapi-gen" --logtostderr -i "$(for each in $packages; do echo "k8s.io/kubernetes/$each"; done | paste -sd,)" \
    -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi --output-base "$GOPATH/src" \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations" 2>/dev/null

v=k8s.io/kubernetes/vendor/k8s.io/component-base/version
named="-s -w -X $v.gitVersion=v1.20.2 -X $v.gitMajor=1 -X $v.gitMinor=20"
for program in kube-apiserver kube-controller-manager kube-scheduler kubelet; do
    go build -ldflags "$named" -o "$work/$program" "k8s.io/kubernetes/cmd/$program"
done
mv "$work"/kube-apiserver "$work"/kube-controller-manager "$work"/kube-scheduler "$work"/kubelet "$folder/bin/"
cd "$folder" && rm -rf "$work"

#!/bin/bash
# Boots systemd as the first process of namespaces of its own, over a file system that is thrown away with them.
#   machine.sh NAME BELOW WORK [FOLDER]   BELOW is what the machine sees as /; FOLDER appears in it as /media/host
# Everything that it makes is gone when it ends, but for the control groups, which NAME names.
set -euo pipefail
name=$1 below=$2 work=$3 folder=${4-}

[ -d /sys/fs/cgroup/memory ] || { echo "no /sys/fs/cgroup/memory: this needs control groups of version 1" >&2; exit 1; }
for controller in /sys/fs/cgroup/*/; do
    group=$controller$name
    mkdir -p "$group"
    if [ -e "$controller/cpuset.cpus" ]; then
        cat "$controller/cpuset.cpus" >"$group/cpuset.cpus"
        cat "$controller/cpuset.mems" >"$group/cpuset.mems"
    fi
    echo $$ >"$group/cgroup.procs"
done

mount -t tmpfs tmpfs "$work"
mkdir "$work/upper" "$work/scratch" "$work/root"
mount -t overlay overlay -o "lowerdir=$below,upperdir=$work/upper,workdir=$work/scratch" "$work/root"
cd "$work/root"
mkdir -p proc sys dev run tmp media/host
[ -z "$folder" ] || mount --bind "$folder" media/host

# The rest happens in the new namespaces, as their first process, which becomes systemd.
# shellcheck disable=SC2016
exec unshare --pid --fork --kill-child=KILL --cgroup --uts --ipc --net bash -c '
set -euo pipefail
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
ip link set lo up
mkdir run/old
pivot_root . run/old
cd /
umount -l /run/old
# Without this, what LoadCredential= passes would be an empty folder.
mount --make-rshared /
# basic.target: what else is installed on this machine is not started in there.
exec env -i container=machine PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system \
    --unit=basic.target --log-target=journal systemd.unified_cgroup_hierarchy=0
'

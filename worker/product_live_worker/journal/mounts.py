"""Which file system the journal lies on: the log of SQLite works on one machine's disk, not over a network."""

from __future__ import annotations

import re
from pathlib import Path

from product_live_worker.journal.sqlite import file_of

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "davfs"),
        *("ceph", "lustre", "glusterfs", "gpfs", "beegfs", "pvfs2", "orangefs"),
        *("fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs", "fuse.davfs", "fuse.davfs2", "fuse.curlftpfs"),
        *(
            "fuse.s3fs",
            "fuse.gcsfuse",
            "fuse.blobfuse",
            "fuse.blobfuse2",
            "fuse.rclone",
            "fuse.juicefs",
            "fuse.mount-s3",
        ),
    }
)
"""Types of file systems whose files other machines may have open too, as Linux names them."""


def network_file_system(url: str, mounts: Path = MOUNTS) -> str | None:
    """Give the type of the network file system that the journal would be on; None on any other, or if it is unknown.

    `mounts` is the kernel's list; outside of Linux there is none.
    """
    if not url.startswith("sqlite:") or not mounts.exists():
        return None
    kind = file_system(file_of(url).resolve(), mounts.read_text(encoding="utf-8", errors="surrogateescape"))
    return kind if kind in NETWORK else None


def file_system(path: Path, mounts: str) -> str:
    """Give the type of the file system that an absolute path is on, in the words of proc_pid_mountinfo(5); else ""."""
    kind, depth = "", -1
    for line in mounts.splitlines():
        where, _, what = line.partition(" - ")
        point = Path(_unescaped(where.split()[4]))
        # Of two mounts in one place, the later one is seen.
        if (path == point or point in path.parents) and len(point.parts) >= depth:
            kind, depth = what.split()[0], len(point.parts)
    return kind


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)

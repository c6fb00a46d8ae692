"""Which file system a path is on: SQLite's log needs one that this machine alone writes to."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "afs", "glusterfs", "lustre", "gpfs", "beegfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.juicefs"),
    }
)
"""Types of file systems that lie on other machines (man 5 proc)."""


def network_file_system(path: Path, mounts: str | None = None) -> str:
    """Name the network file system that a path is or will be on, and where it is mounted; empty where it is none.

    `mounts` is what Linux tells of its mounts; elsewhere nothing is known, and nothing is said.
    """
    if mounts is None:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="replace") if MOUNTS.exists() else ""
    here = path.resolve()
    found = "", Path("/")
    for line in mounts.splitlines():
        mounted, _, source = line.partition(" - ")
        place = Path(_plain(mounted.split()[4]))
        # Of two at one place the later one hides the other.
        if here.is_relative_to(place) and place.is_relative_to(found[1]):
            found = source.split()[0], place
    kind, place = found
    return f"{kind} at {place}" if kind in NETWORK else ""


def _plain(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), text)

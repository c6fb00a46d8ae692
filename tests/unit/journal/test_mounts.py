"""Whether a path is on a network file system, by what Linux tells of its mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from product_live_worker.cli.check import disk
from product_live_worker.journal.mounts import network_file_system

MOUNTS = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /srv rw,relatime shared:5 - nfs4 filer:/export rw,vers=4.2
31 30 254:1 / /srv/local rw - xfs /dev/vdb rw
32 22 0:41 / /mnt/two\040words rw - cifs //filer/share rw
33 22 0:42 / /var/lib rw - nfs filer:/lib rw
34 33 254:2 / /var/lib rw - ext4 /dev/vdc rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/worker/worker.db", ""),
        ("/srv/worker.db", "nfs4 at /srv"),
        ("/srv/not/there/yet/worker.db", "nfs4 at /srv"),
        ("/srv/local/worker.db", ""),
        ("/srvx/worker.db", ""),
        ("/mnt/two words/worker.db", "cifs at /mnt/two words"),
        ("/var/lib/worker.db", ""),
    ],
)
def test_the_nearest_mount_decides(path: str, kind: str) -> None:
    """And of two at one place, the one on top."""
    assert network_file_system(Path(path), MOUNTS) == kind


def test_check_refuses_it_and_says_what_to_do() -> None:
    """A database on a server is not on any disk of this machine."""
    ((ok, text),) = disk("sqlite:////srv/worker.db", MOUNTS)
    assert not ok
    assert "nfs4 at /srv" in text
    assert "Put it on a disk of this machine" in text
    assert not list(disk("sqlite:////srv/local/worker.db", MOUNTS))
    assert not list(disk("postgresql://host/srv", MOUNTS))


def test_this_machine_is_asked(tmp_path: Path) -> None:
    """Tests run on a disk, or in memory."""
    assert network_file_system(tmp_path / "worker.db") == ""

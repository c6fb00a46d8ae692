"""The journal's file system: told by the kernel's own list of mounts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from product_live_worker.journal import mounts
from product_live_worker.journal.mounts import file_system, network_file_system

LIST = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
25 22 0:23 / /proc rw,nosuid - proc proc rw
40 22 0:40 / /srv rw - nfs4 files:/export rw,vers=4.2,addr=10.0.0.9
41 40 254:1 / /srv/fast rw shared:2 master:1 - xfs /dev/vdb rw
42 22 0:42 / /mnt/with\\040a\\040space rw - cifs //files/share rw
43 22 0:43 / /var/lib rw - nfs files:/old rw
44 22 254:2 / /var/lib rw - ext4 /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/worker.db", "ext4"),
        ("/srv/worker.db", "nfs4"),
        ("/srv", "nfs4"),
        ("/srv/fast/state/worker.db", "xfs"),
        ("/srv/faster/worker.db", "nfs4"),
        ("/srvs/worker.db", "ext4"),
        ("/mnt/with a space/worker.db", "cifs"),
        ("/var/lib/product-live-worker/worker.db", "ext4"),
    ],
)
def test_the_mount_that_is_seen_at_a_path_decides(path: str, kind: str) -> None:
    """The innermost, and of two in one place the later; a name that only begins alike is another one."""
    assert file_system(Path(path), LIST) == kind


def test_an_empty_list_tells_nothing() -> None:
    """No guess is made."""
    assert file_system(Path("/srv/worker.db"), "") == ""


@pytest.mark.parametrize(("path", "found"), [("/srv/worker.db", "nfs4"), ("/srv/fast/worker.db", None)])
def test_only_a_network_file_system_is_named(path: str, found: str | None, tmp_path: Path) -> None:
    """A disk of the machine is nothing to speak of, nor is a database that is no file."""
    (tmp_path / "mountinfo").write_text(LIST, encoding="utf-8")
    assert network_file_system(f"sqlite:///{path}", tmp_path / "mountinfo") == found
    assert network_file_system(f"postgresql:///{path}", tmp_path / "mountinfo") is None


def test_where_the_kernel_has_no_list_nothing_is_refused(tmp_path: Path) -> None:
    """Outside of Linux nobody can tell."""
    assert network_file_system("sqlite:////srv/worker.db", tmp_path / "missing") is None


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("findmnt"), reason="findmnt is for Linux")
def test_this_machine_is_read_as_its_own_tools_read_it(tmp_path: Path) -> None:
    """For a folder that is there, findmnt says the same."""
    tool = ["findmnt", "--noheadings", "--output=FSTYPE", f"--target={tmp_path}"]
    told = subprocess.run(tool, capture_output=True, text=True, check=True)  # noqa: S603 (the system's)
    kind = file_system(tmp_path.resolve(), mounts.MOUNTS.read_text(encoding="utf-8"))
    assert kind == told.stdout.split()[-1]
    assert network_file_system(f"sqlite:///{tmp_path}/worker.db") == (kind if kind in mounts.NETWORK else None)

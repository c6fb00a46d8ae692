"""What the doctor sees without anybody else."""

from __future__ import annotations

from pathlib import Path

from product_live_worker.doctor.local import disk

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:40 / /srv rw - nfs4 files:/export rw,vers=4.2,addr=10.0.0.9
"""


def test_a_journal_on_a_network_file_system_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """SQLite cannot keep its word there; a disk of this machine, and a server's database, are nothing to speak of."""
    (tmp_path / "mountinfo").write_text(MOUNTS, encoding="utf-8")
    (found,) = disk("sqlite:////srv/worker.db", tmp_path / "mountinfo")
    assert (found.level, found.subject) == ("fail", "disk")
    assert "nfs4" in found.text
    assert "PostgreSQL" in found.cure
    assert not list(disk("sqlite:////home/worker.db", tmp_path / "mountinfo"))
    assert not list(disk("postgresql://host/srv", tmp_path / "mountinfo"))

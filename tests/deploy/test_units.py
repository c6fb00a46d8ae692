"""The units of deploy/systemd as systemd itself reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.debian import need

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


@pytest.fixture(autouse=True, scope="module")
def systemd() -> None:
    """Install what reads units."""
    need("systemd")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_exposed_to_little(unit: Path) -> None:
    """What `systemd-analyze security` finds is 1.5 of 10 at most."""
    done = subprocess.run(  # noqa: S603 (systemd's own)
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(unit)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

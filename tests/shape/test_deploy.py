"""What is under deploy/, as far as it can be judged without its system: `make test-deploy` has the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from product_live_worker.cli.run import LEFT_ALONE
from product_live_worker.daemon import LAST_REPORTS
from product_live_worker.settings import Settings

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "deploy" / "systemd"
UNIT = (SYSTEMD / "product-live-worker.service").read_text(encoding="utf-8")
TEMPLATE = (SYSTEMD / "product-live-worker@.service").read_text(encoding="utf-8")
CONTAINERFILES = sorted((ROOT / "deploy").rglob("*Containerfile"))
SCRIPTS = [SYSTEMD / "install", ROOT / "tests" / "support" / "machine.sh"]
BIN = Path(sys.executable).parent


def said(*command: str | Path) -> str:
    """Give all that a tool has to say; nothing when it is content."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)  # noqa: S603 (linters)
    return done.stdout + done.stderr


def lines(unit: str) -> list[str]:
    """Give what a unit tells systemd."""
    return [line for line in unit.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.name)
def test_hadolint_has_nothing_to_say(file: Path) -> None:
    """Each exception stands in the file, with its reason above."""
    assert CONTAINERFILES
    assert said(BIN / "hadolint", file) == ""
    text = file.read_text(encoding="utf-8")
    assert all(
        re.search(rf"^# .+\.\n{re.escape(line)}$", text, re.MULTILINE) for line in re.findall(r"# hadolint .*", text)
    )


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_shellcheck_has_nothing_to_say(file: Path) -> None:
    """What the first line names is the shell that it is checked for."""
    assert said(BIN / "shellcheck", file) == ""


def test_the_template_is_the_unit_with_a_name_in_it() -> None:
    """So that what is said, and tested, of one holds for both."""
    named = [
        line.replace("/etc/product-live-worker/", "/etc/product-live-worker/%i/")
        .replace("StateDirectory=product-live-worker", "StateDirectory=product-live-worker-%i")
        .replace("User=product-live-worker", "User=plw-%i")
        .replace("Description=Product-Live worker", "Description=Product-Live worker for %i")
        for line in lines(UNIT)
    ]
    assert lines(TEMPLATE) == named


def test_systemd_waits_for_longer_than_the_worker_takes_to_stop() -> None:
    """For the whole drain, the last reports, and what is left to be gone."""
    (seconds,) = re.findall(r"^TimeoutStopSec=([0-9]+)$", UNIT, re.MULTILINE)
    assert int(seconds) > Settings().drain.timeout + LAST_REPORTS + LEFT_ALONE


def test_the_version_in_the_documents_is_this_one() -> None:
    """Commands are copied as they stand."""
    (version,) = re.findall(
        r'__version__ = "(.*)"', (ROOT / "worker/product_live_worker/__init__.py").read_text(encoding="utf-8")
    )
    for file in (ROOT / "docs" / "operations.md", *CONTAINERFILES):
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"product-live-worker[-:]([0-9]+\.[0-9]+\.[0-9]+)", text)) == {version}

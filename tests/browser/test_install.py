"""How a browser comes to a machine that has none, and what is said where none can be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.browser import NAMES, PACKAGES, found, install, needed


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of all programs that this machine has."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def put(programs: Path, name: str, script: str) -> Path:
    """Install a program."""
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)
    return programs / name


def test_without_a_browser_the_tests_are_skipped_with_what_to_do(programs: Path) -> None:
    """On a developer's machine that is no failure."""
    with pytest.raises(pytest.skip.Exception, match=r"no Chromium: install it .* or name it in \$CHROMIUM"):
        needed()
    browser = put(programs, "chromium", "exit 0")
    assert needed() == str(browser)


def test_in_ci_that_is_a_failure(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A skip would pass for a proof there."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        needed()
    assert not list(programs.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_browser_that_is_there_is_taken_as_it_is(programs: Path, name: str) -> None:
    """Nothing is installed beside it."""
    put(programs, "apt-get", f"echo called >> {programs}/calls")
    browser = put(programs, name, "exit 0")
    install()
    assert found() == str(browser)
    assert not (programs / "calls").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root installs")
def test_apt_is_asked_for_it_and_its_refusal_is_told(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What apt says against it is not swallowed: the tests that are skipped then do not know why."""
    put(programs, "apt-get", f"echo $* >> {programs}/calls; echo 'E: no such package' >&2; exit 100")
    install()
    assert [call.split()[0] for call in (programs / "calls").read_text().splitlines()] == ["update", "install"]
    assert (programs / "calls").read_text().rstrip().endswith(" ".join(PACKAGES))
    assert "apt-get install failed: E: no such package" in capsys.readouterr().out


def test_where_there_is_no_apt_nothing_is_tried(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tests say what to do."""
    install()
    assert not list(programs.iterdir())
    assert capsys.readouterr().out == ""

"""A real cluster cannot be had everywhere: `make test-kubernetes` says why not, and skips."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SPACES = ("unshare", "--mount", "--net", "--pid", "--fork", "true")


def reason() -> str:
    """Say why there can be no cluster on this machine, or give an empty text."""
    release = Path("/etc/os-release")
    if "VERSION_CODENAME=bookworm" not in (release.read_text(encoding="utf-8") if release.exists() else ""):
        return "Kubernetes is built from the source package of Debian 12, the last one that has all of it"
    if os.geteuid() != 0:
        return "only root can give a cluster namespaces of its own"
    if subprocess.run(SPACES, capture_output=True, check=False).returncode != 0:  # noqa: S603 (Debian's own)
        return "this machine allows no namespaces"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of this folder where there is a reason to, and give it an hour: the first test builds Kubernetes."""
    why = reason()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600), append=False)
            if why:
                item.add_marker(pytest.mark.skip(reason=why))

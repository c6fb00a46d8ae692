"""What is tested on the real thing needs Debian, root, and time: `make test-deploy` runs it, `make test` does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder ten minutes, unless they ask for less: the first one installs what all need."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(autouse=True, scope="session")
def on_debian_as_root() -> None:
    """Fail where these tests cannot run: nobody shall believe that they have."""
    assert os.geteuid() == 0, "make test-deploy starts systemd and containers: run it as root"
    assert shutil.which("apt-get"), "make test-deploy installs its tools with apt: run it on Debian"

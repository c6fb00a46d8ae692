"""What is tested on the real thing needs Debian, root, and time: `make test-deploy` runs it, `make test` does not."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.debian import need, new_debian

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLUGIN = str(HERE / "plugin")
Shared = Callable[[str, Callable[[Path], object]], Path]


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


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Give what makes a folder once for all processes of this run: the first that asks makes it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, made = base / name, base / f"{name}.made"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                path.mkdir()
                make(path)
                made.touch()
        return path

    return folder


def bundled(shared: Shared, name: str, *plugins: str) -> Path:
    """Give the folder of a bundle with these plugins, as `make bundle` makes it."""

    def make(folder: Path) -> None:
        given = f"PLUGINS={' '.join(plugins)} --python 3.11 --python 3.13 --dist {folder}"
        done = subprocess.run(["make", "bundle", given], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603, S607 (ours)
        assert done.returncode == 0, done.stdout + done.stderr

    (folder,) = (path for path in shared(name, make).iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="session")
def bundle(shared: Shared) -> Path:
    """Give the folder of a bundle with the tests' own plugin."""
    return bundled(shared, "bundle", PLUGIN)


@pytest.fixture(scope="session")
def fleet_bundle(shared: Shared) -> Path:
    """Give the same with what a worker needs for PostgreSQL."""
    return bundled(shared, "fleet-bundle", PLUGIN, "product-live-worker[postgres]")


@pytest.fixture(scope="session")
def trixie(shared: Shared) -> Path:
    """Give the root of a small Debian 13 with Python and systemd."""
    need("mmdebstrap")
    packages = ("python3", "python3-venv", "ca-certificates", "systemd", "systemd-sysv", "dbus", "iproute2", "curl")
    return shared("trixie", lambda folder: new_debian("trixie", folder / "root", *packages)) / "root"

"""The cluster that these tests share. It cannot be had everywhere: `make test-kubernetes` says why not, and skips."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import Cluster, Platform, cluster, platform
from support.cluster_worker import IMAGE
from support.podman import podman

BASE = "docker.io/library/python:3.13-slim"
PAUSE = "localhost/pause:1"
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


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, fleet_bundle: Path, trixie: Path) -> list[Path]:
    """Build the worker's image as test_container.py does, for all overlays, and the one that holds a pod together."""
    folder = tmp_path_factory.mktemp("podman")
    pause = folder / "pause"
    pause.mkdir()
    with podman(folder) as engine:
        shutil.copy("/usr/bin/catatonit", pause)
        (pause / "Containerfile").write_text('FROM scratch\nCOPY catatonit /\nENTRYPOINT ["/catatonit", "-P"]\n')
        engine.build(pause, PAUSE)
        subprocess.run(["tar", "-C", str(trixie), "-cf", str(folder / "base.tar"), "."], check=True)  # noqa: S603, S607
        engine.ok("import", str(folder / "base.tar"), BASE)
        engine.build(fleet_bundle, IMAGE)
        saved = []
        for name in (PAUSE, IMAGE):
            saved.append(folder / f"{len(saved)}.tar")
            engine.ok("save", "--format", "docker-archive", "--output", str(saved[-1]), name)
    return saved


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, images: list[Path]) -> Iterator[Cluster]:
    """Run the cluster."""
    with cluster(tmp_path_factory.mktemp("cluster"), *images) as made:
        yield made


@pytest.fixture(scope="module")
def account(machine: Cluster) -> Iterator[Platform]:
    """Run a platform, which outlives every worker, and make room for these; nothing of a file is left to the next."""
    with platform(machine, "power", "waits", "begins_anew") as made:
        machine.ok("create", "namespace", "product-live")
        yield made
        machine.ok("delete", "namespace", "product-live", "--timeout=120s")

"""Debian's packages for the tests of deploy/: what a test needs, it installs; what cannot be had fails it."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

LOCK = Path("/var/lock/product-live-worker-tests")


def need(*packages: str) -> None:
    """Install those of these packages that are missing."""
    with LOCK.open("w") as lock:
        # Two files of tests run at once, and apt lets only one in.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if missing := [package for package in packages if not _is_installed(package)]:
            apt("update")
            apt("install", "--yes", "--no-install-recommends", *missing)


def apt(*arguments: str, cwd: Path | None = None) -> None:
    """Run apt-get; its words are shown when it fails."""
    done = subprocess.run(  # noqa: S603 (Debian's own)
        ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=120", *arguments],  # noqa: S607 (the same)
        cwd=cwd,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"apt-get {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def new_debian(release: str, root: Path, *packages: str) -> None:
    """Make the root of a small system of that release, from where this machine has its own packages from."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"],  # noqa: S607 (Debian's own)
        capture_output=True,
        text=True,
        check=True,
    )
    mirror = next(line for line in listed.stdout.splitlines() if line.rstrip("/").endswith("/debian"))
    chosen = ["--mode=root", "--variant=minbase", f"--include={','.join(packages)}"]
    done = subprocess.run(  # noqa: S603 (Debian's own)
        ["mmdebstrap", *chosen, release, str(root), mirror],  # noqa: S607 (the same)
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _is_installed(package: str) -> bool:
    done = subprocess.run(  # noqa: S603 (Debian's own)
        ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package],  # noqa: S607 (the same)
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout == "installed"


def unpacked(package: str, into: Path, suite: str = "sid") -> Path:
    """Unpack a package of another suite than this machine's into a folder, without installing it.

    What is written in Go brings all that it needs, so a new release runs on an old Debian. A package that is there
    already stays as it is.
    """
    into = into.resolve()
    target = into / package
    into.mkdir(parents=True, exist_ok=True)
    with (into / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _unpack(package, suite, into, target)
    return target


def _unpack(package: str, suite: str, into: Path, target: Path) -> None:
    lists = into / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    sources = into / "sources.list"
    # The archive that this machine takes its own packages from; its keys are Debian's, of whatever suite.
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"],  # noqa: S607 (Debian's own)
        capture_output=True,
        text=True,
        check=True,
    )
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(f"deb [signed-by={keys}] {told.stdout.splitlines()[0]} {suite} main\n", encoding="utf-8")
    options = [
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::lists={lists}",
        "-oDir::State::status=/dev/null",
        "-oDir::Cache::pkgcache=",
        "-oDir::Cache::srcpkgcache=",
        # The suite's signature is good for some days; a machine may not have the date of its mirror.
        "-oAcquire::Check-Valid-Until=false",
        "-oAPT::Sandbox::User=root",
    ]
    apt(*options, "update")
    apt(*options, "download", package, cwd=into)
    (archive,) = into.glob(f"{package}_*.deb")
    subprocess.run(  # noqa: S603 (Debian's own)
        ["dpkg", "-x", str(archive), str(target.with_suffix(".new"))],  # noqa: S607 (the same)
        check=True,
    )
    archive.unlink()
    target.with_suffix(".new").rename(target)

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


def _is_installed(package: str) -> bool:
    done = subprocess.run(  # noqa: S603 (Debian's own)
        ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package],  # noqa: S607 (the same)
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout == "installed"

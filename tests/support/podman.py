"""Real containers: podman and runc, with storage of their own that is gone after the tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.debian import need

# crun knows no control groups of both versions at once, and a container on a container may not raise its limits.
SETTINGS = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@dataclass(frozen=True)
class Podman:
    """The command, with everything that it keeps below one folder."""

    folder: Path

    def run(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command of podman to its end."""
        return self._run("podman", *arguments, timeout=timeout)

    def ok(self, *arguments: str, timeout: float = 300) -> str:
        """Run a command that must succeed; gives what it printed."""
        done = self.run(*arguments, timeout=timeout)
        assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def build(self, context: Path, tag: str, *arguments: str) -> None:
        """Build an image, without any network: its base is here."""
        common = ("--pull-never", "--format", "docker", "--isolation", "chroot")
        done = self._run("unshare", "--net", "buildah", "bud", *common, "--tag", tag, *arguments, str(context))
        assert done.returncode == 0, done.stdout + done.stderr

    def inspect(self, name: str, kind: str = "image") -> dict[str, Any]:
        """Give what podman says of an image or a container."""
        found: dict[str, Any] = json.loads(self.ok(kind, "inspect", name))[0]
        return found

    def _run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 (Debian's own)
            list(command),
            env={
                **os.environ,
                "CONTAINERS_CONF": str(self.folder / "containers.conf"),
                "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@contextmanager
def podman(folder: Path) -> Iterator[Podman]:
    """Give podman while the block runs; all its containers and images are removed after it."""
    need("buildah", "podman", "runc", "netavark", "aardvark-dns", "catatonit")
    (folder / "containers.conf").write_text(SETTINGS, encoding="utf-8")
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n', encoding="utf-8"
    )
    made = Podman(folder)
    try:
        yield made
    finally:
        made.run("rm", "--all", "--force", "--time", "0")
        made.run("rmi", "--all", "--force")

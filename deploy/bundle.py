"""Makes an archive that the worker and its plugins are installed from without any package index: `make bundle`."""

from __future__ import annotations

import argparse
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("manylinux_2_17", "manylinux2014", "manylinux_2_28")
"""What the wheels must run on: the glibc of Debian 10 and of everything since."""
BESIDE = (
    "LICENSE",
    "config/worker.toml",
    "deploy/container/Containerfile",
    "deploy/systemd/install",
    "deploy/systemd/product-live-worker.service",
    "deploy/systemd/product-live-worker@.service",
    "docs/operations.md",
)


def main() -> None:
    """Read the command line, and make the archive below dist/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "plugins", nargs="*", metavar="PLUGIN", help="a folder, a wheel, or a name as in my-plugin==1.2"
    )
    parser.add_argument("--python", action="append", choices=PYTHONS, help="for this Python only; may be repeated")
    parser.add_argument("--machine", choices=("x86_64", "aarch64"), default=_machine(), help="that it is for")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where to put it")
    given = parser.parse_args()
    archive = bundle(given.plugins, given.python or PYTHONS, given.machine, given.dist)
    print(f"{archive} ({archive.stat().st_size / 1e6:.0f} MB)")  # noqa: T201 (a command)


def bundle(plugins: Iterable[str], pythons: Iterable[str], machine: str, dist: Path) -> Path:
    """Make the archive; its folder stays beside it, for an image to be built from."""
    building = dist / "building"
    shutil.rmtree(building, ignore_errors=True)
    wheels = building / "wheels"
    wheels.mkdir(parents=True)
    # With what the checkout has: its own wheel needs nothing from elsewhere.
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT)
    (worker,) = wheels.iterdir()
    names = [_plugin(plugin, wheels) for plugin in plugins]
    found = [wheel for wheel in wheels.iterdir() if wheel != worker]
    for python in pythons:
        on = [word for name in PLATFORMS for word in ("--platform", f"{name}_{machine}")]
        _pip(
            *("download", "--dest", wheels, "--find-links", wheels, "--only-binary", ":all:", "--implementation", "cp"),
            *("--python-version", python, *on, "--constraint", ROOT / "constraints.txt"),
            *(worker, *found, *(name for name in names if "@" not in name)),
        )
    for file in BESIDE:
        shutil.copy(ROOT / file, building)
    (building / "plugins.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(building)}\n" for file in _files(building)
    ]
    (building / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    folder = dist / "-".join(worker.name.split("-")[:2]).replace("_", "-")
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    archive = folder.with_name(f"{folder.name}-{machine}.tar.gz")
    with tarfile.open(archive, "w:gz") as made:
        made.add(folder, folder.name, filter=_of_nobody)
    return archive


def _plugin(plugin: str, wheels: Path) -> str:
    """Put a plugin's own wheel beside the others, where it is a file or a folder; gives the requirement for it."""
    path = Path(plugin)
    if not path.exists():
        return plugin
    before = set(wheels.iterdir())
    _pip("wheel", "--no-deps", "--wheel-dir", wheels, path.resolve())
    (wheel,) = set(wheels.iterdir()) - before
    name, version, *_ = wheel.name.split("-")
    return f"{name}=={version}"


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (pip)
    if done.returncode:
        sys.exit(
            f"{done.stdout}{done.stderr}bundle: pip cannot provide that (its words are above); no archive was made"
        )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _machine() -> str:
    return "x86_64" if platform.machine().lower() in {"x86_64", "amd64"} else "aarch64"


if __name__ == "__main__":
    main()

"""A clean environment beside this one: the worker as people install it, from its wheel, without the network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from support.processes import environment

ROOT = Path(__file__).parents[2]
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_BUILD_ISOLATION": "0"}
"""PIP_NO_BUILD_ISOLATION=0 is how pip spells `--no-build-isolation` in a variable."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the variables of a shell in which it is activated."""

    bin: Path

    def run(self, *command: str, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of it to its end."""
        return subprocess.run(  # noqa: S603 (our own commands)
            [str(self.bin / command[0]), *command[1:]],
            cwd=cwd,
            env=self.variables(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    def ok(self, *command: str, cwd: Path, stdin: str | None = None) -> str:
        """Run a command that must succeed; gives what it printed."""
        done = self.run(*command, cwd=cwd, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def variables(self) -> dict[str, str]:
        """Give the environment variables with which its commands are found first, and nothing of this checkout."""
        kept = {
            name: value for name, value in environment(**OFFLINE).items() if not name.startswith(("PYTEST", "PYTHON"))
        }
        return {**kept, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}


def new_environment(folder: Path) -> Environment:
    """Make an environment with the worker in it, installed from a wheel that is built for it."""
    wheels = folder / "wheels"
    venv.create(folder / "env", symlinks=os.name != "nt")
    made = Environment(folder / "env" / ("Scripts" if os.name == "nt" else "bin"))
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.iterdir()
    _pip("--python", str(made.bin / "python"), "install", "--no-deps", str(wheel))
    # What the worker needs comes from this environment; the checkout's own editable install is not read from there,
    # because only the lines of a .pth file in a site folder of the interpreter's count.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")}))
    here = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "of_the_tests.pth").write_text("\n".join(here) + "\n", encoding="utf-8")
    return made


def _pip(*arguments: str) -> None:
    done = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "-m", "pip", *arguments],
        env=environment(**OFFLINE),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""A machine of Debian's with the real systemd: machine.sh boots it in a second, and nothing of it is left after."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("machine.sh")
PATHS = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
BOOTED = 60.0


@dataclass(frozen=True)
class Machine:
    """A machine that runs."""

    first: int
    """The process that it calls 1."""

    def run(self, *command: str, stdin: str | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root, to its end."""
        return subprocess.run(  # noqa: S603 (the tests' own)
            ["nsenter", "--target", str(self.first), "--all", "env", "-i", PATHS, "LANG=C.UTF-8", *command],  # noqa: S607 (the same)
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *command: str, stdin: str | None = None, timeout: float = 300) -> str:
        """Run a command that must succeed; gives what it printed."""
        done = self.run(*command, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file, and the folders that it lies in."""
        self.ok("install", "-D", "-m", mode, "/dev/stdin", path, stdin=text)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Give what systemd says of a unit."""
        told = self.ok("systemctl", "show", unit, f"--property={','.join(properties)}")
        return dict(line.split("=", 1) for line in told.splitlines())

    def journal(self, unit: str) -> str:
        """Give all that a unit has written, and what systemd says of it."""
        return self.ok("journalctl", "--unit", unit, "--output=cat", "--no-pager")

    def in_its_network(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine's, with the other one's network."""
        return subprocess.run(  # noqa: S603 (the tests' own)
            ["nsenter", "--target", str(self.first), "--net", "--", *command],  # noqa: S607 (the same)
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def get(self, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask a server in it for JSON; posts `body` where there is one."""
        data = [] if body is None else ["--data", json.dumps(body)]
        done = self.in_its_network("curl", "-sS", "--fail-with-body", "--max-time", "10", *data, url)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    def answers(self, url: str) -> bool:
        """Whether a server answers there, and with a success."""
        return self.in_its_network("curl", "-fsS", "--max-time", "10", url).returncode == 0


@contextmanager
def machine(work: Path, *, below: Path = Path("/"), folder: Path | None = None) -> Iterator[Machine]:
    """Boot a machine while the block runs; `folder` is its /media/host, and everything else is a copy of `below`."""
    name = f"plw-{os.getpid()}-{work.name}"
    work.mkdir(parents=True, exist_ok=True)
    words = (work.parent / f"{work.name}.log").open("w+")
    with (
        words,
        _ended_with_us(
            ["bash", str(SCRIPT), name, str(below), str(work), *([str(folder)] if folder else [])], words.fileno()
        ) as outer,
    ):
        try:
            first = until(lambda: _systemd_in(outer), "systemd to be started", BOOTED)
            made = Machine(first)
            until(lambda: made.run("test", "-S", "/run/systemd/private").returncode == 0, "systemd to listen", BOOTED)
            # "degraded" is fine: what Debian starts beside is not what is tested.
            made.run("systemctl", "is-system-running", "--wait")
            yield made
        except AssertionError as error:
            words.seek(0)
            error.add_note(words.read())
            raise
        finally:
            _remove_groups(name, outer)


def until(true: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Wait until something is true; gives what it was. Generous: a busy machine is no failure."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.05)
    return found


@contextmanager
def _ended_with_us(command: Sequence[str], output: int) -> Iterator[int]:
    # unshare keeps the mounts apart; setpriv has the kernel end it all when the tests are killed.
    process = subprocess.Popen(  # noqa: S603 (the tests' own)
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", *command],  # noqa: S607 (the same)
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _systemd_in(outer: int) -> int | None:
    children = Path(f"/proc/{outer}/task/{outer}/children").read_text(encoding="ascii").split()
    for child in map(int, children):
        if Path(f"/proc/{child}/comm").read_text(encoding="utf-8").strip() == "systemd":
            return child
    return None


def _remove_groups(name: str, outer: int) -> None:
    """Kill what is left, and remove the control groups, the innermost first."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(outer, signal.SIGKILL)
    groups = [Path(controller, name) for controller in Path("/sys/fs/cgroup").iterdir()]

    def gone() -> bool:
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        return not any(group.exists() for group in groups)

    until(gone, "the machine's control groups to be empty")

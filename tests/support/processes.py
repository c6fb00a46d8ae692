"""The real command, as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

from . import leaks

COMMAND = (sys.executable, "-m", "product_live_worker")


def environment(**variables: str) -> dict[str, str]:
    """Give a user's environment, with these variables and none of the worker's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PLW_", "COV_", "COVERAGE"))}
    return {**kept, **variables}


def command(*arguments: str, cwd: Path, stdin: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the worker to its end."""
    done = subprocess.run(  # noqa: S603 (our own command)
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    leaks.tell(f"output of {' '.join(arguments)}", done.stdout + done.stderr)
    return done


@dataclass
class Running:
    """A process that runs, and what it has printed so far."""

    process: anyio.abc.Process
    lines: list[str] = field(default_factory=list)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; gives its exit code."""
        return await self.process.wait()

    async def address(self) -> str:
        """Wait until the worker says where it answers its operators; gives that."""
        while not (found := re.search(r'"address": "([^"]+)"', self.output)):  # noqa: ASYNC110 (the other side's)
            await anyio.sleep(0.005)
        return found[1]

    @property
    def output(self) -> str:
        """All that it has printed."""
        return "".join(self.lines)


@asynccontextmanager
async def running(
    *arguments: str, cwd: Path, variables: Mapping[str, str], program: Sequence[str] = COMMAND
) -> AsyncIterator[Running]:
    """Run a command while the block runs; it is killed at the end if it still does."""
    async with await anyio.open_process(
        [*program, *arguments], cwd=cwd, env=environment(**variables), stderr=subprocess.STDOUT
    ) as process:
        it = Running(process)

        async def read() -> None:
            assert process.stdout is not None
            async for chunk in process.stdout:
                it.lines.append(chunk.decode())

        async with anyio.create_task_group() as reading:
            reading.start_soon(read)
            try:
                yield it
            finally:
                if process.returncode is None:
                    process.kill()
        leaks.tell(f"output of {' '.join(arguments)}", it.output)

"""Processes that a benchmark starts, and what they use up (Linux: read from /proc)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Process:
    """A running process; what it prints is in the file `output`."""

    running: anyio.abc.Process
    output: Path

    def cpu(self) -> float:
        """Give the seconds of processor time that it has used."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Give its resident memory in MB."""
        line = next(line for line in self._proc("status").splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def _proc(self, name: str) -> str:
        if self.running.returncode is not None:
            raise RuntimeError(self.output.read_text(encoding="utf-8"))
        return Path(f"/proc/{self.running.pid}/{name}").read_text(encoding="utf-8")

    async def says(self, word: str) -> str:
        """Wait for a line with this word in it."""
        while self.running.returncode is None:
            with self.output.open(encoding="utf-8") as lines:
                for line in lines:
                    if word in line and line.endswith("\n"):
                        return line
            await anyio.sleep(0.02)
        raise RuntimeError(self.output.read_text(encoding="utf-8"))

    async def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self.running.returncode is None:
            self.running.kill()
        await self.running.wait()


@asynccontextmanager
async def started(*arguments: str, folder: Path, variables: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Run `python -m …` while the block runs, in an environment without settings of the worker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLW_")}
    here = os.pathsep.join(filter(None, [str(CHECKOUT), kept.get("PYTHONPATH", "")]))
    environment = {**kept, "PYTHONUNBUFFERED": "1", "PYTHONPATH": here, **(variables or {})}
    number = sum(1 for _ in folder.glob("*.out"))
    output = folder / f"{number}.out"
    with output.open("w") as written:
        running = await anyio.open_process(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    process = Process(running, output)
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            await process.kill()

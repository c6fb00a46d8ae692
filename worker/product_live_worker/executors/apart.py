"""A Python process beside the worker: how it is started and ended, and how the two speak."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from product_live_worker.executors.frames import HEAD, LONGEST, framed
from product_live_worker.model.context import Log

BOOT = (
    "import sys, json, importlib; sys.path[:] = json.loads(sys.argv[2]); "
    "importlib.import_module(sys.argv[3]).main(int(sys.argv[1]))"
)
OURS = ("PLW_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""What begins like this in the environment is the worker's own: settings, and its line to systemd."""
REAPED = 2.0
"""Seconds within which a killed process is usually gone; one that is not keeps its slot until it is."""
LONGEST_LINE = 10_000
PAGE = os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 4096
BROKEN = (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""How the end of a process is met."""


@dataclass(eq=False)
class Apart:
    """A process, and the pipes to it."""

    process: Process
    trouble: str = ""
    """What it did that it was killed for, in words."""

    def __post_init__(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 (asked for at its start)
        assert self.process.stderr is not None  # noqa: S101 (the same)
        self._says = BufferedByteReceiveStream(self.process.stdout)
        self._prints = BufferedByteReceiveStream(self.process.stderr)

    @classmethod
    async def start(cls, module: str) -> Self:
        """Start a process that runs `main` of this module; raises OSError."""
        # One whose start is interrupted would be nobody's.
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                [sys.executable, "-P", "-c", BOOT, str(os.getpid()), json.dumps(sys.path), module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if not name.upper().startswith(OURS)},
                start_new_session=True,
            )
        return cls(process)

    def runs(self) -> bool:
        """Whether it is there."""
        return self.process.returncode is None

    def kill(self, trouble: str = "") -> None:
        """End it at once, and all that it has started in its group."""
        self.trouble = self.trouble or trouble
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()

    async def dismiss(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin is not None  # noqa: S101 (asked for at its start)
        await self.process.stdin.aclose()
        await self.process.wait()

    async def end(self) -> None:
        """Kill it, and wait until it is gone; one that the kernel does not let go yet is left to it."""
        self.kill()
        with anyio.move_on_after(REAPED, shield=True):
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                if stream is not None:
                    await stream.aclose()
            await self.process.wait()

    def memory(self) -> int:
        """Give the bytes of memory that it occupies; 0 where that cannot be told."""
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE
        except (OSError, ValueError, IndexError):
            return 0

    async def tell(self, said: dict[str, Any]) -> None:
        """Say something to it; raises one of BROKEN."""
        assert self.process.stdin is not None  # noqa: S101 (asked for at its start)
        await self.process.stdin.send(framed(pickle.dumps(said)))

    async def hear(self) -> dict[str, Any]:
        """Give the next thing that it says; raises one of BROKEN, or ValueError for what is no sense."""
        (length,) = HEAD.unpack(await self._says.receive_exactly(HEAD.size))
        if length > LONGEST:
            self.kill(f"said {length} bytes at once")
            raise anyio.EndOfStream
        said = json.loads(await self._says.receive_exactly(length))
        if not isinstance(said, dict):
            raise ValueError(type(said).__name__)  # noqa: TRY004 (it is what was read that is wrong)
        return said

    async def log_prints(self, log: Log, words: str, mark: str = "") -> None:
        """Log what it prints, line by line, until it prints the mark, or to its end."""
        with contextlib.suppress(*BROKEN):
            while True:
                try:
                    line = await self._prints.receive_until(b"\n", LONGEST_LINE)
                except anyio.DelimiterNotFound:
                    line = await self._prints.receive(LONGEST_LINE)
                text = line.decode("utf-8", "replace").rstrip()
                if mark and text == mark:
                    break
                if text:
                    log.info(words, text=text)
        if rest := self._prints.buffer.decode("utf-8", "replace").strip() if not self.runs() else "":
            log.info(words, text=rest)

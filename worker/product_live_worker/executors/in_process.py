"""Runs a handler in a process of its own, which is killed when it is late, cancelled, or takes too much memory.

A process is kept for the next execution of its task: starting one costs half a second, and what it has opened stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from product_live_worker.executors.frames import HEAD, LONGEST, framed
from product_live_worker.model.execution import Outcome, Status

if TYPE_CHECKING:
    from product_live_worker.executors.perform import Work
    from product_live_worker.model.context import Context

BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from product_live_worker.executors.child import main; main(int(sys.argv[1]))"
)
OURS = ("PLW_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
"""What begins like this in the environment is the worker's own: settings, and its line to systemd."""
MEMORY_LOOK = 0.1
"""Seconds between two looks at a process's memory."""
LAST_WORDS = 1.0
"""Seconds in which what a process has printed must be read once it has ended."""
REAPED = 2.0
"""Seconds within which a killed process is usually gone; one that is not keeps its slot until it is."""
CLOSING = 5.0
"""Seconds that idle processes have at the end to close what they have opened."""
LONGEST_LINE = 10_000
PAGE = os.sysconf("SC_PAGESIZE") if hasattr(os, "sysconf") else 4096
LEVELS = {level: level for level in ("debug", "info", "warning", "error")}


class RaisedInProcess(Exception):
    """An exception that escaped a handler in its process; its text is the traceback from there."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


@dataclass(eq=False)
class _Child:
    """A process, and where it stands."""

    process: Process
    task: str
    begun: bool = False
    """Whether it has heard of the execution that it was given last."""
    trouble: str = ""
    """What it did that it was killed for, in words."""
    over_memory: bool = False
    given_up: bool = False
    idle_since: float = 0.0

    def __post_init__(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 (asked for at its start)
        assert self.process.stderr is not None  # noqa: S101 (the same)
        self.says = BufferedByteReceiveStream(self.process.stdout)
        self.prints = BufferedByteReceiveStream(self.process.stderr)

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
        self.given_up = True
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


@dataclass(eq=False)
class InProcess:
    """Processes, as many as the tasks' concurrency asks for; `close` ends them all."""

    on_end: Callable[[Work, str], None] = lambda _work, _why: None
    """Hears of each process that was ended during an execution, or ended by itself, and why: one word."""
    _children: set[_Child] = field(default_factory=set)
    _idle: dict[tuple[str, ...], list[_Child]] = field(default_factory=dict)

    def count(self) -> int:
        """Count the processes that there are, those that wait for an execution included."""
        return sum(child.runs() for child in self._children)

    def overdue(self, task: str) -> int:
        """Count the task's processes that were killed and are not gone yet."""
        return sum(child.task == task and child.given_up and child.runs() for child in self._children)

    async def run(self, work: Work) -> Outcome:
        """Give the handler's Outcome; when the caller is cancelled, the process is killed."""
        try:
            request = _request(work)
        except Exception as error:  # noqa: BLE001 (pickling asks whatever the settings are made of)
            work.failed(error)
            return _failed("handler_error", "The execution cannot be handed to a process: ", error)
        while True:
            try:
                child, is_new = await self._take(work)
            except OSError as error:
                return _failed("handler_crashed", "The handler's process cannot be started: ", error)
            outcome = await self._serve(child, work, request)
            if outcome is not None:
                return outcome
            if child.begun or is_new:
                self.on_end(work, "memory" if child.over_memory else "crash")
                return Outcome.failed("handler_crashed", _obituary(child))

    async def close(self) -> None:
        """End all processes; those that wait for an execution may close what they have opened."""
        idle = [child for children in self._idle.values() for child in children]
        self._idle.clear()
        with anyio.move_on_after(CLOSING, shield=True):
            async with anyio.create_task_group() as closing:
                for child in idle:
                    closing.start_soon(child.dismiss)
        for child in self._children:
            child.kill()
        for child in tuple(self._children):
            await self._end(child)

    async def _take(self, work: Work) -> tuple[_Child, bool]:
        idle = self._idle.get(_key(work), [])
        while idle:
            child = idle.pop()
            if child.runs():
                child.begun = False
                return child, False
            await self._end(child)
        # One whose start is interrupted would be nobody's.
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                [sys.executable, "-P", "-c", BOOT, str(os.getpid()), json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: value for name, value in os.environ.items() if not name.upper().startswith(OURS)},
                start_new_session=True,
            )
        child = _Child(process, work.context.task)
        self._children.add(child)
        return child, True

    async def _serve(self, child: _Child, work: Work, request: dict[str, Any]) -> Outcome | None:
        """Have the process run it; None when the process has died."""
        limit, mark = work.handler.memory_limit, secrets.token_hex(8)
        ended = anyio.Event()
        try:
            async with anyio.create_task_group() as beside:
                beside.start_soon(_log_prints, child, work.context, mark, ended)
                if limit:
                    beside.start_soon(_watch_memory, child, limit)
                outcome = await _converse(child, work, {**request, "mark": mark})
                if outcome is None:
                    with anyio.move_on_after(LAST_WORDS):
                        await child.process.wait()
                    child.kill("closed its connection to the worker" if child.runs() else "")
                with anyio.move_on_after(LAST_WORDS):
                    await ended.wait()
                beside.cancel_scope.cancel()
        except BaseException:
            await self._end(child)
            self.on_end(work, "late" if work.context.remaining() <= 0 else "cancelled")
            raise
        # What one execution has left in memory is not held against the next; what still prints is not told apart.
        if outcome is None or not ended.is_set() or (limit and child.memory() > limit / 2):
            await self._end(child)
        else:
            self._keep(child, _key(work))
        return outcome

    def _keep(self, child: _Child, key: tuple[str, ...]) -> None:
        child.idle_since = time.monotonic()
        self._idle.setdefault(key, []).append(child)

    async def _end(self, child: _Child) -> None:
        await child.end()
        # One that the kernel does not let go is counted until it is gone.
        self._children = {one for one in self._children if one is not child or one.runs()}


async def _converse(child: _Child, work: Work, request: dict[str, Any]) -> Outcome | None:
    """Hand an execution over and do what the process asks, until it says the Outcome; None when it has died."""
    try:
        await _tell(child, request)
        while True:
            (length,) = HEAD.unpack(await child.says.receive_exactly(HEAD.size))
            if length > LONGEST:
                child.kill(f"said {length} bytes at once")
                return None
            said = json.loads(await child.says.receive_exactly(length))
            if said["do"] == "end":
                return Outcome(Status(said["status"]), dict(said["output"]))
            await _do(child, work, said)
    except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        child.kill(f"said what makes no sense ({type(error).__name__})")
        return None


async def _do(child: _Child, work: Work, said: dict[str, Any]) -> None:
    match said["do"]:
        case "begun":
            child.begun = True
        case "log":
            fields = {str(name): value for name, value in said["fields"].items() if name != "event"}
            getattr(work.context.log, LEVELS[said["level"]])(str(said["event"]), **fields)
        case "failed":
            work.failed(RaisedInProcess(str(said["traceback"])))
        case "ask":
            answer, error = None, ""
            verb = work.context.verbs[said["verb"]]
            try:
                answer = await verb(said["argument"])
            except Exception as refused:  # noqa: BLE001 (whatever it is, it is the handler's to hear)
                error = f"{type(refused).__name__}: {refused}"
            await _tell(child, {"answer": answer, "error": error})
        case unknown:
            raise ValueError(unknown)


async def _tell(child: _Child, said: dict[str, Any]) -> None:
    assert child.process.stdin is not None  # noqa: S101 (asked for at its start)
    await child.process.stdin.send(framed(pickle.dumps(said)))


async def _log_prints(child: _Child, context: Context, mark: str, ended: anyio.Event) -> None:
    """Log what the process prints, line by line, until the mark that ends an execution, or its own end."""
    with contextlib.suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
        while True:
            try:
                line = await child.prints.receive_until(b"\n", LONGEST_LINE)
            except anyio.DelimiterNotFound:
                line = await child.prints.receive(LONGEST_LINE)
            text = line.decode("utf-8", "replace").rstrip()
            if text == mark:
                break
            if text:
                context.log.info("the handler printed", text=text)
    if rest := child.prints.buffer.decode("utf-8", "replace").strip() if not child.runs() else "":
        context.log.info("the handler printed", text=rest)
    ended.set()


async def _watch_memory(child: _Child, limit: int) -> None:
    while child.runs():
        if (used := child.memory()) > limit:
            child.over_memory = True
            child.kill(f"used {used / 1e6:.0f} MB of memory, more than its memory_limit of {limit / 1e6:g} MB,")
            return
        await anyio.sleep(MEMORY_LOOK)


def _obituary(child: _Child) -> str:
    code = child.process.returncode
    if child.trouble:
        return f"The handler's process {child.trouble} and was stopped."
    if code is None or code >= 0:
        return f"The handler's process ended with exit code {code} before it gave a result."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    more = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"The handler's process died by {name}{more}."


def _failed(code: str, what: str, error: Exception) -> Outcome:
    return Outcome.failed(code, f"{what}{type(error).__name__}: {error}"[:1000])


def _key(work: Work) -> tuple[str, ...]:
    return (work.context.task, work.handler.module, work.handler.name)


def _request(work: Work) -> dict[str, Any]:
    context = work.context
    names = ("execution_id", "task", "deadline", "settings", "idempotency_key", "checkpoint", "directory")
    return {
        "module": work.handler.module,
        "handler": work.handler.name,
        "raw": work.raw,
        # By itself: the classes that settings are made of can be read once the handler's module is there.
        "context": pickle.dumps({name: getattr(context, name) for name in names}),
        "verbs": tuple(context.verbs),
        "max_output": work.max_output,
    }

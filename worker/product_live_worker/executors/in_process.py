"""Runs a handler in a process of its own, which is killed when it is late, cancelled, or takes too much memory.

A process is kept for the next execution of its task: starting one costs half a second, and what it has opened stays.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from product_live_worker.executors.apart import BROKEN, Apart
from product_live_worker.executors.parcel import Listener, Parcel, listener_of, not_packed, outcome_of, packed
from product_live_worker.model.context import Log
from product_live_worker.model.execution import Outcome

if TYPE_CHECKING:
    from product_live_worker.executors.perform import Work

CHILD = "product_live_worker.executors.child"
MEMORY_LOOK = 0.1
"""Seconds between two looks at a process's memory."""
LAST_WORDS = 1.0
"""Seconds in which what a process has printed must be read once it has ended."""
CLOSING = 5.0
"""Seconds that idle processes have at the end to close what they have opened."""


@dataclass(eq=False)
class _Child:
    """A process, and where it stands."""

    apart: Apart
    task: str
    begun: bool = False
    """Whether it has heard of the execution that it was given last."""
    over_memory: bool = False
    given_up: bool = False
    idle_since: float = 0.0


@dataclass(eq=False)
class InProcess:
    """Processes, as many as the tasks' concurrency asks for; `close` ends them all."""

    on_end: Callable[[Work, str], None] = lambda _work, _why: None
    """Hears of each process that was ended during an execution, or ended by itself, and why: one word."""
    _children: set[_Child] = field(default_factory=set)
    _idle: dict[tuple[str, ...], list[_Child]] = field(default_factory=dict)

    def count(self) -> int:
        """Count the processes that there are, those that wait for an execution included."""
        return sum(child.apart.runs() for child in self._children)

    def overdue(self, task: str) -> int:
        """Count the task's processes that were killed and are not gone yet."""
        return sum(child.task == task and child.given_up and child.apart.runs() for child in self._children)

    def trouble(self) -> str:
        """Nothing stands in the way: a process that cannot be started fails its own execution."""
        return ""

    async def run(self, work: Work) -> Outcome:
        """Give the handler's Outcome; when the caller is cancelled, the process is killed."""
        try:
            parcel = packed(work)
        except Exception as error:  # noqa: BLE001 (pickling asks whatever the settings are made of)
            work.failed(error)
            return not_packed(error)

        def ended(why: str) -> None:
            self.on_end(work, "late" if why == "cancelled" and work.context.remaining() <= 0 else why)

        return await self.carry(parcel, listener_of(work), ended)

    async def carry(self, parcel: Parcel, listener: Listener, ended: Callable[[str], None]) -> Outcome:
        """Do as `run` does with an execution that is packed already; `ended` hears why its process was ended."""
        while True:
            try:
                child, is_new = await self._take(parcel)
            except OSError as error:
                why = f"The handler's process cannot be started: {type(error).__name__}: {error}"
                return Outcome.failed("handler_crashed", why[:1000])
            outcome = await self._serve(child, parcel, listener, ended)
            if outcome is not None:
                return outcome
            if child.begun or is_new:
                ended("memory" if child.over_memory else "crash")
                return Outcome.failed("handler_crashed", _obituary(child.apart))

    async def close(self) -> None:
        """End all processes; those that wait for an execution may close what they have opened."""
        await self.dismiss_idle()
        for child in self._children:
            child.apart.kill()
        for child in tuple(self._children):
            await self._end(child)

    async def dismiss_idle(self, longer_than: float = 0.0) -> None:
        """Let the processes end that have waited for so many seconds; they may close what they have opened."""
        before = time.monotonic() - longer_than
        dismissed = [child for children in self._idle.values() for child in children if child.idle_since <= before]
        for key, children in self._idle.items():
            self._idle[key] = [child for child in children if child not in dismissed]
        with anyio.move_on_after(CLOSING, shield=True):
            async with anyio.create_task_group() as closing:
                for child in dismissed:
                    closing.start_soon(child.apart.dismiss)
        for child in dismissed:
            await self._end(child)

    async def _take(self, parcel: Parcel) -> tuple[_Child, bool]:
        idle = self._idle.get(_key(parcel), [])
        while idle:
            child = idle.pop()
            if child.apart.runs():
                child.begun = False
                return child, False
            await self._end(child)
        child = _Child(await Apart.start(CHILD), parcel["task"])
        self._children.add(child)
        return child, True

    async def _serve(
        self, child: _Child, parcel: Parcel, listener: Listener, on_end: Callable[[str], None]
    ) -> Outcome | None:
        """Have the process run it; None when the process has died."""
        limit, mark = parcel["memory_limit"], secrets.token_hex(8)
        ended = anyio.Event()
        try:
            async with anyio.create_task_group() as beside:
                beside.start_soon(_log_prints, child.apart, listener.log, mark, ended)
                if limit:
                    beside.start_soon(_watch_memory, child, limit)
                outcome = await _converse(child, parcel, listener, mark)
                if outcome is None:
                    with anyio.move_on_after(LAST_WORDS):
                        await child.apart.process.wait()
                    child.apart.kill("closed its connection to the worker" if child.apart.runs() else "")
                with anyio.move_on_after(LAST_WORDS):
                    await ended.wait()
                beside.cancel_scope.cancel()
        except BaseException:
            await self._end(child)
            on_end("cancelled")
            raise
        # What one execution has left in memory is not held against the next; what still prints is not told apart.
        if outcome is None or not ended.is_set() or (limit and child.apart.memory() > limit / 2):
            await self._end(child)
        else:
            child.idle_since = time.monotonic()
            self._idle.setdefault(_key(parcel), []).append(child)
        return outcome

    async def _end(self, child: _Child) -> None:
        child.given_up = True
        await child.apart.end()
        # One that the kernel does not let go is counted until it is gone.
        self._children = {one for one in self._children if one is not child or one.apart.runs()}


async def _converse(child: _Child, parcel: Parcel, listener: Listener, mark: str) -> Outcome | None:
    """Hand an execution over and do what the process asks, until it says the Outcome; None when it has died."""
    try:
        await child.apart.tell({**parcel, "mark": mark})
        while True:
            said = await child.apart.hear()
            if said["do"] == "end":
                return outcome_of(said)
            if said["do"] == "begun":
                child.begun = True
            elif (answer := await listener.hear(said)) is not None:
                await child.apart.tell(answer)
    except BROKEN:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        child.apart.kill(f"said what makes no sense ({type(error).__name__})")
        return None


async def _log_prints(apart: Apart, log: Log, mark: str, ended: anyio.Event) -> None:
    await apart.log_prints(log, "the handler printed", mark)
    ended.set()


async def _watch_memory(child: _Child, limit: int) -> None:
    while child.apart.runs():
        if (used := child.apart.memory()) > limit:
            child.over_memory = True
            child.apart.kill(f"used {used / 1e6:.0f} MB of memory, more than its memory_limit of {limit / 1e6:g} MB,")
            return
        await anyio.sleep(MEMORY_LOOK)


def _obituary(apart: Apart) -> str:
    code = apart.process.returncode
    if apart.trouble:
        return f"The handler's process {apart.trouble} and was stopped."
    if code is None or code >= 0:
        return f"The handler's process ended with exit code {code} before it gave a result."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    more = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"The handler's process died by {name}{more}."


def _key(parcel: Parcel) -> tuple[str, ...]:
    return (parcel["task"], parcel["module"], parcel["handler"])

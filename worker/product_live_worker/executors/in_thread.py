"""Runs a `def` handler in a thread. A thread cannot be stopped: one that ignores its deadline stays, and is counted."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread

if TYPE_CHECKING:
    from product_live_worker.executors.perform import Call, Work
    from product_live_worker.executors.resources import Resources
    from product_live_worker.model.context import Context, Verb
    from product_live_worker.model.execution import Outcome


@dataclass(eq=False)
class _Call:
    task: str
    runs: bool = False
    given_up: bool = False
    asked: set[anyio.CancelScope] = field(default_factory=set)
    """What the worker does for it just now; that ends with its time, and so mostly does the thread."""

    async def ask(self, verb: Verb, argument: Any) -> Any:
        """Do something for the thread, in the event loop, unless it was given up."""
        with anyio.CancelScope() as scope:
            self.asked.add(scope)
            try:
                if not self.given_up:
                    return await verb(argument)
            finally:
                self.asked.discard(scope)
        raise RuntimeError("the execution is over; nothing more is done for it")


class InThread:
    """Threads, as many as the tasks' concurrency asks for."""

    def __init__(self, resources: Resources, on_return: Callable[[], None] = lambda: None) -> None:
        """`resources` are what handlers share; `on_return` is called when an overdue thread has ended after all."""
        self._resources = resources
        # anyio's own limiter stops at 40 threads; how many may run is for the tasks' concurrency to say.
        self._threads = anyio.CapacityLimiter(math.inf)
        self._on_return = on_return
        self._overdue: set[_Call] = set()
        self._lock = threading.Lock()

    async def run(self, work: Work) -> Outcome:
        """Give the handler's Outcome; when the caller is cancelled, the thread is left behind and counted."""
        return await work.outcome(lambda made: self._call(made, work.context), self._resources)

    async def _call(self, made: Call, context: Context) -> Any:
        call = _Call(context.task)
        # In a thread, the verbs of the context are ordinary calls that end when the loop has done them.
        context = replace(context, call=lambda verb, argument: anyio.from_thread.run(call.ask, verb, argument))

        def work() -> Any:
            with self._lock:
                if call.given_up:
                    return None
                call.runs = True
            try:
                return made(context)
            except GeneratorExit as error:
                # Thrown into a coroutine it would close all that wait, up to the daemon.
                raise RuntimeError("the handler raised GeneratorExit") from error
            finally:
                self._ended(call)

        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
        except anyio.get_cancelled_exc_class():
            # A thread that was not started yet never will be, and one that has just ended is not late.
            with self._lock:
                call.given_up = True
                if call.runs:
                    self._overdue.add(call)
            for scope in tuple(call.asked):
                scope.cancel()
            raise

    def overdue(self, task: str) -> int:
        """Count the task's threads that run on after their deadline."""
        return sum(call.task == task for call in self._overdue if call.runs)

    def trouble(self) -> str:
        """Nothing stands in the way: threads are here."""
        return ""

    def stuck(self) -> int:
        """Count all threads that run on after their deadline."""
        return sum(call.runs for call in self._overdue)

    def _ended(self, call: _Call) -> None:
        with self._lock:
            call.runs = False
        if call.given_up:
            _on_loop(self._return, call)

    def _return(self, call: _Call) -> None:
        self._overdue.discard(call)
        self._on_return()


def _on_loop(function: Callable[..., None], call: _Call) -> None:
    try:
        anyio.from_thread.run_sync(function, call)
    except RuntimeError:
        # The loop is gone: the daemon has left, and nobody counts any more.
        return

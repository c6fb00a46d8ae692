"""Threads that ignore their deadline: they cannot be stopped, so they are counted until they end."""

from __future__ import annotations

import threading

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from product_live_worker import Handler
from product_live_worker.executors.in_thread import InThread
from product_live_worker.executors.on_loop import OnLoop
from product_live_worker.executors.resources import Resources
from product_live_worker.model.handler import handler
from support.contexts import some_work

pytestmark = pytest.mark.anyio


class Sleeper:
    """A handler that cannot be interrupted, and says when it has begun."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.wake = threading.Event()

    def handler(self, error: BaseException | None = None) -> Handler:
        """Give it as a handler; woken, it ends by this error."""

        @handler("sleeper")
        def sleep(_: dict) -> None:  # type: ignore[type-arg]
            anyio.from_thread.run_sync(self.begun.set)
            self.wake.wait()
            if error is not None:
                raise error

        return sleep

    async def leave_behind(self, threads: InThread, task: str = "sleeper", error: BaseException | None = None) -> None:
        """Start it, and give it up as soon as it has begun."""
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, some_work(self.handler(error), task))
            await self.begun.wait()
            group.cancel_scope.cancel()


@pytest.mark.parametrize("error", [None, ValueError("late"), SystemExit()])
async def test_a_thread_that_ignores_its_end_is_counted_until_it_ends(error: BaseException | None) -> None:
    """A late thread holds its task's slot as long as it runs, however it ends, and its return is told."""
    returned = anyio.Event()
    threads = InThread(Resources(), on_return=returned.set)
    sleeper = Sleeper()
    await sleeper.leave_behind(threads, error=error)
    assert (threads.overdue("sleeper"), threads.overdue("other"), threads.stuck()) == (1, 0, 1)
    sleeper.wake.set()
    await returned.wait()
    assert (threads.overdue("sleeper"), threads.stuck()) == (0, 0)


async def test_late_threads_are_counted_by_task() -> None:
    """One task's late threads take no slot of another's."""
    returns = anyio.Semaphore(0)
    threads = InThread(Resources(), on_return=returns.release)
    sleepers = {task: [Sleeper() for _ in range(number)] for task, number in (("a", 1), ("b", 2))}
    for task, several in sleepers.items():
        for sleeper in several:
            await sleeper.leave_behind(threads, task)
    assert (threads.overdue("a"), threads.overdue("b"), threads.stuck()) == (1, 2, 3)
    for sleeper in [*sleepers["a"], *sleepers["b"]]:
        sleeper.wake.set()
        await returns.acquire()
    assert threads.stuck() == 0


async def test_a_thread_that_ends_in_time_is_never_counted() -> None:
    """Only what was given up can be late."""
    threads = InThread(Resources(), on_return=lambda: pytest.fail("nothing was late"))
    sleeper = Sleeper()
    async with anyio.create_task_group() as group:
        group.start_soon(threads.run, some_work(sleeper.handler(), "sleeper"))
        await sleeper.begun.wait()
        assert threads.stuck() == 0
        sleeper.wake.set()
    assert threads.stuck() == 0


async def test_as_many_threads_run_as_tasks_ask_for() -> None:
    """How many run at once is for the tasks' concurrency to say, not for a library's default of forty."""
    threads = InThread(Resources())
    sleepers = [Sleeper() for _ in range(45)]
    async with anyio.create_task_group() as group:
        for sleeper in sleepers:
            group.start_soon(threads.run, some_work(sleeper.handler(), "sleeper"))
        for sleeper in sleepers:
            await sleeper.begun.wait()
        for sleeper in sleepers:
            sleeper.wake.set()


def test_a_thread_that_outlives_the_loop_ends_quietly() -> None:
    """When the daemon has left, nobody counts any more, and the thread's end is no error."""
    threads = InThread(Resources(), on_return=lambda: pytest.fail("nobody is there to hear it"))
    begun = threading.Event()
    wake = threading.Event()
    thread: list[threading.Thread] = []

    @handler("sleeper")
    def sleep(_: dict) -> None:  # type: ignore[type-arg]
        thread.append(threading.current_thread())
        begun.set()
        wake.wait()

    async def leave() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, some_work(sleep, "sleeper"))
            await anyio.to_thread.run_sync(begun.wait)
            group.cancel_scope.cancel()

    anyio.run(leave)
    wake.set()
    thread[0].join(10)
    assert not thread[0].is_alive()
    assert threads.stuck() == 0


def test_nothing_is_ever_late_on_the_loop() -> None:
    """A coroutine ends when it is cancelled."""
    assert OnLoop(Resources()).overdue("any") == 0

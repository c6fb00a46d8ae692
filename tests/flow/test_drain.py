"""The end of a worker: what runs is finished or ended by its policy, and what is settled is reported."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from product_live_worker import handler, sandbox
from product_live_worker.model.execution import State
from product_live_worker.telemetry.events import DrainTooShort, TasksServed
from support.workers import add_task, new_world, running_worker, until

pytestmark = pytest.mark.anyio


async def test_a_drain_lets_what_runs_end_and_be_reported(tmp_path: Path) -> None:
    """A handler that ends within the drain's time is reported as if nothing had happened; nothing new is claimed."""
    release, running = anyio.Event(), anyio.Event()

    @handler("slow", concurrency=2)
    async def slow(input: dict) -> dict:  # type: ignore[type-arg]  # noqa: ARG001
        running.set()
        await release.wait()
        return {"done": True}

    async with running_worker([slow], tmp_path) as worker:
        (first,) = worker.submit("slow", {})
        await running.wait()
        worker.stop.request("test")
        await until(lambda: bool(worker.daemon.health.draining))
        (second,) = worker.submit("slow", {})
        release.set()
        await worker.ended.wait()
    assert (first.status, first.output) == ("COMPLETED", {"done": True})
    assert second.status == "SCHEDULED"


async def test_a_drain_that_cannot_wait_for_its_handlers_is_told_once(tmp_path: Path) -> None:
    """One line names each task that may run for longer than a stop waits, both figures, what follows, what to set."""

    @handler("long", timeout=90)
    async def long(input: dict) -> None: ...  # type: ignore[type-arg]

    @handler("again", timeout=45, on_crash="rerun")
    async def again(input: dict) -> None: ...  # type: ignore[type-arg]

    @handler("short", timeout=30)
    async def short(input: dict) -> None: ...  # type: ignore[type-arg]

    world = new_world("long", "short")
    async with running_worker([long, again, short], tmp_path, world=world) as worker:
        await until(worker.daemon.catalogue.loaded.is_set)
        (told,) = worker.heard(DrainTooShort)
        assert told.handlers == ("long may run for 90 s, and after 30 s is FAILED as cancelled",)
        assert (told.drain_seconds, "drain.timeout to 90s" in told.advice) == (30, True)
        # Again only when there is something new to say.
        worker.daemon.catalogue.problems = ("something else",)
        await worker.daemon.catalogue._refresh()  # noqa: SLF001 (its next turn is minutes away)
        assert len(worker.heard(TasksServed)) == 2
        assert worker.heard(DrainTooShort) == [told]
        add_task(world, "again")
        worker.daemon.journal.task_list.outdate()
        await worker.daemon.catalogue._refresh()  # noqa: SLF001 (the same)
        (_, both) = worker.heard(DrainTooShort)
        assert both.handlers[1:] == ("again may run for 45 s, and after 30 s is run again by the next start",)


async def test_a_drain_need_not_wait_for_what_goes_on_at_the_next_start(tmp_path: Path) -> None:
    """A connector waits for hours: neither it nor its timeout is spoken of, unless its section says to fail it."""

    @handler("remote", timeout=14700, on_crash="rerun", on_repeat="adopt")
    async def remote(input: dict) -> None: ...  # type: ignore[type-arg]

    @handler("long", timeout=90)
    async def long(input: dict) -> None: ...  # type: ignore[type-arg]

    tasks = {"long": {}, "remote": {}, "strict": {"handler": "remote", "on_crash": "fail"}}
    for keys, advice in ((("remote",), ""), (("remote", "long"), "90s"), (("remote", "long", "strict"), "14700s")):
        some = {key: tasks[key] for key in keys}
        async with running_worker([long, remote], tmp_path / advice, world=new_world(*keys), tasks=some) as worker:
            await until(worker.daemon.catalogue.loaded.is_set)
        told = worker.heard(DrainTooShort)
        assert [(len(one.handlers), f"to {advice}," in one.advice) for one in told] == [(len(keys) - 1, True)] * bool(
            advice
        )


async def test_a_drain_that_is_long_enough_is_not_spoken_of(tmp_path: Path) -> None:
    """Who has set a drain as long as the handlers' timeouts reads nothing of it."""

    @handler("short", timeout=30)
    async def short(input: dict) -> None: ...  # type: ignore[type-arg]

    async with running_worker([short], tmp_path) as worker:
        await until(worker.daemon.catalogue.loaded.is_set)
    assert worker.heard(DrainTooShort) == []


async def test_at_the_drains_deadline_a_handler_fails_as_cancelled(tmp_path: Path) -> None:
    """What still runs then is cancelled and reported FAILED with code `cancelled`, so that no pipeline hangs."""

    @handler("endless")
    async def endless(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        await anyio.sleep_forever()

    async with running_worker([endless], tmp_path, drain={"timeout": 0.1}) as worker:
        (execution,) = worker.submit("endless", {})
        await until(lambda: worker.daemon.journal.total_in_hand() == 1)
        await worker.drain()
    assert (execution.status, execution.output["code"]) == ("FAILED", "cancelled")


async def test_at_the_drains_deadline_a_rerunnable_one_is_left_for_the_next_start(tmp_path: Path) -> None:
    """A handler with on_crash="rerun" is not reported at the deadline; the next worker runs it again."""
    world, runs = new_world("patient"), 0

    @handler("patient", on_crash="rerun")
    async def patient(input: dict) -> dict:  # type: ignore[type-arg]  # noqa: ARG001
        nonlocal runs
        runs += 1
        if runs == 1:
            await anyio.sleep_forever()
        return {"runs": runs}

    async with sandbox.serve(world) as url:
        async with running_worker([patient], tmp_path, world=world, url=url, drain={"timeout": 0.1}) as worker:
            (execution,) = worker.submit("patient", {})
            await until(lambda: runs == 1)
            await worker.drain()
            assert execution.status == "IN_PROGRESS"
        async with running_worker([patient], tmp_path, world=world, url=url):
            await until(lambda: execution.status == "COMPLETED")
    assert execution.output == {"runs": 2}


async def test_what_could_not_be_reported_is_reported_by_the_next_start(tmp_path: Path) -> None:
    """A result that the platform did not take before the worker ended is sent by the next one."""
    world = new_world("quick")

    @handler("quick")
    async def quick(input: dict) -> dict:  # type: ignore[type-arg]  # noqa: ARG001
        return {"done": True}

    faults = sandbox.Faults()
    faults.extend([{"kind": "status", "status": 503, "operations": ["update_execution"]}])
    async with sandbox.serve(world, faults=faults) as url:
        async with running_worker([quick], tmp_path, world=world, url=url, drain={"timeout": 0.1}) as worker:
            (execution,) = worker.submit("quick", {})
            await until(lambda: worker.daemon.journal.reports_waiting() == 1)
            row = next(iter(worker.daemon.journal.open_executions()))
            assert row.state is State.SETTLED
        assert execution.status == "IN_PROGRESS"
        faults.clear()
        async with running_worker([quick], tmp_path, world=world, url=url):
            await until(lambda: execution.status == "COMPLETED")
    assert execution.output == {"done": True}

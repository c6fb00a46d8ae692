"""What a worker does with the work that a dead one left, and with work that it has seen before."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_handlers.power import power
from product_live_worker import Context, handler, sandbox
from product_live_worker.model.errors import JournalUnwritable
from product_live_worker.model.execution import Execution as Row
from product_live_worker.model.execution import State
from product_live_worker.sandbox.records import Execution
from product_live_worker.telemetry.events import ExecutionRecovered
from support.journals import an_execution, in_state, opened
from support.workers import new_world, running_worker, until

pytestmark = pytest.mark.anyio


@handler("fragile")
async def fragile(input: dict) -> dict:  # type: ignore[type-arg]
    """Be one that must not be run twice."""
    return {"ran": input.get("turn")}


@handler("sturdy", on_crash="rerun")
async def sturdy(input: dict, context: Context) -> dict:  # type: ignore[type-arg]  # noqa: ARG001
    """Be one that may be run again, and knows how far it had come."""
    return {"from": dict(context.checkpoint or {})}


async def left_behind(
    path: Path,
    url: str,
    world: sandbox.World,
    task: str,
    *,
    state: State = State.RUNNING,
    deaths: int = 0,
    **fields: Any,
) -> Execution:
    """Leave an execution in the journal as a worker that was killed `deaths` times before would."""
    execution = world.submit(task, {}, time.monotonic())
    identity = world.task_called(task).id
    world.poll(identity, time.monotonic())
    now = time.time()
    row = an_execution(
        id=execution.id, task=task, task_id=identity, input={}, crashes=deaths, **{"claimed_at": now, **fields}
    )
    async with opened(path / "worker.db", platform=url) as journal:
        await in_state(journal, state, row)
    return execution


async def recovered(path: Path, task: str, **left: Any) -> tuple[Execution, list[str]]:
    """Start a worker on what was left behind, and give how that ended."""
    world = new_world(task)
    async with sandbox.serve(world) as url:
        execution = await left_behind(path, url, world, task, **left)
        async with running_worker([fragile, sturdy], path, world=world, url=url) as worker:
            await until(lambda: bool(execution.patches) and worker.daemon.journal.unreported() == 0)
    return execution, [event.decision for event in worker.heard(ExecutionRecovered)]


async def test_what_was_running_fails_as_restarted_by_default(tmp_path: Path) -> None:
    """Whether its work was done nobody knows: it is reported FAILED at once, and the platform's own policy decides."""
    execution, decisions = await recovered(tmp_path, "fragile")
    assert (execution.status, execution.output["code"], decisions) == ("FAILED", "worker_restarted", ["failed"])


async def test_what_may_be_run_again_is_run_from_its_checkpoint(tmp_path: Path) -> None:
    """With on_crash="rerun" the handler is called again, with what it saved last."""
    execution, decisions = await recovered(tmp_path, "sturdy", checkpoint={"step": 3})
    assert (execution.output, decisions) == ({"from": {"step": 3}}, ["rerun"])


async def test_what_killed_its_worker_too_often_is_quarantined(tmp_path: Path) -> None:
    """After state.max_crashes deaths it is reported without being run again."""
    execution, decisions = await recovered(tmp_path, "sturdy", deaths=2)
    assert (execution.status, execution.output["code"], decisions) == ("FAILED", "quarantined", ["quarantined"])


async def test_what_was_claimed_and_never_started_is_simply_run(tmp_path: Path) -> None:
    """A death before the start costs nothing, whatever the policy."""
    execution, decisions = await recovered(tmp_path, "fragile", state=State.CLAIMED)
    assert (execution.status, decisions) == ("COMPLETED", [])


async def test_what_the_platform_has_ended_already_is_closed(tmp_path: Path) -> None:
    """A row that was running, but is final at the platform, is closed without a report."""
    world = new_world("fragile")
    async with sandbox.serve(world) as url:
        execution = await left_behind(tmp_path, url, world, "fragile")
        world.update(
            execution.id, {"id": execution.id, "status": "COMPLETED", "output": {"by": "hand"}}, time.monotonic()
        )
        async with running_worker([fragile], tmp_path, world=world, url=url) as worker:
            await until(lambda: bool(worker.heard(ExecutionRecovered)))
    assert [event.decision for event in worker.heard(ExecutionRecovered)] == ["closed"]
    assert execution.output == {"by": "hand"}


async def test_recovery_is_patient_with_a_platform_that_is_away(tmp_path: Path) -> None:
    """Before anything is decided the platform is asked, again if need be."""
    world, faults = new_world("fragile"), sandbox.Faults()
    faults.add("status", status=503, operations=["read_execution"], count=1)
    async with sandbox.serve(world, faults=faults) as url:
        execution = await left_behind(tmp_path, url, world, "fragile")
        async with running_worker([fragile], tmp_path, world=world, url=url):
            await until(lambda: execution.status == "FAILED")
    assert execution.output["code"] == "worker_restarted"


async def test_a_checkpoint_is_durable_when_it_returns(tmp_path: Path) -> None:
    """On the loop as in a thread, what was saved is in the journal before the handler goes on."""
    saved: list[Any] = []
    look = anyio.Event()

    @handler("looping")
    async def looping(input: dict, context: Context) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        await context.save_checkpoint({"step": 1})
        look.set()
        await anyio.sleep_forever()

    @handler("threaded")
    def threaded(input: dict, context: Context) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        context.save_checkpoint({"step": 2})

    async with running_worker([looping, threaded], tmp_path, drain={"timeout": 0.1}) as worker:
        (first,) = worker.submit("looping", {})
        await look.wait()
        row = worker.daemon.journal.get(first.id)
        assert row is not None
        saved.append(row.checkpoint)
        await worker.run("threaded", {})
    assert saved == [{"step": 1}]


@pytest.mark.parametrize(("on_repeat", "runs"), [("run", 2), ("adopt", 1), ("refuse", 1)])
async def test_a_retry_by_the_platform_is_a_repeat_of_the_same_work(tmp_path: Path, on_repeat: Any, runs: int) -> None:
    """It comes under a new id with the same key; the handler's on_repeat says whether it is run, adopted or refused."""
    keys: list[str] = []

    @handler("counted", on_repeat=on_repeat)
    async def counted(input: dict, context: Context) -> dict:  # type: ignore[type-arg]  # noqa: ARG001
        keys.append(context.idempotency_key)
        return {"run": len(keys)}

    async with running_worker([counted], tmp_path) as worker:
        given = {"order": 7, "eventCorrelationId": "job-1"}
        (first,) = await worker.run("counted", given)
        (again,) = await worker.run("counted", given)
        (other,) = await worker.run("counted", {**given, "order": 8})
    assert len(keys) == runs + 1
    assert len(set(keys)) == 2
    assert (first.output, other.status) == ({"run": 1}, "COMPLETED")
    if on_repeat == "refuse":
        assert again.output["code"] == "repeated"
    else:
        assert again.output == {"run": runs}


async def test_whether_it_is_a_repeat_is_asked_until_the_journal_answers(tmp_path: Path) -> None:
    """A file that is locked for a while is no reason to run what must not be run again."""
    runs = 0

    @handler("once", on_repeat="refuse")
    async def once(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        nonlocal runs
        runs += 1

    async with running_worker([once], tmp_path) as worker:
        await worker.run("once", {"eventCorrelationId": "job-1"})
        journal, asked = worker.daemon.journal, 0
        earlier = journal.earlier

        async def at_the_third_time(execution: Row) -> Row | None:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise JournalUnwritable("the journal cannot be written: database is locked")
            return await earlier(execution)

        journal.earlier = at_the_third_time  # type: ignore[method-assign]  # the file would have to be locked for 10 s
        (again,) = await worker.run("once", {"eventCorrelationId": "job-1"})
    assert (runs, again.output["code"]) == (1, "repeated")


async def test_a_repeat_of_what_still_runs_waits_for_it(tmp_path: Path) -> None:
    """The platform gave up waiting and asks again while the handler is still at it: both end with the one outcome."""
    runs, release = 0, anyio.Event()

    @handler("slow", concurrency=2, on_repeat="adopt")
    async def slow(input: dict) -> dict:  # type: ignore[type-arg]  # noqa: ARG001
        nonlocal runs
        runs += 1
        await release.wait()
        return {"runs": runs}

    async with running_worker([slow], tmp_path) as worker:
        first, second = worker.submit("slow", *({"eventCorrelationId": "job-1"} for _ in range(2)))
        await until(lambda: worker.daemon.journal.in_hand("slow") == 2)
        # However long it waits, nothing is wrong with the worker, and nobody should restart it.
        journal, now = worker.daemon.journal, worker.daemon.journal.now
        journal.now = lambda: now() + 3600
        await until(lambda: all(check.ok for check in worker.daemon.health.live() + worker.daemon.health.ready()))
        assert journal.in_hand("slow") == 2
        release.set()
        await until(lambda: first.status == second.status == "COMPLETED")
    assert first.output == second.output == {"runs": 1}


async def test_a_worker_that_lost_its_lease_ends_what_it_no_longer_holds(tmp_path: Path) -> None:
    """Taken over by another, the handler is cancelled, nothing of it is settled here, and the worker goes on."""
    started, cancelled = anyio.Event(), anyio.Event()

    @handler("long", concurrency=2)
    async def long(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with running_worker([long, fragile], tmp_path, state={"lease": 0.6}) as worker:
        (execution,) = worker.submit("long", {})
        # Taken before it runs, it would not be run at all.
        await started.wait()
        async with opened(tmp_path / "worker.db", platform=worker.url) as thief:
            await thief._do(lambda connection: connection.exec_driver_sql("DELETE FROM holders"))  # noqa: SLF001
            await thief.take_over()
            await cancelled.wait()
        assert execution.patches == []
        await worker.run("fragile", {"turn": 1})


async def test_workers_on_one_database_divide_the_idle_polls(tmp_path: Path) -> None:
    """A second worker halves the first one's idle polls within a lease, and leaves them to it when it goes."""
    state = {"lease": 1.0}
    async with running_worker([power], tmp_path, state=state) as one:
        await until(lambda: bool(one.daemon.catalogue.tasks))
        alone = 60 / 25
        async with running_worker([power], tmp_path, world=one.world, url=one.url, state=state):
            await until(lambda: one.daemon.schedule.interval("power") == 2 * alone)
        await until(lambda: one.daemon.schedule.interval("power") == alone)

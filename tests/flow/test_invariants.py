"""What never happens (ARCHITECTURE.md), each shown on the real daemon."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from product_live_handlers.power import power
from product_live_worker import handler, sandbox
from product_live_worker.model.execution import State
from product_live_worker.telemetry.events import ExecutionClaimed, TaskPolled
from support.workers import new_world, running_worker, until

pytestmark = pytest.mark.anyio


async def test_a_poll_in_the_air_at_the_stop_is_awaited_and_its_claim_served(tmp_path: Path) -> None:
    """A stop while a poll's answer is under way loses nothing: the claim is journalled, run and reported."""
    world, faults = new_world("power"), sandbox.Faults()
    faults.add("delay", seconds=0.5, before="answer", operations=["poll"])
    async with running_worker([power], tmp_path, world=world, faults=faults) as worker:
        (execution,) = worker.submit("power", {"power": 4})
        await until(lambda: execution.status == "IN_PROGRESS")
        assert worker.heard(ExecutionClaimed) == []
        await worker.drain()
    assert (execution.status, execution.output) == ("COMPLETED", {"result": 16})


async def test_a_task_whose_slots_are_full_is_not_polled(tmp_path: Path) -> None:
    """Each claim had a free slot when its poll was sent."""
    held: list[int] = []

    @handler("counted", concurrency=3)
    async def counted(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        await anyio.sleep(0.02)

    world = new_world("counted", limit=0)
    async with running_worker([counted], tmp_path, world=world, budget={"requests_per_minute": 0}) as worker:
        poll = world.poll

        def watched(task_id: str, now: float) -> object:
            held.append(worker.daemon.journal.in_hand("counted"))
            return poll(task_id, now)

        world.poll = watched  # type: ignore[method-assign, assignment]  # the server's side is watched
        await worker.run("counted", *({} for _ in range(30)))
    assert max(held) <= 2


async def test_an_execution_of_another_platform_is_left_alone(tmp_path: Path) -> None:
    """Two accounts in one journal: a worker of the one neither reports nor runs what the other has left."""
    ours, theirs = new_world("power"), new_world("power")
    faults = sandbox.Faults()
    faults.add("status", status=503, operations=["update_execution"])
    async with sandbox.serve(theirs, faults=faults) as url:
        async with running_worker([power], tmp_path, world=theirs, url=url, drain={"timeout": 0.1}) as worker:
            (left,) = worker.submit("power", {"power": 1})
            await until(lambda: worker.daemon.journal.reports_waiting() == 1)
        async with running_worker([power], tmp_path, world=ours) as worker:
            assert worker.daemon.journal.unreported() == 0
            await worker.run("power", {"power": 2})
        faults.clear()
        async with running_worker([power], tmp_path, world=theirs, url=url):
            await until(lambda: left.status == "COMPLETED")
    assert len(ours.executions) == 1


async def test_the_same_execution_offered_again_is_not_run_twice(tmp_path: Path) -> None:
    """An execution that the worker has in hand already is not started a second time."""
    runs, release = 0, anyio.Event()

    @handler("once", concurrency=2)
    async def once(input: dict) -> dict:  # type: ignore[type-arg]  # noqa: ARG001
        nonlocal runs
        runs += 1
        await release.wait()
        return {"runs": runs}

    async with running_worker([once], tmp_path) as worker:
        (execution,) = worker.submit("once", {})
        await until(lambda: runs == 1)
        # The trap of a heartbeat, by somebody else's hand: IN_PROGRESS puts the execution back into the queue.
        worker.world.update(execution.id, {"id": execution.id, "status": "IN_PROGRESS", "output": {}}, 0.0)
        hits = sum(polled.outcome == "hit" for polled in worker.heard(TaskPolled))
        await until(lambda: sum(polled.outcome == "hit" for polled in worker.heard(TaskPolled)) > hits)
        release.set()
        await until(lambda: execution.status == "COMPLETED")
    assert execution.output == {"runs": 1}


async def test_a_settled_outcome_never_changes(tmp_path: Path) -> None:
    """However often its report fails, an execution is only ever reported with its first outcome."""
    faults = sandbox.Faults()
    faults.add("status", status=503, effect=False, operations=["update_execution"], count=2)
    bodies: list[object] = []
    async with running_worker([power], tmp_path, faults=faults) as worker:
        (execution,) = worker.submit("power", {"power": 4})
        await until(lambda: worker.daemon.journal.reports_waiting() == 1)
        row = worker.daemon.journal.get(execution.id)
        assert row is not None
        assert row.state is State.SETTLED
        bodies.append(row.outcome)
        await until(lambda: execution.status == "COMPLETED")
    assert [patch.output for patch in execution.patches] == [{"result": 16}]


async def test_a_poll_in_the_air_counts_as_a_report_that_may_be_owed(tmp_path: Path) -> None:
    """Never claim what cannot be reported: overlapping polls leave as many slots free as they may bring executions."""
    world = new_world("power", limit=0)
    async with running_worker([power], tmp_path, world=world) as worker:
        owed: list[tuple[int, int]] = []
        poll = world.poll

        def watched(task_id: str, now: float) -> object:
            daemon = worker.daemon
            owed.append((daemon._budget.unreported(), daemon.journal.unreported()))  # noqa: SLF001
            return poll(task_id, now)

        world.poll = watched  # type: ignore[method-assign, assignment]  # the server's side is watched
        await worker.run("power", *({"power": 1} for _ in range(4)))
    assert all(counted > journalled for counted, journalled in owed)

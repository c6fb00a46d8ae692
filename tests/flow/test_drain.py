"""The end of a worker: what runs is finished or ended by its policy, and what is settled is reported."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from product_live_worker import handler, sandbox
from product_live_worker.model.execution import State
from support.workers import new_world, running_worker, until

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

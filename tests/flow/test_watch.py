"""Nobody works for a job that is gone: long-running executions are looked at now and then."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from product_live_worker import handler
from product_live_worker.sandbox import Faults
from product_live_worker.telemetry.events import ExecutionUnwanted, OutageEnded, OutageStarted
from support.workers import running_worker, until

pytestmark = pytest.mark.anyio


async def test_a_handler_of_a_job_that_was_cancelled_is_ended(tmp_path: Path) -> None:
    """The handler is cancelled, the slot is free, nothing is reported, and an event tells of it."""
    ended = anyio.Event()

    @handler("long")
    async def long(_: dict) -> None:  # type: ignore[type-arg]
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with running_worker([long], tmp_path, tasks={"long": {"watch": 0.1}}) as worker:
        (execution,) = worker.submit("long", {})
        await until(lambda: worker.daemon.journal.in_hand("long") == 1)
        execution.status = "CANCELED"
        await ended.wait()
        await until(lambda: worker.daemon.dispatcher.free("long") == 1 and bool(worker.heard(ExecutionUnwanted)))
    assert execution.patches == []
    assert [(e.execution, e.status) for e in worker.heard(ExecutionUnwanted)] == [(execution.id, "CANCELED")]
    assert worker.daemon.journal.unreported() == 0


async def test_what_is_wanted_is_left_alone(tmp_path: Path) -> None:
    """Looked at several times, and reported as if nothing had been; a platform that fails meanwhile ends nothing."""
    release = anyio.Event()

    @handler("long")
    async def long(_: dict) -> dict:  # type: ignore[type-arg]
        await release.wait()
        return {"done": True}

    faults = Faults()
    faults.extend([{"kind": "status", "status": 503, "operations": ["read_execution"], "count": 1}])
    async with running_worker([long], tmp_path, faults=faults, tasks={"long": {"watch": 0.05}}) as worker:
        (execution,) = worker.submit("long", {})
        await until(lambda: bool(worker.heard(OutageStarted)) and bool(worker.heard(OutageEnded)))
        release.set()
        await until(lambda: execution.status == "COMPLETED")
    assert worker.heard(ExecutionUnwanted) == []

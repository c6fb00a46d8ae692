"""Handlers in processes of their own, in a whole worker: a crash is a report, and the next execution is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from product_live_worker.telemetry.events import HandlerProcessEnded
from support import conforming
from support.workers import running_worker, until

pytestmark = pytest.mark.anyio


async def test_a_crash_is_reported_and_counted_and_the_worker_works_on(tmp_path: Path) -> None:
    """The platform hears FAILED `handler_crashed`; operators see it in the metrics and the status."""
    async with running_worker([conforming.dying], tmp_path) as worker:
        (crashed,) = await worker.run("dying", {"signal": "SIGSEGV"})
        (good,) = await worker.run("dying", {})
        metrics = (await worker.get("/metrics")).text
        status = (await worker.get("/status")).json()
    assert (crashed.status, crashed.output["code"]) == ("FAILED", "handler_crashed")
    assert good.status == "COMPLETED"
    assert 'handler_processes_ended_total{reason="crash",task="dying"} 1.0' in metrics
    assert "product_live_worker_handler_processes 1.0" in metrics
    assert status["handler_processes"] == 1
    assert [(e.execution, e.reason) for e in worker.heard(HandlerProcessEnded)] == [(crashed.id, "crash")]


async def test_a_late_process_is_killed_and_its_slot_is_free(tmp_path: Path) -> None:
    """An endless loop in C is reported FAILED `timeout`, and the only slot serves the next execution."""
    made = replace(conforming.spinning, timeout=0.5)
    async with running_worker([made], tmp_path) as worker:
        first, second = await worker.run("spinning", {}, {})
        assert worker.daemon.dispatcher.free("spinning") == 1
    assert [execution.output["code"] for execution in (first, second)] == ["timeout", "timeout"]
    assert [event.reason for event in worker.heard(HandlerProcessEnded)] == ["late", "late"]


async def test_a_drain_ends_processes_at_its_deadline(tmp_path: Path) -> None:
    """What still runs then is killed and reported FAILED `cancelled`; no process stays."""
    async with running_worker([conforming.spinning], tmp_path, drain={"timeout": 0.1}) as worker:
        (execution,) = worker.submit("spinning", {})
        await until(lambda: worker.daemon.processes.count() == 1)
        await worker.drain()
    assert (execution.status, execution.output["code"]) == ("FAILED", "cancelled")
    assert worker.daemon.processes.count() == 0

"""Lines in the logs of jobs on the platform: told once, behind everything else, and without any power."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_worker import Context, Handler, TaskFailed, handler
from product_live_worker.flow.job_log import WAITING
from product_live_worker.sandbox import Faults
from product_live_worker.telemetry.events import JobLogLine, JobLogOff, JobLogRefused
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio


def quick_worker(handlers: list[Handler], state: Path, **sections: Any) -> AbstractAsyncContextManager[RunningWorker]:
    """Run a worker that no limit holds up."""
    world = new_world(*(made.name for made in handlers), limit=0)
    return running_worker(handlers, state, **{"world": world, "budget": {"requests_per_minute": 0}, **sections})


@handler("talk")
async def talk(given: dict[str, Any], context: Context) -> dict[str, Any]:
    """Report what the input says, then fail if it says so."""
    for number in range(given.get("lines", 0)):
        await context.report(f"line {number}", severity="warning" if number % 2 else "info")
    if "say" in given:
        await context.report(given["say"])
    if "fail" in given:
        raise TaskFailed(given["fail"])
    return {}


def told(worker: RunningWorker) -> list[tuple[str, str]]:
    """Give severity and message of each line that the platform has."""
    return [(line.severity, line.message) for line in worker.world.log]


def outcomes(worker: RunningWorker) -> list[str]:
    """Give what became of each line."""
    return [event.outcome for event in worker.heard(JobLogLine)]


async def test_reports_and_failures_are_lines_in_the_log_of_the_job(tmp_path: Path) -> None:
    """Under its correlation id, by the task's key, in their order; a success says nothing of itself."""
    async with quick_worker([talk], tmp_path) as worker:
        job = {"eventCorrelationId": "job-1 é"}
        await worker.run("talk", {**job, "lines": 2, "fail": "no such table"}, {**job})
        await until(lambda: len(worker.world.log) == 3)
        metrics = (await worker.get("/metrics")).text
    assert told(worker) == [("info", "line 0"), ("warning", "line 1"), ("error", "no such table")]
    assert {(line.correlation_id, line.emitter) for line in worker.world.log} == {("job-1 é", "talk")}
    assert 'job_log_lines_total{outcome="sent"} 3.0' in metrics


async def test_without_a_correlation_id_there_is_no_line(tmp_path: Path) -> None:
    """Nobody could tell where it belongs."""
    async with quick_worker([talk], tmp_path) as worker:
        await worker.run("talk", {"eventCorrelationId": "", "lines": 1, "fail": "no"})
        (last,) = await worker.run("talk", {"lines": 1})
        await until(lambda: len(worker.world.log) == 1)
    assert [line.correlation_id for line in worker.world.log] == [last.input["eventCorrelationId"]]


async def test_the_setting_switches_it_off(tmp_path: Path) -> None:
    """No request is made for it."""
    async with quick_worker([talk], tmp_path, log={"platform": False}) as worker:
        await worker.run("talk", {"lines": 3, "fail": "no"})
    assert "write_log" not in {arrival.operation for arrival in worker.world.arrivals}


async def test_a_platform_without_logs_is_asked_once(tmp_path: Path) -> None:
    """One warning, and silence until the next start."""
    async with quick_worker([talk], tmp_path, log={"platform_path": "/v1/data_factory/lo-gs"}) as worker:
        await worker.run("talk", {"lines": 5, "fail": "no"})
        await until(lambda: bool(worker.heard(JobLogOff)))
        await worker.run("talk", {"lines": 5, "fail": "no"})
    paths = [arrival.path for arrival in worker.world.arrivals]
    assert paths.count("/v1/data_factory/lo-gs") == 1
    assert [event.path for event in worker.heard(JobLogOff)] == ["/v1/data_factory/lo-gs"]


async def test_a_refused_line_is_told_once_and_the_next_are_sent(tmp_path: Path) -> None:
    """A line that the platform finds malformed holds up no other."""
    faults = Faults()
    faults.add("status", status=400, operations=["write_log"], count=2)
    async with quick_worker([talk], tmp_path, faults=faults) as worker:
        await worker.run("talk", {"lines": 3})
        await until(lambda: len(worker.world.log) == 1)
        await until(lambda: len(outcomes(worker)) == 3)
    assert outcomes(worker) == ["failed", "failed", "sent"]
    assert len(worker.heard(JobLogRefused)) == 1


async def test_a_platform_in_trouble_is_asked_again_and_then_left_alone(tmp_path: Path) -> None:
    """Three times for a line; the results are reported as if nothing were."""
    faults = Faults()
    faults.add("status", status=503, operations=["write_log"], count=1)
    async with quick_worker([talk], tmp_path, faults=faults) as worker:
        (execution,) = await worker.run("talk", {"fail": "no"})
        assert worker.world.log == []
        await until(lambda: outcomes(worker) == ["sent"])
    assert execution.status == "FAILED"


async def test_lines_wait_behind_everything_else_and_never_delay_the_end(tmp_path: Path) -> None:
    """With a full window they wait; of too many the oldest are dropped; the drain does not wait for them."""
    world = new_world("talk", limit=8, window=3600.0)
    async with quick_worker(
        [talk], tmp_path, world=world, budget={"requests_per_minute": 8, "window": 3600.0}, drain={"timeout": 5}
    ) as worker:
        (execution,) = await worker.run("talk", {"lines": WAITING + 50, "fail": "no"})
        with anyio.fail_after(30):
            await worker.drain()
    assert execution.status == "FAILED"
    assert outcomes(worker).count("dropped") >= 50
    assert world.limiter.largest_window <= 8


async def test_the_key_is_in_no_line(tmp_path: Path) -> None:
    """Not even when a handler says it."""
    async with quick_worker([talk], tmp_path) as worker:
        await worker.run("talk", {"say": "my key is sandbox-key, please keep it"})
        await until(lambda: len(worker.world.log) == 1)
    assert told(worker) == [("info", "my key is ***, please keep it")]


async def test_what_is_no_line_is_the_handlers_mistake(tmp_path: Path) -> None:
    """It is told what is allowed."""

    @handler("wrong")
    async def wrong(given: dict[str, Any], context: Context) -> None:
        await context.report(given["message"], severity=given["severity"])

    async with quick_worker([wrong], tmp_path) as worker:
        loud, odd = await worker.run("wrong", {"message": "x", "severity": "loud"}, {"message": 7, "severity": "info"})
    assert "'info', 'warning' or 'error'" in loud.output["message"]
    assert "the message is a text" in odd.output["message"]

"""A handler ends in time for the platform, whose own timeouts count from the claim."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from product_live_worker import Context, handler, sandbox
from product_live_worker.model.execution import State
from product_live_worker.telemetry.events import TimeoutShortened
from support.journals import an_execution, in_state, opened
from support.workers import new_world, running_worker, until

pytestmark = pytest.mark.anyio


@handler("patient", timeout=3600)
async def patient(_: dict, context: Context) -> dict:  # type: ignore[type-arg]
    """Say how long there is."""
    return {"seconds": (context.deadline - datetime.now(UTC)).total_seconds()}


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({"responseTimeoutSeconds": 100, "timeoutSeconds": 0}, 90),
        ({"responseTimeoutSeconds": 100, "timeoutSeconds": 60}, 50),
        ({"responseTimeoutSeconds": 20, "timeoutSeconds": 60}, 16),
    ],
)
async def test_the_deadline_is_before_the_platforms(tmp_path: Path, fields: dict[str, int], longest: float) -> None:
    """The shorter of both counts, less what a report may need; the operator is warned of the difference."""
    world = new_world("patient", **fields)
    async with running_worker([patient], tmp_path, world=world) as worker:
        (execution,) = await worker.run("patient", {})
        status = (await worker.get("/status")).json()
    assert 0 < execution.output["seconds"] <= longest
    assert status["tasks"][0]["timeout_seconds"] == longest
    (warned,) = worker.heard(TimeoutShortened)
    assert (warned.task, warned.wanted_seconds, warned.seconds) == ("patient", 3600, longest)


async def test_a_handlers_own_timeout_holds_when_it_is_shorter(tmp_path: Path) -> None:
    """A platform that waits an hour changes nothing, and nobody is warned."""

    @handler("brisk", timeout=30)
    async def brisk(_: dict, context: Context) -> dict:  # type: ignore[type-arg]
        return {"seconds": (context.deadline - datetime.now(UTC)).total_seconds()}

    async with running_worker([brisk], tmp_path) as worker:
        (execution,) = await worker.run("brisk", {})
    assert 0 < execution.output["seconds"] <= 30
    assert worker.heard(TimeoutShortened) == []


async def test_a_handler_without_any_time_left_is_not_started(tmp_path: Path) -> None:
    """What the platform has given up by now, claimed by a worker that died, is not begun; the reason is told."""
    world, ran = new_world("late", responseTimeoutSeconds=100, timeoutSeconds=0), []

    @handler("late")
    async def late(_: dict) -> None:  # type: ignore[type-arg]
        ran.append(1)

    async with sandbox.serve(world) as url:
        (execution, identity) = world.submit("late", {}, time.monotonic()), world.task_called("late").id
        world.poll(identity, time.monotonic())
        row = an_execution(id=execution.id, task="late", task_id=identity, input={}, claimed_at=time.time() - 95)
        async with opened(tmp_path / "worker.db", platform=url) as journal:
            await in_state(journal, State.CLAIMED, row)
        async with running_worker([late], tmp_path, world=world, url=url):
            await until(lambda: bool(execution.patches))
    assert (execution.output["code"], ran) == ("timeout", [])
    assert re.search("of the 100 s that the platform waits, [0-9]+ s had passed already", execution.output["message"])

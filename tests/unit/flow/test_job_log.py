"""The job log ends nothing but itself."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from product_live_worker.flow.job_log import JobLog
from product_live_worker.telemetry.events import Event, ExecutionReported, JobLogLine, JobLogRefused

pytestmark = pytest.mark.anyio


class Defective:
    """A client that breaks in a way that nobody thought of."""

    def __init__(self) -> None:
        self.asked = 0

    async def write_log(self, *_: Any, **__: Any) -> None:
        """Break."""
        self.asked += 1
        raise ZeroDivisionError


def a_failure(message: str) -> ExecutionReported:
    """Give the event of an execution that FAILED."""
    return ExecutionReported(
        task="power",
        execution="e1",
        correlation="c1",
        status="FAILED",
        code="task_failed",
        message=message,
        waited_seconds=0,
        ran_seconds=0,
        claim_to_report_seconds=0,
        attempts=1,
    )


async def test_a_defect_is_told_once_and_ends_no_stage() -> None:
    """A stage that dies takes the worker down; lines for people are not worth that."""
    events: list[Event] = []
    client: Any = Defective()
    log = JobLog(client, path="/v1/data_factory/logs", wanted=True, emit=events.append)
    async with anyio.create_task_group() as life:
        life.start_soon(log.run)
        for number in range(3):
            log.read(a_failure(f"failure {number}"))
        with anyio.fail_after(30):
            await log.idle()
        life.cancel_scope.cancel()
    assert [event.outcome for event in events if isinstance(event, JobLogLine)] == ["failed"] * 3
    assert [event.reason for event in events if isinstance(event, JobLogRefused)] == ["ZeroDivisionError: "]
    assert client.asked == 3

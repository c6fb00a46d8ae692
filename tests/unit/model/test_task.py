"""How long a handler may run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_live_worker import Handler
from product_live_worker.model.task import REPORTING, ServedTask
from product_live_worker.product_live.wire import Task

SECONDS = st.floats(0.1, 1e7)


def a_task(timeout: float, platform_timeout: float | None) -> ServedTask:
    """Give a task with these times."""
    made = Handler(name="x", function=print)
    return ServedTask(
        id="1",
        key="x",
        handler=made,
        concurrency=1,
        timeout=timeout,
        on_crash="fail",
        platform_timeout=platform_timeout,
    )


@given(own=SECONDS, platform=SECONDS, since=st.floats(-100, 1e6))
def test_a_handler_ends_before_its_own_time_and_the_platforms(own: float, platform: float, since: float) -> None:
    """Never longer than its own timeout; and what is left of the platform's is there for the report."""
    may_run = a_task(own, platform).may_run(since)
    assert may_run <= own
    assert may_run + max(0.0, since) + min(REPORTING, platform / 5) <= platform * (1 + 1e-9) + 1e-6
    assert a_task(own, platform).longest <= platform


def test_a_platform_without_a_limit_leaves_the_handlers_own() -> None:
    """However long ago it was claimed."""
    assert a_task(600, None).may_run(1e6) == 600
    assert a_task(600, None).longest == 600


@pytest.mark.parametrize(
    ("response", "whole", "longest"),
    [(None, None, None), (0, 0, None), (60, 0, 60), (0, 60, 60), (60, 30, 30), (30, None, 30)],
)
def test_the_platform_waits_for_the_shorter_of_its_limits(
    response: float | None, whole: float | None, longest: float | None
) -> None:
    """0 and nothing are no limit."""
    task = Task(id="1", key="x", response_timeout_seconds=response, timeout_seconds=whole)
    assert task.longest_wait == longest

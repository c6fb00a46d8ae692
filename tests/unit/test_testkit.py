"""The test kit takes a handler by the road that it takes in production."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import BaseModel

from product_live_worker import Context, TaskFailed, handler
from product_live_worker.testkit import Outcome, Status, run


class Input(BaseModel):
    power: int


@handler("echo")
async def echo(input: dict) -> dict:  # type: ignore[type-arg]
    """Give back what came."""
    return input


@handler("where", timeout=5)
def where(input: Input, context: Context) -> dict[str, Any]:
    """Say where this ran, and with what."""
    context.log.info("running", power=input.power)
    return {
        "thread": threading.current_thread() is not threading.main_thread(),
        "task": context.task,
        "settings": dict(context.settings),
        "in_time": 0 < context.remaining() <= 5,
    }


def test_a_handler_is_run_by_its_real_executor_with_its_context() -> None:
    """A `def` handler runs in a thread, with its deadline, its log and the section's settings."""
    outcome = run(where, {"power": 3}, settings={"factor": 2})
    assert outcome.output == {"thread": True, "task": "where", "settings": {"factor": 2}, "in_time": True}


def test_input_and_output_pass_through_json() -> None:
    """What JSON would change on the way is changed in the test as well."""
    assert run(echo, {1: (2, 3), "é": None}) == Outcome(Status.COMPLETED, {"1": [2, 3], "é": None})


def test_an_input_that_is_no_json_cannot_be_sent() -> None:
    """The platform could never send it, so the test may not."""
    with pytest.raises(TypeError):
        run(echo, {"value": object()})


def test_failures_are_outcomes_not_exceptions() -> None:
    """A test sees what would be reported."""

    @handler("refuse")
    def refuse(_: Input) -> None:
        raise TaskFailed("No.", code="no")

    assert run(refuse, {"power": 3}) == Outcome.failed("no", "No.")
    assert run(refuse, {"power": "x"}).code == "invalid_input"


def test_a_handlers_timeout_holds_in_a_test(request: pytest.FixtureRequest) -> None:
    """A handler that does not end is stopped as it would be in production."""
    gate = threading.Event()
    request.addfinalizer(gate.set)

    @handler("slow", timeout=0.05)
    def slow(_: dict) -> None:  # type: ignore[type-arg]
        gate.wait()

    assert run(slow, {}).code == "timeout"


def test_an_output_over_the_default_limit_is_refused() -> None:
    """The limit of production holds in a test."""
    assert run(echo, {"text": "x" * 1_000_000}).code == "output_too_large"

"""The bundled example, as the platform would see it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_live_handlers.power import LARGEST, power
from product_live_worker.testkit import Outcome, Status, run


@pytest.mark.parametrize(("exponent", "result"), [(0, 1), (3, 8), (10, 1024), (-1, 0.5), ("10", 1024), (4.0, 16)])
def test_two_to_the_power_of_a_number_is_computed(exponent: Any, result: float) -> None:
    """A number counts also where the platform sends it as a text, as it does for a variable."""
    assert run(power, {"power": exponent}) == Outcome.completed({"result": result})


@given(st.integers(-LARGEST, LARGEST))
def test_every_result_is_a_number_that_json_readers_can_hold(exponent: int) -> None:
    """No exponent that is accepted gives an infinity, or a nothing."""
    outcome = run(power, {"power": exponent})
    assert outcome.status is Status.COMPLETED
    assert 0 < float(outcome.output["result"]) == 2.0**exponent


@pytest.mark.parametrize("exponent", [1e9, LARGEST + 1, -LARGEST - 1, -1e9, 10**30])
def test_a_power_that_cannot_be_computed_sensibly_is_refused(exponent: float) -> None:
    """The handler says what it allows and what it found, and does not eat the machine's memory."""
    outcome = run(power, {"power": exponent})
    assert (outcome.status, outcome.code) == (Status.FAILED, "out_of_range")
    assert outcome.message == f"power must be from -1023 to 1023; found {int(exponent)}"


@pytest.mark.parametrize(
    ("input", "said"),
    [
        ({}, "power: Field required"),
        ({"power": "x"}, "power: Input should be a valid integer"),
        ({"power": ""}, "found an empty text"),
        ({"power": None}, "found nothing"),
        ({"power": 0.5}, "found a number"),
        ({"power": [3]}, "found a list"),
        ([], "found a list"),
        (None, "found nothing"),
    ],
)
def test_an_input_that_is_no_number_is_refused_with_the_field_at_fault(input: Any, said: str) -> None:
    """A person who wired the job wrongly reads what is missing."""
    outcome = run(power, input)
    assert (outcome.status, outcome.code) == (Status.FAILED, "invalid_input")
    assert said in outcome.message


def test_what_else_the_platform_sends_is_ignored() -> None:
    """The platform's own keys, and any others, change nothing."""
    input = {"power": 3, "eventCorrelationId": "c1", "context": {"jobId": "j"}, "surprise": [1]}
    assert run(power, input) == Outcome.completed({"result": 8})

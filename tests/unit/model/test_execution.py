"""The vocabulary: states, outcomes, and what is read from an input."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_live_worker.model.execution import (
    FINAL_ELSEWHERE,
    IN_HAND,
    TRANSITIONS,
    Outcome,
    State,
    Status,
    correlation_id,
    idempotency_key,
)
from support.journals import an_execution

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def test_every_state_says_where_it_may_lead() -> None:
    """No state is missing from the transitions, and none leads to itself."""
    assert set(TRANSITIONS) == set(State)
    assert all(state not in TRANSITIONS[state] for state in State)


def test_every_state_but_the_first_is_reached_from_another() -> None:
    """A state that nothing leads to would be dead; only a claim comes from nowhere."""
    reached = frozenset().union(*TRANSITIONS.values())
    assert reached >= set(State) - {State.CLAIMED}


@pytest.mark.parametrize("state", set(State) - IN_HAND)
def test_an_outcome_is_never_lost_by_a_step(state: State) -> None:
    """What is settled is never run again."""
    assert not TRANSITIONS[state] & IN_HAND


def test_only_completed_and_failed_can_be_sent() -> None:
    """There is no word for IN_PROGRESS, which would offer the execution to others again."""
    assert {status.value for status in Status} == {"COMPLETED", "FAILED"}
    assert {status.value for status in Status} <= FINAL_ELSEWHERE


def test_a_success_has_its_output_and_no_code() -> None:
    """A completed outcome says nothing beside its output."""
    outcome = Outcome.completed({"code": 7, "message": "mine"})
    assert (outcome.status, outcome.output) == (Status.COMPLETED, {"code": 7, "message": "mine"})
    assert (outcome.code, outcome.message) == ("", "")


def test_a_failure_has_code_and_message_in_its_output() -> None:
    """What a person and a machine read of a failure is in the output that is sent."""
    outcome = Outcome.failed("timeout", "Too late.")
    assert outcome.output == {"message": "Too late.", "code": "timeout"}
    assert (outcome.code, outcome.message) == ("timeout", "Too late.")


def test_what_a_failure_adds_never_replaces_its_code_and_message() -> None:
    """Code and message are the worker's, whatever else the handler has to say."""
    outcome = Outcome.failed("no", "No.", {"code": "other", "message": "other", "row": 7})
    assert outcome.output == {"row": 7, "message": "No.", "code": "no"}


def test_an_outcome_and_an_execution_are_values() -> None:
    """Nobody changes an execution or an outcome in place."""
    with pytest.raises(FrozenInstanceError):
        Outcome.completed({}).status = Status.FAILED  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        an_execution().state = State.RUNNING  # type: ignore[misc]


@pytest.mark.parametrize("input", [None, [], "eventCorrelationId", {}, {"eventCorrelationId": None}, 7])
def test_an_input_without_a_correlation_id_has_none(input: object) -> None:
    """An input of any form may lack the platform's key."""
    assert correlation_id(input) is None


@pytest.mark.parametrize("found", ["", 7, {}, ["c"]])
def test_a_correlation_id_is_a_text(found: object) -> None:
    """A correlation id that is no text, or an empty one, is none."""
    assert correlation_id({"eventCorrelationId": found}) is None


def test_the_correlation_id_is_the_platforms_key() -> None:
    """The platform puts the job's id into every input as eventCorrelationId."""
    assert correlation_id({"eventCorrelationId": "c1", "power": 3}) == "c1"


@given(JSON)
def test_the_idempotency_key_survives_the_journey_through_json(input: object) -> None:
    """The same input, sent again, gives the same short key."""
    key = idempotency_key("power", input)
    assert key == idempotency_key("power", json.loads(json.dumps(input)))
    assert len(key) == 32


def test_the_idempotency_key_does_not_depend_on_the_order_of_keys() -> None:
    """The platform may send an object's keys in any order."""
    assert idempotency_key("power", {"a": 1, "b": 2}) == idempotency_key("power", {"b": 2, "a": 1})


def test_the_idempotency_key_differs_by_job_task_and_input() -> None:
    """Another job, another task or another input is other work."""
    inputs = [{"eventCorrelationId": "c1", "n": 1}, {"eventCorrelationId": "c2", "n": 1}, {"n": 1}, {"n": 2}]
    keys = {idempotency_key(task, input) for task in ("power", "other") for input in inputs}
    assert len(keys) == 8


def test_the_idempotency_key_can_be_made_of_half_a_character() -> None:
    """A text that is no Unicode is no reason to fail."""
    assert len(idempotency_key("power", {"name": "caf\udce9"})) == 32

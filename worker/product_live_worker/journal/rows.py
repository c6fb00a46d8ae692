"""Executions as rows, and back."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from sqlalchemy import Row

from product_live_worker.model.execution import Execution, Outcome, State, Status
from product_live_worker.model.explain import shorten

_PLAIN = frozenset(field.name for field in fields(Execution)) - {"input", "outcome", "ended", "checkpoint", "state"}


def to_row(execution: Execution) -> dict[str, Any]:
    """Give the columns that an execution fills."""
    return {
        **{name: getattr(execution, name) for name in _PLAIN},
        "state": execution.state.value,
        "input": json.dumps(execution.input),
        "checkpoint": None if execution.checkpoint is None else json.dumps(execution.checkpoint),
        **outcome_columns(execution.outcome),
    }


def outcome_columns(outcome: Outcome | None) -> dict[str, Any]:
    """Give the columns that an outcome fills."""
    if outcome is None:
        return {"status": None, "output": None, "code": None, "message": None}
    return {
        "status": outcome.status.value,
        "output": json.dumps(outcome.output),
        "code": _text(outcome.code),
        "message": _text(outcome.message),
    }


def from_row(row: Row[Any]) -> Execution:
    """Give the execution that a row holds; one whose output is blank reads as one without an outcome."""
    outcome = None if row.output is None else Outcome(Status(row.status), json.loads(row.output))
    return Execution(
        **{name: getattr(row, name) for name in _PLAIN},
        state=State(row.state),
        input=None if row.input is None else json.loads(row.input),
        checkpoint=None if row.checkpoint is None else json.loads(row.checkpoint),
        outcome=outcome,
        ended=None if row.status is None else Status(row.status),
    )


def _text(said: str) -> str | None:
    # Half a character could not be written; what a handler says beside its message may be of any length.
    return shorten(said.encode("utf-8", "backslashreplace").decode()) if said else None

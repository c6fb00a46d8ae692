"""An execution, its states and its outcome: the value that flows through the worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

OnCrash = Literal["fail", "rerun"]
"""What becomes of an execution whose process died: reported FAILED, or run again."""
OnRepeat = Literal["run", "adopt", "refuse"]
"""What is done when the platform retries an execution under a new id."""


class State(StrEnum):
    """Where an execution stands in the journal."""

    CLAIMED = "CLAIMED"
    RUNNING = "RUNNING"
    SETTLED = "SETTLED"
    REPORTED = "REPORTED"
    UNDELIVERABLE = "UNDELIVERABLE"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CLAIMED: frozenset({State.RUNNING, State.SETTLED, State.REPORTED}),
    # Back to CLAIMED is a rerun after a crash; straight to REPORTED is an execution that the platform already ended.
    State.RUNNING: frozenset({State.SETTLED, State.CLAIMED, State.REPORTED}),
    State.SETTLED: frozenset({State.REPORTED, State.UNDELIVERABLE}),
    # A late answer may have been lost: the platform can offer the same execution again, or a person send it again.
    State.REPORTED: frozenset({State.SETTLED}),
    State.UNDELIVERABLE: frozenset({State.SETTLED, State.REPORTED}),
}
"""The steps that a row may take; the journal refuses any other."""

IN_HAND = frozenset({State.CLAIMED, State.RUNNING})
"""States that hold a slot of their task's concurrency."""


class Status(StrEnum):
    """What the platform is told: the only two statuses ever sent (reference: "Heartbeats are a trap")."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


FINAL_ELSEWHERE = frozenset(
    {"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "TIMED_OUT", "CANCELED", "SKIPPED"}
)
"""Statuses of the platform's engine after which nobody waits for a result (Conductor, Task.java)."""


ENDED_ALREADY = "the platform had ended it already"
"""Why such an execution is closed without a report."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended; once settled it never changes."""

    status: Status
    """COMPLETED or FAILED."""
    output: dict[str, Any]
    """The values by their names; of a failure, `message` and `code` are among them."""

    @classmethod
    def completed(cls, output: dict[str, Any]) -> Outcome:
        """Success with its output, a JSON object."""
        return cls(Status.COMPLETED, output)

    @classmethod
    def failed(cls, code: str, message: str, more: Mapping[str, Any] | None = None) -> Outcome:
        """Failure with a code for machines, a sentence for a person, and what else the handler has to say."""
        return cls(Status.FAILED, {**(more or {}), "message": message, "code": code})

    @property
    def code(self) -> str:
        """The failure's code, or an empty string for a success."""
        return "" if self.status is Status.COMPLETED else str(self.output.get("code", ""))

    @property
    def message(self) -> str:
        """The failure's sentence, or an empty string for a success."""
        return "" if self.status is Status.COMPLETED else str(self.output.get("message", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One claimed execution of a custom task, as the journal keeps it. Times are Unix seconds."""

    id: str
    task_id: str
    task: str
    """The task's key, by which people know it."""
    input: Any
    state: State = State.CLAIMED
    claimed_at: float
    started_at: float | None = None
    settled_at: float | None = None
    reported_at: float | None = None
    correlation_id: str | None = None
    idempotency_key: str = ""
    outcome: Outcome | None = None
    ended: Status | None = None
    """The status in the journal, which stays when the output is blanked."""
    checkpoint: dict[str, Any] | None = None
    on_repeat: OnRepeat = "run"
    """What is done when the platform retries an execution of this task under a new id."""
    crashes: int = 0
    """How often a process died while this ran, without a new checkpoint in between."""
    attempts: int = 0
    """How often its report was sent without a final answer."""
    trouble: str = ""
    """Why its report has not arrived yet, or never will."""


def correlation_id(input: Any) -> str | None:
    """Give the job's correlation id, which the platform puts into every input as `eventCorrelationId`."""
    found = input.get("eventCorrelationId") if isinstance(input, dict) else None
    # Half a character, as of a text cut within an emoji, could be written neither to the journal nor to a log.
    return found.encode("utf-8", "backslashreplace").decode() if isinstance(found, str) and found else None


def idempotency_key(task: str, input: Any) -> str:
    """Give a key that stays the same when the platform retries an execution under a new id."""
    text = json.dumps([correlation_id(input), task, input], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

"""The status document in types: what `/status` answers, the page and `top` show, and docs/status.schema.json describes.

Moments are ISO 8601 in UTC, durations seconds. Lists are capped; `left_out` says how many are not shown.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict  # on Python 3.11, pydantic can read no other

SCHEMA = 1
"""The version of the document: it grows with each change that a reader of the old one could trip over."""

Condition = Literal["well", "notice", "paused", "stopping", "unwell"]
"""`well`; `notice`: work goes on, and something is worth knowing; `paused`; `stopping`; `unwell`: not ready."""


@with_config(title="Check", extra="forbid")
class CheckLine(TypedDict):
    """One thing that was looked at."""

    name: str
    ok: bool
    notable: bool
    reason: str
    cure: NotRequired[str]


@with_config(title="Pause", extra="forbid")
class PauseLine(TypedDict):
    """A pause that holds; `task` null is all tasks, `until` null is until it is resumed."""

    task: str | None
    who: str
    why: str
    since: str
    until: str | None


@with_config(title="Request", extra="forbid")
class RequestLine(TypedDict):
    """A request of the last window; `code` is the answer's status, or the kind of failure."""

    sent_at: str
    seconds_ago: float
    purpose: str
    operation: str
    code: str
    seconds: float


@with_config(title="Budget", extra="forbid")
class BudgetPart(TypedDict):
    """The request budget; `limit` 0 is none. `reserved` slots are left free by polls for the reports owed."""

    limit: int
    allowed: int
    used: int
    reserved: int
    window_seconds: float
    next_slot_frees_in_seconds: float | None
    held_off_seconds: float
    waiting: dict[str, int]
    requests: list[RequestLine]


@with_config(title="NextPoll", extra="forbid")
class NextPoll(TypedDict):
    """When a task is polled next; null where nothing is planned, and why."""

    in_seconds: float | None
    why: str


@with_config(title="HandlerSeconds", extra="forbid")
class HandlerSeconds(TypedDict):
    """How long the last `calls` calls of a handler took."""

    p50: float | None
    p95: float | None
    longest: float | None
    calls: int


@with_config(title="Task", extra="forbid")
class TaskLine(TypedDict):
    """A task that is served. `last_hour`: minutes ago, COMPLETED, FAILED, for each minute with a report."""

    key: str
    id: str
    handler: str
    concurrency: int
    in_hand: int
    overdue_threads: int
    timeout_seconds: float
    on_crash: str
    paused: PauseLine | None
    next_poll: NextPoll
    pickup_delay_expected_seconds: float
    pickup_delay_bound_seconds: float
    polled_at: str | None
    last_claim_at: str | None
    polls: int
    hits: int
    completed: int
    failed: int
    handler_seconds: HandlerSeconds
    last_hour: list[tuple[int, int, int]]


@with_config(title="Counts", extra="forbid")
class Counts(TypedDict):
    """How many executions are in which state, of all that this worker holds; undeliverable: of all workers."""

    claimed: int
    running: int
    reports_waiting: int
    undeliverable: int


@with_config(title="LastLine", extra="forbid")
class LastLine(TypedDict):
    """What a handler has last logged."""

    at: str
    level: str
    text: str


@with_config(title="InHand", extra="forbid")
class InHandLine(TypedDict):
    """An execution that is claimed or runs."""

    id: str
    task: str
    state: str
    correlation_id: str | None
    claimed_at: str
    started_at: str | None
    deadline_at: str | None
    checkpoint: bool
    crashes: int
    last_line: LastLine | None


@with_config(title="Report", extra="forbid")
class ReportLine(TypedDict):
    """An outcome that waits to be reported, and why it still does."""

    id: str
    task: str
    correlation_id: str | None
    settled_at: str | None
    status: str | None
    code: str | None
    attempts: int
    trouble: str | None


@with_config(title="Failure", extra="forbid")
class FailureLine(TypedDict):
    """An execution that ended FAILED, of this process or, after a restart, of those before it."""

    id: str
    task: str
    correlation_id: str | None
    at: str | None
    code: str
    message: str


@with_config(title="Undeliverable", extra="forbid")
class UndeliverableLine(TypedDict):
    """An outcome that the platform refuses for good."""

    id: str
    task: str
    correlation_id: str | None
    settled_at: str | None
    trouble: str


@with_config(title="Worker", extra="forbid")
class WorkerLine(TypedDict):
    """A worker on this journal; one whose lease has ended is taken over from."""

    name: str
    this: bool
    lease_left_seconds: float
    open: int


@with_config(title="Action", extra="forbid")
class ActionLine(TypedDict):
    """What an operator has asked for; `subject` is a task, an execution, or nothing: all tasks."""

    at: str
    who: str
    verb: str
    subject: str
    why: str
    until: str | None


@with_config(title="InHandList", extra="forbid")
class InHand(TypedDict):
    """The oldest claims first."""

    shown: list[InHandLine]
    left_out: int


@with_config(title="ReportList", extra="forbid")
class Reports(TypedDict):
    """Those that wait the longest first."""

    shown: list[ReportLine]
    left_out: int


@with_config(title="FailureList", extra="forbid")
class Failures(TypedDict):
    """The latest first."""

    shown: list[FailureLine]
    left_out: int


@with_config(title="UndeliverableList", extra="forbid")
class Undeliverable(TypedDict):
    """The latest first."""

    shown: list[UndeliverableLine]
    left_out: int


@with_config(title="Status", extra="forbid")
class StatusDocument(TypedDict):
    """Everything that a worker says of itself."""

    schema: int
    version: str
    platform: str
    worker: str
    started_at: str
    now: str
    ready: bool
    condition: Condition
    verdict: str
    checks: list[CheckLine]
    draining: str | None
    pauses: list[PauseLine]
    last_successful_poll_at: str | None
    poll_overdue_seconds: float
    budget: BudgetPart
    tasks: list[TaskLine]
    tasks_left_out: int
    handler_processes: int
    executions: Counts
    in_hand: InHand
    reports: Reports
    failures: Failures
    undeliverable: Undeliverable
    workers: list[WorkerLine]
    actions: list[ActionLine]


def json_schema() -> dict[str, Any]:
    """Give the document's JSON schema, as docs/status.schema.json has it."""
    schema = TypeAdapter(StatusDocument).json_schema()
    schema["properties"]["schema"] = {"const": SCHEMA, "title": "Schema", "type": "integer"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))  # noqa: T201 (it is what it is run for)

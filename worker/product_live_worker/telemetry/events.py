"""Everything the worker has to tell, as frozen records. Durations are seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict

from product_live_worker.model.execution import Execution

PollOutcome = Literal["hit", "empty", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """The worker is open: its listeners are bound, its journal is read."""

    version: str
    platform: str
    address: str
    journal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksServed(Event):
    """The tasks that the worker serves from now on, each with its handler's name."""

    platform: str
    tasks: tuple[tuple[str, str], ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainTooShort(Event):
    """Handlers may run for longer than a stop waits for them; `handlers` has a line for each."""

    drain_seconds: float
    handlers: tuple[str, ...]
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutShortened(Event):
    """The platform gives a task's executions up before their handler's own timeout; the handler gets less."""

    task: str
    wanted_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainStarted(Event):
    """Nothing more is claimed; what runs has `seconds` to end."""

    reason: str
    seconds: float
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopped(Event):
    """The end, with what is left in the journal for the next start."""

    unreported: int
    left_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDied(Event):
    """A stage ended by an error that it should have handled: a defect of the worker; the process ends."""

    stage: str
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBlocked(Event):
    """Something holds the event loop, and with it everything: `where` it is just now, and how it came there."""

    where: str
    stack: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAnswered(Event):
    """A request to the platform is over; `code` is the status, or the kind of its failure."""

    operation: str
    code: str
    seconds: float
    purpose: str = ""
    """What of the budget it was for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetWaited(Event):
    """A request had to wait so long for its slot of the budget."""

    purpose: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPolled(Event):
    """A poll of a task is over."""

    task: str
    outcome: PollOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAmbiguous(Event):
    """A poll may have claimed an execution that the worker never learnt of; only a response timeout brings it back."""

    task: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageStarted(Event):
    """Something the worker needs stopped working."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageEnded(Event):
    """It works again, after so many seconds and failed attempts."""

    what: str
    seconds: float
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionTaken(Event):
    """An operator has asked for something, on the page, by a command or by a signal; the journal has it."""

    verb: str
    subject: str
    who: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRefused(Event):
    """What a signal asked for could not be done."""

    verb: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseExpired(Event):
    """A pause has ended by itself."""

    subject: str
    who: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionEvent(Event):
    """A fact about one execution."""

    task: str
    execution: str
    correlation: str | None


class About(TypedDict):
    """What every fact about an execution says of it."""

    task: str
    execution: str
    correlation: str | None


def about(execution: Execution) -> About:
    """Say which execution a fact is about."""
    return {"task": execution.task, "execution": execution.id, "correlation": execution.correlation_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionClaimed(ExecutionEvent):
    """An execution is ours and in the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRepeated(ExecutionEvent):
    """The platform offered an execution that the journal knows already."""

    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRecovered(ExecutionEvent):
    """What was running when its process died has been decided on: closed, failed, quarantined, rerun."""

    decision: str
    crashes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerFailed(ExecutionEvent):
    """A handler raised something else than TaskFailed."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerProcessEnded(ExecutionEvent):
    """A handler's process has ended, or was ended, in the middle of an execution; lost is its Dask scheduler.

    `reason` is crash, memory, late, cancelled or lost.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionUnwanted(ExecutionEvent):
    """The platform had ended an execution that still ran: its job was cancelled or timed out. Its handler is ended."""

    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionSettled(ExecutionEvent):
    """A handler's outcome is in the journal; `handler_seconds` is how long it ran."""

    status: str
    code: str
    handler_seconds: float
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPostponed(ExecutionEvent):
    """A report got no final answer; it is sent again in so many seconds."""

    reason: str
    attempts: int
    again_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConflicted(ExecutionEvent):
    """The platform has another final status than the one reported: the job was cancelled or timed out."""

    sent: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionReported(ExecutionEvent):
    """The platform has the outcome. The one canonical line of an execution."""

    status: str
    code: str
    message: str
    waited_seconds: float
    ran_seconds: float
    claim_to_report_seconds: float
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportUndeliverable(ExecutionEvent):
    """The platform refuses the outcome for good; it stays in the journal."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLogLine(Event):
    """A line for the log of a job was sent, dropped because too many waited, or failed."""

    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLogOff(Event):
    """The platform has no Logs API at this path; nothing more is sent to it until the next start."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLogRefused(Event):
    """A line for the log of a job cannot be written, or is refused; further ones are only counted."""

    reason: str


Emit = Callable[[Event], None]
"""How a stage says an event."""

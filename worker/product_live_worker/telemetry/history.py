"""Events as the recent past, for a person who looks: the third reader. All of it is bounded, whatever happens."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any

from product_live_worker.model.context import Log
from product_live_worker.telemetry import events
from product_live_worker.telemetry.events import Event
from product_live_worker.telemetry.redaction import cut

MINUTES = 60
"""How far back a task's history goes."""
REQUESTS = 600
FAILURES = 50
AMBIGUOUS = 20
HALF_AN_HOUR = 30
"""Minutes in which a task is seen to fail."""
MANY = 3
"""Failures from which on they are no accident."""
WITH_THE_WORKER = frozenset({"worker_restarted", "quarantined"})
"""Codes of executions that have ended because their worker did."""
DURATIONS = 200
"""Of a task's handler, from which its percentiles are taken."""
TRAILS = 1000
"""Executions of which the way is remembered."""
STEPS = 40
LINES = 20_000
"""Executions of which the last line is remembered."""
TEXT = 300
"""Characters of a message or a line at most."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is over; `at` is when it was sent."""

    at: float
    purpose: str
    operation: str
    code: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An execution that ended FAILED."""

    at: float
    task: str
    execution: str
    correlation: str | None
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Line:
    """What a handler has last said."""

    at: float
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to an execution."""

    at: float
    what: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """A poll that may have claimed what never arrived."""

    at: float
    task: str
    reason: str


@dataclass(slots=True)
class TaskHistory:
    """What became of one task's executions since the start."""

    completed: int = 0
    failed: int = 0
    polls: int = 0
    hits: int = 0
    polled_at: float | None = None
    claimed_at: float | None = None
    failed_at: float = -math.inf
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=DURATIONS))
    minutes: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=MINUTES))
    """Minutes in which executions were reported, each with how many COMPLETED and FAILED."""

    def reported(self, minute: int, *, failed: bool) -> None:
        """Count an execution."""
        last = self.minutes.pop() if self.minutes and self.minutes[-1][0] >= minute else (minute, 0, 0)
        self.minutes.append((last[0], last[1] + (not failed), last[2] + failed))
        self.completed += not failed
        self.failed += failed

    def since(self, minute: int) -> tuple[int, int]:
        """Count what COMPLETED and what FAILED from this minute on."""
        latest = [(done, failed) for at, done, failed in self.minutes if at >= minute]
        return sum(done for done, _ in latest), sum(failed for _, failed in latest)


class History:
    """What is remembered; `read` is an event's reader."""

    def __init__(self, *, window: float = 60.0, now: Callable[[], float] = time.time) -> None:
        """`window` is the budget's, in seconds; `now` is the wall clock, by which people know when it was."""
        self.requests: deque[Request] = deque(maxlen=REQUESTS)
        self.failures: OrderedDict[str, Failure] = OrderedDict()
        """The latest, by the execution's id, the earliest first."""
        self.tasks: dict[str, TaskHistory] = {}
        self.ambiguous: deque[Ambiguous] = deque(maxlen=AMBIGUOUS)
        self.lines: dict[str, Line] = {}
        """The last line of each execution that runs."""
        self._trails: OrderedDict[str, deque[Step]] = OrderedDict()
        self._window = window
        self._now = now

    def read(self, event: Event) -> None:
        """Remember what is worth it."""
        self._remember(event)

    def trail(self, execution: str) -> tuple[Step, ...]:
        """Give what happened to an execution in this process, the earliest first."""
        return tuple(self._trails.get(execution, ()))

    def of_window(self) -> list[Request]:
        """Give the requests of the last window, the earliest first."""
        since = self._now() - self._window
        return [request for request in self.requests if request.at >= since]

    def failing(self) -> list[tuple[str, int, int]]:
        """Give the tasks of which most executions fail: each with its failures, of so many in the last half hour."""
        now = self._now()
        # Most tasks have had none: what is asked twice a second looks at the others alone.
        some = ((key, one) for key, one in self.tasks.items() if now - one.failed_at < 60 * HALF_AN_HOUR)
        counted = ((key, *one.since(int(now // 60) - HALF_AN_HOUR)) for key, one in some)
        return [(key, failed, done + failed) for key, done, failed in counted if failed >= MANY and failed > done]

    def ended_with_the_worker(self) -> list[Failure]:
        """Give the executions of the last hour whose worker ended while it ran them, the earliest first."""
        since = self._now() - 3600
        return [one for one in self.failures.values() if one.code in WITH_THE_WORKER and one.at > since]

    def lost(self) -> list[Ambiguous]:
        """Give the polls of the last hour that may have claimed what never arrived, the earliest first."""
        return [one for one in self.ambiguous if self._now() - one.at < 3600]

    def noting(self, execution: str, log: Log) -> Log:
        """Give a log that remembers the last line of this execution."""
        return _Noting(execution, log, self)

    def note(self, execution: str, level: str, text: str) -> None:
        """Remember a line; called in any thread."""
        self.lines[execution] = Line(self._now(), level, cut(text, TEXT))
        if len(self.lines) > LINES:
            self.lines.pop(next(iter(self.lines)), None)

    def fail(self, failure: Failure) -> None:
        """Remember a failure."""
        self.failures[failure.execution] = failure
        self.failures.move_to_end(failure.execution)
        if len(self.failures) > FAILURES:
            self.failures.popitem(last=False)

    @singledispatchmethod
    def _remember(self, event: Event) -> None:
        """Most events are not remembered."""

    @_remember.register
    def _(self, event: events.RequestAnswered) -> None:
        at = self._now() - event.seconds
        self.requests.append(Request(at, event.purpose, event.operation, event.code, event.seconds))

    @_remember.register
    def _(self, event: events.TasksServed) -> None:
        served = {key for key, _ in event.tasks}
        # A task that is no longer served is forgotten: what the platform names must not grow without end.
        self.tasks = {key: past for key, past in self.tasks.items() if key in served}

    @_remember.register
    def _(self, event: events.TaskPolled) -> None:
        past = self._of(event.task)
        past.polls += 1
        past.polled_at = self._now()
        past.hits += event.outcome == "hit"

    @_remember.register
    def _(self, event: events.ClaimAmbiguous) -> None:
        self.ambiguous.append(Ambiguous(self._now(), event.task, cut(event.reason, TEXT)))

    @_remember.register
    def _(self, event: events.ExecutionClaimed) -> None:
        self._of(event.task).claimed_at = self._now()
        self._step(event, "claimed")

    @_remember.register
    def _(self, event: events.ExecutionRepeated) -> None:
        self._step(event, "offered again", f"it was {event.state} here")

    @_remember.register
    def _(self, event: events.ExecutionRecovered) -> None:
        self._step(event, "recovered", f"{event.decision}, after {event.crashes} deaths of a worker")

    @_remember.register
    def _(self, event: events.HandlerProcessEnded) -> None:
        self._step(event, "its process ended", event.reason)

    @_remember.register
    def _(self, event: events.ExecutionUnwanted) -> None:
        self._step(event, "no longer wanted", f"the platform has it as {event.status}")

    @_remember.register
    def _(self, event: events.ExecutionSettled) -> None:
        self._of(event.task).durations.append(event.handler_seconds)
        self.lines.pop(event.execution, None)
        self._step(event, "settled", " ".join(filter(None, (event.status, event.code))))
        if event.status == "FAILED":
            self._failed(event, event.code, event.message)

    @_remember.register
    def _(self, event: events.ReportPostponed) -> None:
        detail = f"attempt {event.attempts}, again in {event.again_in:.0f} s: {event.reason}"
        self._step(event, "report postponed", detail)

    @_remember.register
    def _(self, event: events.ReportConflicted) -> None:
        self._step(event, "conflict", f"sent {event.sent}, the platform has {event.found}")

    @_remember.register
    def _(self, event: events.ReportUndeliverable) -> None:
        self._step(event, "undeliverable", event.reason)

    @_remember.register
    def _(self, event: events.ExecutionReported) -> None:
        failed, past = event.status == "FAILED", self._of(event.task)
        past.reported(int(self._now() // 60), failed=failed)
        if failed:
            past.failed_at = self._now()
        self._step(event, "reported", event.status)
        self.lines.pop(event.execution, None)
        # What recovery has decided on was settled without a handler.
        if failed and event.execution not in self.failures:
            self._failed(event, event.code, event.message)

    def _failed(self, event: events.ExecutionEvent, code: str, message: str) -> None:
        said = (event.execution, event.correlation, code, cut(message, TEXT))
        self.fail(Failure(self._now(), event.task, *said))

    def _of(self, task: str) -> TaskHistory:
        return self.tasks.setdefault(task, TaskHistory())

    def _step(self, event: events.ExecutionEvent, what: str, detail: str = "") -> None:
        trail = self._trails.setdefault(event.execution, deque(maxlen=STEPS))
        trail.append(Step(self._now(), what, cut(detail, TEXT)))
        self._trails.move_to_end(event.execution)
        if len(self._trails) > TRAILS:
            self._trails.popitem(last=False)


class _Noting:
    """A log whose lines are remembered too."""

    def __init__(self, execution: str, log: Log, history: History) -> None:
        self._execution = execution
        self._log = log
        self._history = history

    def debug(self, event: str, **fields: Any) -> Any:
        return self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> Any:
        return self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> Any:
        return self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> Any:
        return self._say("error", event, fields)

    def __getattr__(self, name: str) -> Any:
        # What else the log can do (bind, exception) is its own affair.
        return getattr(self._log, name)

    def _say(self, level: str, event: str, fields: dict[str, Any]) -> Any:
        self._history.note(self._execution, level, _written(event, fields))
        return getattr(self._log, level)(event, **fields)


def _written(event: object, fields: dict[str, Any]) -> str:
    try:
        return " ".join(
            [cut(str(event), TEXT), *(f"{name}={value}" for name, value in fields.items() if name != "exc_info")]
        )
    except Exception:  # noqa: BLE001 (a value that cannot even say what it is)
        return type(event).__name__

"""The state of one Product-Live account and its rules; no I/O, and every moment comes in as `now`.

An execution: SCHEDULED ──poll──▶ IN_PROGRESS ──PATCH──▶ COMPLETED | FAILED, or ──silence──▶ TIMED_OUT.
FAILED and TIMED_OUT are followed by a new execution, with a new id, while the task's retryCount allows.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from product_live_worker.sandbox.definitions import definition
from product_live_worker.sandbox.records import FINAL, Execution, File, Json, LogLine, Patch, Status, Task
from product_live_worker.sandbox.refusals import MalformedError, NotFoundError, TooLargeError
from product_live_worker.sandbox.stamps import Stamps
from product_live_worker.sandbox.traffic import Arrival, Limiter, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

Record = TypeVar("Record")
SEVERITIES = ("info", "warning", "error")
MESSAGE_TYPES = ("DEFAULT", "MARKDOWN")


@dataclass(frozen=True)
class Settings:
    """How the account is set up; may change while the sandbox runs."""

    key: str = "sandbox-key"
    limit: int = 50
    window: float = 60.0
    scope: Scope = "account"
    latency: float = 0.0
    max_upload: int = 100_000_000


class World:
    """One account: its tasks, executions, files, logs and traffic.

    `epoch` is the Unix time at which the clock behind `now` reads zero; only the ISO dates are made of it.
    """

    def __init__(self, settings: Settings | None = None, *, random: Random | None = None, epoch: float = 0.0) -> None:
        self.settings = settings or Settings()
        self._stamps = Stamps(random or Random(), epoch)
        self.forget()

    def forget(self) -> None:
        """Start afresh, with the same settings."""
        self.tasks: dict[str, Task] = {}
        self.executions: dict[str, Execution] = {}
        self.files: dict[str, File] = {}
        self.log: list[LogLine] = []
        self.arrivals: list[Arrival] = []
        self.limiter = Limiter(self.settings.limit, self.settings.window, self.settings.scope)
        self._queues: dict[str, deque[Execution]] = defaultdict(deque)
        self._agenda: list[tuple[float, int, Execution]] = []
        self._order = count()

    def configure(self, settings: Settings) -> None:
        """Change the settings; another window or scope starts the limiter's count afresh, another limit does not."""
        if (settings.window, settings.scope) != (self.settings.window, self.settings.scope):
            self.limiter = Limiter(settings.limit, settings.window, settings.scope)
        self.limiter.limit = settings.limit
        self.settings = settings

    # Task definitions

    def create_task(self, fields: Mapping[str, Any], now: float) -> Task:
        """Add a task definition."""
        task = Task(self._stamps.new_id(), self._stamps.date(now), self._stamps.date(now), definition(fields))
        self._refuse_taken_key(task)
        self.tasks[task.id] = task
        return task

    def replace_task(self, task_id: str, fields: Mapping[str, Any], now: float) -> Task:
        """Give a task another definition."""
        task = replace(self.task(task_id), updated=self._stamps.date(now), fields=definition(fields))
        self._refuse_taken_key(task)
        self.tasks[task_id] = task
        return task

    def delete_task(self, task_id: str) -> Task:
        """Take a task away; what was queued for it is out of reach."""
        task = self.task(task_id)
        del self.tasks[task_id]
        return task

    def task(self, task_id: str) -> Task:
        """Find the task with this id."""
        return _known(self.tasks, task_id, "task")

    def task_called(self, key_or_id: str) -> Task:
        """Find the task with this key or id, as a submitter names it."""
        by_key = (task for task in self.tasks.values() if task.key == key_or_id)
        return next(by_key, None) or self.task(key_or_id)

    def _refuse_taken_key(self, task: Task) -> None:
        if any(other.key == task.key and other.id != task.id for other in self.tasks.values()):
            raise MalformedError(f"the key {task.key} is taken")

    # Executions

    def submit(self, key_or_id: str, given: Json, now: float) -> Execution:
        """Schedule an execution, as a job that reaches this task would."""
        correlated = (
            given
            if "eventCorrelationId" in given
            else {**given, "eventCorrelationId": self._stamps.new_correlation_id()}
        )
        task = self.task_called(key_or_id)
        date = self._stamps.date(now)
        execution = Execution(self._stamps.new_id(), task.id, task.key, date, date, correlated, submitted_at=now)
        self.executions[execution.id] = execution
        self._queues[task.id].append(execution)
        return execution

    def poll(self, task_id: str, now: float) -> Execution | None:
        """Claim the oldest scheduled execution of a task: whoever is told of it is the only one."""
        self.advance(now)
        task = self.task(task_id)
        queue = self._queues[task_id]
        while queue:
            execution = queue.popleft()
            # One that was finished without being claimed is still in the queue.
            if execution.status == "SCHEDULED":
                self._move(execution, "IN_PROGRESS", now)
                execution.claimed_at = now
                if task.patience is not None:
                    self._plan(execution, now + task.patience)
                return execution
        return None

    def execution(self, execution_id: str, now: float) -> Execution:
        """Find the execution with this id, as it is now."""
        self.advance(now)
        return _known(self.executions, execution_id, "task execution")

    def update(self, execution_id: str, body: Json, now: float) -> Execution:
        """Take a PATCH: on a final execution it changes nothing and succeeds; IN_PROGRESS queues it again."""
        execution = self.execution(execution_id, now)
        objection = _objection(body, execution_id)
        accepted = objection is None and execution.status not in FINAL
        execution.patches.append(Patch(now, body.get("status"), body.get("output"), accepted))
        if objection is not None:
            raise MalformedError(objection)
        if accepted:
            self._apply(execution, body["status"], body["output"], now)
        return execution

    def advance(self, now: float) -> None:
        """Let happen what the passing of time brings: timeouts, and the end of retry delays."""
        agenda = self._agenda
        while agenda and agenda[0][0] <= now:
            at, _, execution = heapq.heappop(agenda)
            # The plan may have changed since.
            if execution.due != at:
                continue
            if execution.status == "SCHEDULED":
                execution.due = None
                self._queues[execution.task_id].append(execution)
            else:
                self._finish(execution, "TIMED_OUT", at)

    def _apply(self, execution: Execution, status: Status, output: Json, now: float) -> None:
        execution.output = output
        if status != "IN_PROGRESS":
            self._finish(execution, status, now)
        else:
            # As Conductor does: "still working" gives the execution to whoever polls next.
            self._move(execution, "SCHEDULED", now)
            self._queues[execution.task_id].append(execution)

    def _finish(self, execution: Execution, status: Status, now: float) -> None:
        self._move(execution, status, now)
        execution.finished_at = now
        task = self.tasks.get(execution.task_id)
        if status != "COMPLETED" and task is not None and execution.attempt <= task.fields["retryCount"]:
            self._retry(execution, task, now)

    def _retry(self, failed: Execution, task: Task, now: float) -> None:
        again = Execution(
            self._stamps.new_id(),
            task.id,
            task.key,
            self._stamps.date(now),
            self._stamps.date(now),
            failed.input,
            submitted_at=now,
            attempt=failed.attempt + 1,
            retried_from=failed.id,
        )
        self.executions[again.id] = again
        self._plan(again, now + task.fields["retryDelaySeconds"])

    def _move(self, execution: Execution, status: Status, now: float) -> None:
        execution.status = status
        execution.updated = self._stamps.date(now)
        execution.due = None

    def _plan(self, execution: Execution, at: float) -> None:
        execution.due = at
        heapq.heappush(self._agenda, (at, next(self._order), execution))

    # Files

    def upload(self, filename: str, content: bytes, now: float) -> File:
        """Keep a file; the same content again is the same file."""
        if len(content) > self.settings.max_upload:
            raise TooLargeError(f"a file may have {self.settings.max_upload} bytes")
        file_id = hashlib.sha256(content).hexdigest()
        date = self._stamps.date(now)
        known = self.files.get(file_id)
        self.files[file_id] = File(file_id, filename, content, known.created if known else date, date)
        return self.files[file_id]

    def file(self, file_id: str) -> File:
        """Find the file with this id."""
        return _known(self.files, file_id, "file")

    # Logs

    def write_log(self, correlation_id: str, body: Json, now: float) -> LogLine:
        """Add a line to the log of the job with this correlation id; raises MalformedError."""
        for name in ("message", "emitterName", "eventCorrelationId"):
            if not isinstance(body.get(name), str) or not body[name]:
                raise MalformedError(f"{name} must be a text")
        severity = body.get("severity", "info")
        if not correlation_id or severity not in SEVERITIES or body.get("messageType", "DEFAULT") not in MESSAGE_TYPES:
            raise MalformedError(
                "needs the header cid; severity is info, warning or error, messageType DEFAULT or MARKDOWN"
            )
        self.log.append(LogLine(now, body["eventCorrelationId"], body["emitterName"], body["message"], severity))
        return self.log[-1]


def _known(records: Mapping[str, Record], key: str, noun: str) -> Record:
    try:
        return records[key]
    except KeyError:
        raise NotFoundError(f"no {noun} {key}") from None


def _objection(body: Json, execution_id: str) -> str | None:
    """Say what is wrong with the body of a PATCH."""
    if body.get("id") != execution_id:
        return "id is not the id of the path"
    if body.get("status") not in ("COMPLETED", "FAILED", "IN_PROGRESS"):
        return "status must be COMPLETED or FAILED"
    if not isinstance(body.get("output"), dict):
        return "output must be an object"
    return None

"""What the sandbox's platform remembers: task definitions, executions, files, log lines; each knows its public JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
Status = Literal["SCHEDULED", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMED_OUT"]
FINAL = frozenset({"COMPLETED", "FAILED", "TIMED_OUT"})


@dataclass(frozen=True, slots=True)
class Task:
    """A task definition; `fields` holds the thirteen that its author sets."""

    id: str
    created: str
    updated: str
    fields: Json

    @property
    def key(self) -> str:
        """The name that jobs use for the task."""
        return str(self.fields["key"])

    @property
    def patience(self) -> float | None:
        """Seconds that an execution may be in progress; None is for ever."""
        limits = (self.fields["responseTimeoutSeconds"], self.fields["timeoutSeconds"])
        return min((limit for limit in limits if limit > 0), default=None)

    def public(self) -> Json:
        """Give the platform's TaskDto, all seventeen fields."""
        return {"object": "task", "id": self.id, "createdAt": self.created, "updatedAt": self.updated, **self.fields}


@dataclass(frozen=True, slots=True)
class Patch:
    """One PATCH as it came; `accepted` when it changed the execution."""

    at: float
    status: Any
    output: Any
    accepted: bool

    def inside(self) -> Json:
        """Show it as the control API does."""
        return {"at": self.at, "status": self.status, "output": self.output, "accepted": self.accepted}


@dataclass(slots=True, eq=False)
class Execution:
    """One execution of a task; only the world changes it."""

    id: str
    task_id: str
    task_key: str
    created: str
    updated: str
    input: Json
    submitted_at: float
    attempt: int = 1
    retried_from: str | None = None
    status: Status = "SCHEDULED"
    output: Json = field(default_factory=dict)
    claimed_at: float | None = None
    finished_at: float | None = None
    due: float | None = None
    """When the platform acts by itself: a SCHEDULED one becomes pollable, one IN_PROGRESS times out."""
    patches: list[Patch] = field(default_factory=list)

    def public(self) -> Json:
        """Give the platform's TaskExecutionDto, all eight fields."""
        return {
            "object": "task_execution",
            "id": self.id,
            "taskId": self.task_id,
            "createdAt": self.created,
            "updatedAt": self.updated,
            "status": self.status,
            "input": self.input,
            "output": self.output,
        }

    def inside(self) -> Json:
        """Show it as the control API does; times are seconds of the sandbox's clock."""
        return {
            "id": self.id,
            "taskId": self.task_id,
            "task": self.task_key,
            "status": self.status,
            "input": self.input,
            "output": self.output,
            "submittedAt": self.submitted_at,
            "claimedAt": self.claimed_at,
            "finishedAt": self.finished_at,
            "attempt": self.attempt,
            "retriedFrom": self.retried_from,
            "patches": [patch.inside() for patch in self.patches],
        }


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file; its id is the SHA-256 of its content."""

    id: str
    filename: str
    content: bytes
    created: str
    updated: str

    def public(self, base_url: str) -> Json:
        """Give the platform's FileDto."""
        return {
            "object": "data_factory_file",
            "id": self.id,
            "createdAt": self.created,
            "updatedAt": self.updated,
            "url": f"{base_url}/v1/data_factory/files/{self.id}/content",
            "filename": self.filename,
        }

    def inside(self) -> Json:
        """Show it as the control API does."""
        return {"id": self.id, "filename": self.filename, "size": len(self.content)}


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line in the log of a job, as a task wrote it."""

    at: float
    correlation_id: str
    emitter: str
    message: str
    severity: str

    def inside(self) -> Json:
        """Show it as the control API does."""
        return {name: getattr(self, name) for name in self.__slots__}

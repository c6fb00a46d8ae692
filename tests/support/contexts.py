"""Contexts for handlers that are run without a daemon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from product_live_worker.executors.perform import Work
from product_live_worker.model.context import Context
from product_live_worker.model.handler import Handler


class NoLog:
    """A log that nobody reads."""

    def debug(self, event: str, **fields: Any) -> None:
        """See Log."""

    def info(self, event: str, **fields: Any) -> None:
        """See Log."""

    def warning(self, event: str, **fields: Any) -> None:
        """See Log."""

    def error(self, event: str, **fields: Any) -> None:
        """See Log."""


class Lines(NoLog):
    """A log that keeps its lines, from whatever thread they come."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep the line."""
        self.lines.append((event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        """Keep the line."""
        self.lines.append((event, fields))

    def said(self, event: str) -> list[dict[str, Any]]:
        """Give the fields of each line with these words."""
        return [fields for words, fields in self.lines if words == event]


def a_context(task: str = "power", *, seconds: float = 60.0, **settings: Any) -> Context:
    """Give the context of some execution of the task, with a deadline so many seconds away."""
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    return Context(execution_id="e1", task=task, deadline=deadline, log=NoLog(), settings=settings)


def some_work(handler: Handler, task: str = "power", raw: Any = None) -> Work:
    """Give an execution of the handler as an executor gets it."""
    return Work(
        handler=handler,
        raw={} if raw is None else raw,
        context=a_context(task),
        max_output=1_000_000,
        failed=lambda _: None,
    )

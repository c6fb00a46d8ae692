"""Contexts for handlers that are run without a daemon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from product_live_worker.model.handler import Context


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


def a_context(task: str = "power", *, seconds: float = 60.0, **settings: Any) -> Context:
    """Give the context of some execution of the task, with a deadline so many seconds away."""
    deadline = datetime.now(UTC) + timedelta(seconds=seconds)
    return Context(execution_id="e1", task=task, deadline=deadline, log=NoLog(), settings=settings)

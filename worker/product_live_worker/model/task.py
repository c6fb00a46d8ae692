"""A custom task as the worker serves it: which handler, how many at once, for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from product_live_worker.model.execution import OnCrash
from product_live_worker.model.handler import Handler

REPORTING = 10.0
"""Seconds kept of the platform's own timeout for the report; of a short one, a fifth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """What a task's section of the settings says; None leaves the word to the handler's decorator."""

    handler: str | None = None
    concurrency: int | None = None
    timeout: float | None = None
    on_crash: OnCrash | None = None
    watch: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTask:
    """A task of the account together with the handler that serves it. Times are seconds."""

    id: str
    key: str
    handler: Handler
    concurrency: int
    timeout: float
    on_crash: OnCrash
    watch: float | None = None
    """How often the platform is asked whether a running execution is still wanted; None is never."""
    settings: Any = field(default_factory=dict)
    """As the handler wants them: a model of its own, or a dict."""
    connection: Any = None
    """The section `[connections.<name>]` that they name, if a resource of the handler asks for one."""
    platform_timeout: float | None = None
    """How long the platform waits for the outcome, from the claim on; None where it says no limit."""

    @property
    def resumes(self) -> bool:
        """Whether an execution that a stop has ended goes on at the next start, where its checkpoint says."""
        return self.on_crash == "rerun" and self.handler.on_repeat == "adopt"

    @property
    def longest(self) -> float:
        """How long a handler may run that starts right after its claim."""
        return self.may_run(0.0)

    def may_run(self, since_claim: float) -> float:
        """Give how long a handler may run that starts so long after its claim; 0 or less is not at all."""
        if self.platform_timeout is None:
            return self.timeout
        margin = min(REPORTING, self.platform_timeout / 5)
        return min(self.timeout, self.platform_timeout - margin - max(0.0, since_claim))

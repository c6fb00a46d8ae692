"""A custom task as the worker serves it: which handler, how many at once, for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from product_live_worker.model.handler import Handler

OnCrash = Literal["fail", "rerun"]
OnRepeat = Literal["run", "adopt", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """What a task's section of the settings says; None leaves the word to the handler's decorator."""

    handler: str | None = None
    concurrency: int | None = None
    timeout: float | None = None
    on_crash: OnCrash | None = None
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
    settings: dict[str, Any] = field(default_factory=dict)

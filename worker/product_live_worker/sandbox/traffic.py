"""The account's traffic: which requests arrived, and how many of them are let in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from product_live_worker.sandbox.refusals import TooManyError

if TYPE_CHECKING:
    from product_live_worker.sandbox.records import Json

Scope = Literal["account", "resource"]


@dataclass(slots=True)
class Arrival:
    """One request to the public API; `status` is None until it is answered, and for ever when it was cut."""

    at: float
    method: str
    path: str
    operation: str
    id: str | None
    status: int | None = None
    fault: str | None = None

    def inside(self) -> Json:
        """Show it as the control API does."""
        return {name: getattr(self, name) for name in self.__slots__}


class Limiter:
    """An exact sliding window: at most `limit` requests are let in during any `window` seconds; 0 lets all in.

    A request that is refused uses no place. `scope` "resource" gives tasks, task_executions and files a window each.
    """

    def __init__(self, limit: int, window: float, scope: Scope) -> None:
        self.limit = limit
        self.window = window
        self.scope = scope
        self.largest_window = 0
        self.refused = 0
        self._let_in: dict[str, deque[float]] = {}
        self._arrived: dict[str, deque[float]] = {}

    def admit(self, resource: str, now: float) -> None:
        """Count a request for `resource` that arrives now; raises TooManyError when the window is full."""
        name = resource if self.scope == "resource" else "account"
        arrived = self._recent(self._arrived, name, now)
        arrived.append(now)
        self.largest_window = max(self.largest_window, len(arrived))
        let_in = self._recent(self._let_in, name, now)
        if self.limit and len(let_in) >= self.limit:
            self.refused += 1
            raise TooManyError(let_in[-self.limit] + self.window - now)
        let_in.append(now)

    def _recent(self, times: dict[str, deque[float]], name: str, now: float) -> deque[float]:
        """Give the times in (now - window, now]: what is exactly `window` old has left it."""
        recent = times.setdefault(name, deque())
        while recent and recent[0] <= now - self.window:
            recent.popleft()
        return recent

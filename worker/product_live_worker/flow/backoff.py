"""How long to wait after a failure, and what a row of failures is: an outage, told on its edges."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from product_live_worker.telemetry.events import Emit, OutageEnded, OutageStarted

FIRST = 1.0
LONGEST = 60.0


def delay(
    attempt: int, chance: float, *, first: float = FIRST, longest: float = LONGEST, at_least: float | None = None
) -> float:
    """Give the seconds to wait after the `attempt`-th failure in a row (from 1); `chance` is from 0 to 1.

    It doubles up to `longest` and is spread over its upper half, so that many who failed together do not return
    together. `at_least` is what the platform asked for.
    """
    whole = min(longest, first * 2.0 ** min(attempt - 1, 30))
    return max(whole * (1 + chance) / 2, at_least or 0.0)


class Outage:
    """Whether something works; says so when that changes, with how long it did not."""

    def __init__(
        self,
        what: str,
        emit: Emit,
        *,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.reason = ""
        self.error: Exception | None = None
        self.attempts = 0
        self._what = what
        self._emit = emit
        self._now = now
        self._chance = chance
        self._since = 0.0

    @property
    def lasts(self) -> bool:
        """Whether the last attempt failed."""
        return self.attempts > 0

    def seconds(self) -> float:
        """Give how long it has lasted."""
        return self._now() - self._since if self.lasts else 0.0

    def failed(self, error: Exception, *, first: float = FIRST, at_least: float | None = None) -> float:
        """Note a failure; gives the seconds to wait before the next attempt."""
        self.attempts += 1
        self.reason, self.error = str(error), error
        if self.attempts == 1:
            self._since = self._now()
            self._emit(OutageStarted(what=self._what, reason=self.reason))
        return delay(self.attempts, self._chance(), first=first, at_least=at_least)

    def worked(self) -> None:
        """Note a success."""
        if self.lasts:
            self._emit(OutageEnded(what=self._what, seconds=self.seconds(), attempts=self.attempts))
        self.attempts, self.reason, self.error = 0, "", None

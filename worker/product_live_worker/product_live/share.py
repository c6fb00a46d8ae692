"""How much of the account's limit is ours. Pure: the clock is an argument.

The worker never causes a 429 by itself, so one means that somebody else uses the account, or that the platform counts
more strictly than we do. Additive increase, multiplicative decrease: workers that know nothing of each other settle
near equal shares (Chiu and Jain, 1989), and what the others leave is taken up again slowly.
"""

from __future__ import annotations

import math

SMALLEST = 4
"""Requests in a window that a worker never goes below: a poll, its report, and as much in reserve."""
DECREASE = 0.7
"""What a refusal leaves of the share; with 0.8 two strangers stayed at two to one for hours (tests: share)."""
EPISODE = 20
"""Refusals within this part of a window (a twentieth) are one: they were under way together."""


class Share:
    """The effective limit: what the settings allow, lowered by each refusal, grown back by 1 in each window."""

    def __init__(self, limit: int, window: float) -> None:
        """`limit` requests in `window` seconds is the most it ever allows."""
        self._limit = limit
        self._window = window
        self._lowered_to = float(limit)
        self._refused_at = -math.inf

    def allowed(self, now: float) -> int:
        """Give how many requests may be in the window now."""
        grown = self._lowered_to + (now - self._refused_at) / self._window
        return int(min(self._limit, grown))

    def grows_in(self, now: float) -> float:
        """Give the seconds until one more is allowed; infinity at the limit."""
        grown = self._lowered_to + (now - self._refused_at) / self._window
        return math.inf if grown >= self._limit else (1 - grown % 1) * self._window

    def refused(self, now: float, used: int) -> None:
        """Lower the share: the platform answered 429 while `used` of our requests were in the window."""
        if now - self._refused_at < self._window / EPISODE:
            return
        allowed = self.allowed(now)
        # Never by more than half at once: while we use little, a 429 says nothing of how much would be ours.
        lowered = max(DECREASE * min(used, allowed), allowed / 2)
        self._lowered_to = max(min(SMALLEST, self._limit), lowered)
        self._refused_at = now

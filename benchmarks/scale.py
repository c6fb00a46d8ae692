"""Time-scaling: the window is shorter than 60 seconds, and every time in a scenario with it."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE = 60.0
LIMIT = 50
"""Requests in a window, as Product-Live allows."""
ROUND_TRIP = 0.15
"""Seconds, on the real scale, that the platform takes to answer: what a worker in another data centre sees."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One window of `window` seconds here stands for one of a minute there."""

    window: float

    @property
    def factor(self) -> float:
        """How many times faster than real this runs."""
        return MINUTE / self.window

    def here(self, seconds: float) -> float:
        """Give the seconds to wait here for so many of the real scale."""
        return seconds / self.factor

    def there(self, seconds: float) -> float:
        """Give the seconds of the real scale that so many measured here stand for."""
        return seconds * self.factor

    def no_faster_than(self, window: float) -> Scale:
        """Give this scale, or a slower one for what has seconds of its own (a process's start, Retry-After)."""
        return Scale(max(self.window, window))

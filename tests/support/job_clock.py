"""Time that passes only while somebody sleeps: hours of waiting cost a test no second."""

from __future__ import annotations

import anyio.lowlevel

from product_live_handlers.remote_job import Clock


class Leaping(Clock):
    """Leaps to the end of each sleep; every execution has one of its own."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        """Give the time to which the sleeps have led."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Leap, and let others go on."""
        self._now += seconds
        await anyio.lowlevel.checkpoint()


def no_chance() -> float:
    """Give the middle: no jitter."""
    return 0.5

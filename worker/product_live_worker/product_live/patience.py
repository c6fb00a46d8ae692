"""The deadline of a request: it counts the time in which this process runs, not that for which it was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

TICK = 0.25
"""Seconds between two looks at the clock."""
STOPPED = 1.0
"""Seconds that a look comes late when the process was stopped (SIGSTOP, a machine that was moved), not only busy."""


@dataclass
class Patience:
    """Waits for an answer. What came while the process was stopped lies in its buffers, and there is time to read it.

    Only for a request that had been sent before: one that has not must not be, on a slot that it has no longer.
    """

    seconds: float
    _to_proxy: bool = field(default=False, init=False)
    _sent: bool = field(default=False, init=False)

    async def trace(self, event: str, told: Mapping[str, Any]) -> None:
        """Hear how far the request is: to be its extension `trace` (httpcore, "Extensions")."""
        if event.endswith("send_request_headers.started"):
            self._to_proxy = told["request"].method == b"CONNECT"
        elif event.endswith("send_request_body.complete"):
            self._sent = not self._to_proxy

    @contextmanager
    def limit(self) -> Iterator[None]:
        """End the block after so many seconds; raises TimeoutError."""
        with anyio.fail_after(self.seconds) as scope, _ticking(lambda late: self._stopped(scope, late)):
            yield

    def _stopped(self, scope: anyio.CancelScope, late: float) -> None:
        if late > STOPPED and self._sent:
            scope.deadline += late


@contextmanager
def _ticking(tick: Callable[[float], None]) -> Iterator[None]:
    """Call `tick` now and then while the block runs, with the seconds by which that is late."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def look(due: float) -> None:
        tick(loop.time() - due)
        again()

    def again() -> None:
        # A callback, not a task: after a stop it is due before the deadline, and so comes first.
        timers[:] = [loop.call_later(TICK, look, loop.time() + TICK)]

    again()
    try:
        yield
    finally:
        timers[0].cancel()

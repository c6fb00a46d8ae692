"""Time that passes only while somebody sleeps: hours of waiting cost a test no second."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio.lowlevel

from product_live_handlers.remote_job import Clock
from product_live_worker import Handler
from product_live_worker.model.resource import Resource


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


def leaping(handler: Handler) -> Handler:
    """Give the handler whose client has clocks that leap; all else is as it is."""

    def fast(found: Resource) -> Resource:
        @asynccontextmanager
        async def open_fast(connection: Any) -> AsyncIterator[Any]:
            async with found.open(connection) as client:
                client.new_clock = Leaping
                yield client

        return replace(found, open=open_fast)

    # All handlers of one system share what they open: by one function, as the true ones do.
    shared = {found.open: _FAST.setdefault(found.open, fast(found)) for found in handler.resources.values()}
    return replace(handler, resources={name: shared[found.open] for name, found in handler.resources.items()})


_FAST: dict[Any, Resource] = {}

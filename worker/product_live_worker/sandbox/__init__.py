"""An independent Product-Live on this machine, for developers, tests and benchmarks."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from product_live_worker.listener import listen
from product_live_worker.sandbox.app import create_app
from product_live_worker.sandbox.faults import Faults
from product_live_worker.sandbox.world import Settings, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Faults", "Settings", "World", "create_app", "serve"]


@asynccontextmanager
async def serve(
    world: World | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], float] = time.monotonic,
    faults: Faults | None = None,
) -> AsyncIterator[str]:
    """Serve `world`, or a new one, while the block runs; gives its base URL."""
    world = world or World(epoch=time.time() - clock())
    async with listen(create_app(world, clock, faults), host, port) as bound:
        yield f"http://{host}:{bound}"

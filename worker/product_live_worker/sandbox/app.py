"""The sandbox as one ASGI application: the platform under /v1/, its control API under /sandbox/."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from product_live_worker.sandbox.control import control_app
from product_live_worker.sandbox.faults import Faults
from product_live_worker.sandbox.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from product_live_worker.sandbox.world import World


def create_app(world: World, clock: Callable[[], float] = time.monotonic, faults: Faults | None = None) -> ASGIApp:
    """Build the application over `world`; every moment in it is a reading of `clock`."""
    faults = faults or Faults()
    gate = Gate(world, faults, clock)
    control = control_app(world, faults, clock)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # The platform's requests do not pass through Starlette: its routing costs more than the rest of the answer.
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            await gate(scope, receive, send)
        else:
            await control(scope, receive, send)

    return app

"""A wire between a client and a server that can be cut: before a request arrives, or before its answer does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import anyio
import anyio.abc


@dataclass
class Wire:
    """Passes bytes on, until it is told not to."""

    port: int
    """Where the server listens."""
    lets_through: Literal["all", "requests", "nothing"] = "all"
    """With `requests`, the server is asked and does it, and the client never hears of it."""
    here: int = 0
    """Where the wire listens."""
    _ends: list[anyio.abc.SocketStream] = field(default_factory=list)

    async def pass_on(self, client: anyio.abc.SocketStream) -> None:
        """Connect a client with the server."""
        if self.lets_through != "all":
            await client.aclose()
            return
        async with client, await anyio.connect_tcp("127.0.0.1", self.port) as server, anyio.create_task_group() as both:
            both.start_soon(self._copy, client, server, both.cancel_scope)
            both.start_soon(self._copy, server, client, both.cancel_scope, True)

    async def _copy(
        self,
        source: anyio.abc.SocketStream,
        target: anyio.abc.SocketStream,
        scope: anyio.CancelScope,
        answers: bool = False,
    ) -> None:
        try:
            async for data in source:
                if self.lets_through == "nothing" or (answers and self.lets_through == "requests"):
                    break
                await target.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    """Lay a wire to the server on this port while the block runs."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        wire = Wire(port, here=listener.listeners[0].extra(anyio.abc.SocketAttribute.local_port))  # noqa: S610 (no SQL)
        serving.start_soon(listener.serve, wire.pass_on)
        try:
            yield wire
        finally:
            serving.cancel_scope.cancel()

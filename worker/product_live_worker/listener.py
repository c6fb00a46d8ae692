"""An HTTP listener inside this event loop: uvicorn without its signal handlers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import anyio
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from product_live_worker.model.errors import ListenerError

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What a listener that strangers reach allows them."""

    within: float
    """Seconds in which the head of a request must have come."""
    connections: int
    """At once; one more is closed, before it takes a file and memory from the worker's own work."""


class _Server(uvicorn.Server):
    """Leaves the process's signals alone: they belong to the daemon.

    uvicorn would take SIGTERM for itself, stop first, and raise it again when it is done.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Guarded(H11Protocol):
    """Closes what has sent no request in time: uvicorn itself waits for the first one for ever."""

    guard: Guard

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        if len(self.connections) > self.guard.connections:
            transport.abort()
        else:
            self.loop.call_later(self.guard.within, self._give_up)

    def _give_up(self) -> None:
        if cast("Any", self.cycle) is None:
            self.transport.abort()


@asynccontextmanager
async def listen(
    app: ASGIApp, host: str, port: int, *, dated: bool = True, guard: Guard | None = None
) -> AsyncIterator[int]:
    """Serve `app` on `host:port` while the block runs; gives the bound port (`port` 0 asks for a free one).

    `dated`: whether each answer gets a Date; an app that says its own time needs none beside it. With a `guard` each
    answer of the app has to close its connection. Raises ListenerError when the address cannot be taken.
    """
    bound = _bind(host, port)
    guarded = guard and cast("Any", type("_Guarded", (_Guarded,), {"guard": guard}))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        date_header=dated,
        http=guarded or "auto",
    )
    server = _Server(config)
    async with anyio.create_task_group() as serving:
        serving.start_soon(_serve, server, bound)
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True


async def _serve(server: _Server, bound: socket.socket) -> None:
    # Shielded: a cancelled uvicorn would leave its sockets open. It ends by `should_exit`, in about a second.
    with anyio.CancelScope(shield=True), bound:
        await server.serve([bound])


def _bind(host: str, port: int) -> socket.socket:
    # Bound here, not by uvicorn, which answers a taken port by sys.exit in the middle of the event loop.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, so that asyncio sets TCP_NODELAY on what it accepts: without it each answer waits 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        # Listening at once: who learns the port may connect before uvicorn has come up.
        bound.listen(2048)
    except (OSError, UnicodeError, OverflowError) as error:
        bound.close()
        why = getattr(error, "strerror", None) or error
        raise ListenerError(f"cannot listen on {host}:{port}: {why}") from error
    return bound

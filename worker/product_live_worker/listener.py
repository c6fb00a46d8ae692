"""An HTTP listener inside this event loop: uvicorn without its signal handlers."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import anyio
import uvicorn

from product_live_worker.model.errors import ListenerError

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    """Leaves the process's signals alone: they belong to the daemon.

    uvicorn would take SIGTERM for itself, stop first, and raise it again when it is done.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listen(app: ASGIApp, host: str, port: int, *, dated: bool = True) -> AsyncIterator[int]:
    """Serve `app` on `host:port` while the block runs; gives the bound port (`port` 0 asks for a free one).

    `dated`: whether each answer gets a Date; an app that says its own time needs none beside it. Raises ListenerError
    when the address cannot be taken.
    """
    bound = _bind(host, port)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, date_header=dated
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

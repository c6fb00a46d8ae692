"""The outward face: `/callbacks/{token}`, alone on a port of its own, where other systems say that they are done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from product_live_worker.listener import Guard
from product_live_worker.model.errors import JournalUnwritable

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 64 * 1024
"""Bytes of a body."""
WITHIN = 10.0
"""Seconds in which the head of a request must have come, and then its body."""
GUARD = Guard(within=WITHIN, connections=100)


def create_callback_app(store: Callable[[str, str], Awaitable[bool]], *, within: float = WITHIN) -> ASGIApp:
    """Build the application; `store` keeps a body under its token, and says whether anybody was given that."""

    async def callback(request: Request) -> Response:
        body = bytearray()
        try:
            with anyio.fail_after(within):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > LARGEST:
                        return Response(status_code=413)
        except TimeoutError:
            return Response(status_code=408)
        except ClientDisconnect:
            return Response(status_code=400)
        try:
            known = await store(request.path_params["token"], body.decode("utf-8", "replace"))
        except JournalUnwritable:
            # It will be sent again.
            return Response(status_code=503)
        # Exactly 200, and at once: some take any other for a failure, and repeat it for half an hour.
        return Response(status_code=200 if known else 404)

    return _closing(Starlette(routes=[Route("/callbacks/{token}", callback, methods=["POST"])]))


def _closing(app: ASGIApp) -> ASGIApp:
    """Have each answer close its connection: whoever it is, the next request is counted and timed anew."""

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        async def close(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await app(scope, receive, close)

    return closing

"""The outward face: `/callbacks/{token}`, alone on a port of its own, where other systems say that they are done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from product_live_worker.model.errors import JournalUnwritable

if TYPE_CHECKING:
    from starlette.requests import Request

LARGEST = 64 * 1024
"""Bytes of a body."""


def create_callback_app(store: Callable[[str, str], Awaitable[bool]]) -> Starlette:
    """Build the application; `store` keeps a body under its token, and says whether anybody was given that."""

    async def callback(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                return Response(status_code=413, headers={"Connection": "close"})
        try:
            known = await store(request.path_params["token"], body.decode("utf-8", "replace"))
        except JournalUnwritable:
            # It will be sent again.
            return Response(status_code=503)
        # Exactly 200, and at once: some take any other for a failure, and repeat it for half an hour.
        return Response(status_code=200 if known else 404)

    return Starlette(routes=[Route("/callbacks/{token}", callback, methods=["POST"])])

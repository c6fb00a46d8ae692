"""The way of each request to the public API: noted, counted, perhaps refused, perhaps spoilt, answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from product_live_worker.sandbox.api import Call, Operation, refusal_answer, resource, route
from product_live_worker.sandbox.refusals import KeyRefusedError, RefusalError
from product_live_worker.sandbox.traffic import Arrival
from product_live_worker.sandbox.wire import Answer, Connection, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from product_live_worker.sandbox.faults import Faults
    from product_live_worker.sandbox.kinds import Perform
    from product_live_worker.sandbox.world import World

LARGEST_JSON = 10 * 1024 * 1024
"""Conductor's hard limit of a payload."""
FORM_OVERHEAD = 64 * 1024


class Gate:
    """An ASGI application: the platform as its clients see it.

    The limiter comes first and sees every request, one with a wrong key too; what it refuses meets no fault.
    """

    def __init__(self, world: World, faults: Faults, clock: Callable[[], float]) -> None:
        self._world = world
        self._faults = faults
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        operation, subject = route(scope["method"], scope["path"])
        arrival = Arrival(self._clock(), scope["method"], scope["path"], operation.name, subject)
        self._world.arrivals.append(arrival)
        connection = Connection(arrival, receive, send)
        try:
            self._world.limiter.admit(resource(scope["path"]), arrival.at)
            body = await connection.read(self._largest(operation))
        except RefusalError as refusal:
            await connection.send(refusal_answer(refusal))
            return
        if body is not None:
            request = Request(dict(scope["headers"]), scope["query_string"], body)
            await self._answer(arrival, connection, lambda: self._perform(operation, request, subject or ""))

    def _largest(self, operation: Operation) -> int:
        return self._world.settings.max_upload + FORM_OVERHEAD if operation.name == "upload_file" else LARGEST_JSON

    async def _answer(self, arrival: Arrival, connection: Connection, perform: Perform) -> None:
        planned = self._faults.choose(arrival.operation)
        if planned is not None:
            arrival.fault = planned.kind
            await planned.fault.play(connection, perform)
            return
        answer = perform()
        if self._world.settings.latency:
            await anyio.sleep(self._world.settings.latency)
        await connection.send(answer)

    def _perform(self, operation: Operation, request: Request, subject: str) -> Answer:
        try:
            if request.header(b"x-api-key") != self._world.settings.key:
                raise KeyRefusedError("the API key is missing or not accepted")
            return operation.perform(Call(self._world, request, subject, self._clock()))
        except RefusalError as refusal:
            return refusal_answer(refusal)

"""A sandbox on a real socket that remembers, of each request, what was asked, what it claimed and what was answered."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from product_live_worker import sandbox
from product_live_worker.listener import listen
from product_live_worker.sandbox.api import route
from product_live_worker.sandbox.records import Execution
from support import leaks
from support.workers import add_task

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Moment = Literal["arrived", "done", "answered"]
"""Of a request: before its effect, between its effect and its answer, after the answer's last byte."""


@dataclass(eq=False)
class Seen:
    """One request, from the server's side; moments are of the monotonic clock."""

    operation: str
    id: str
    worker: int
    """The number of the worker process that was alive when it came."""
    arrived_at: float
    asked: bytes = b""
    claimed: str | None = None
    """The execution that it claimed."""
    status: int = 0
    content_type: str = ""
    answer: bytes = b""
    answered_at: float | None = None
    """When the whole answer had been sent; None when it was cut."""

    def brings_claim(self) -> bool:
        """Whether a client that got the answer could know what it claimed."""
        try:
            found = json.loads(self.answer)
        except ValueError:
            return False
        usable = self.status == 200 and self.content_type == "application/json"
        return usable and isinstance(found, dict) and found.get("id") == self.claimed

    def told(self) -> Any:
        """Give what a PATCH said."""
        body = json.loads(self.asked)
        return body["status"], body["output"]


@dataclass
class WatchedSandbox:
    """The world, its faults, and each request."""

    world: sandbox.World
    faults: sandbox.Faults
    url: str = ""
    worker: int = 0
    """Which worker process is alive; whoever starts one counts it here."""
    seen: list[Seen] = field(default_factory=list)
    at: Callable[[Moment, Seen], Awaitable[bool]] | None = None
    """Called at each moment of each request; False: the request ends there, without effect or answer."""

    def submit(self, task: str, **given: Any) -> Execution:
        """Submit an execution, as a job would."""
        return self.world.submit(task, given, time.monotonic())

    def patches(self, execution: str) -> list[Any]:
        """Give what each PATCH of an execution said, those that a fault kept from their effect too."""
        reports = (one for one in self.seen if one.operation == "update_execution" and one.id == execution)
        return [one.told() for one in reports if one.asked]


@asynccontextmanager
async def watched_sandbox(*tasks: str, limit: int = 0, window: float = 60.0) -> AsyncIterator[WatchedSandbox]:
    """Serve an account with tasks of these names while the block runs."""
    watched = WatchedSandbox(_World(sandbox.Settings(limit=limit, window=window)), sandbox.Faults())
    leaks.watch(watched.world)
    for task in tasks:
        add_task(watched.world, task)
    app = _watching(sandbox.create_app(watched.world, time.monotonic, watched.faults), watched)
    async with listen(app, "127.0.0.1", 0) as port:
        watched.url = f"http://127.0.0.1:{port}"
        yield watched


_CURRENT: ContextVar[Seen] = ContextVar("the request that is being answered")


class _World(sandbox.World):
    def poll(self, task_id: str, now: float) -> Execution | None:
        execution = super().poll(task_id, now)
        if execution is not None:
            _CURRENT.get().claimed = execution.id
        return execution


def _watching(app: ASGIApp, watched: WatchedSandbox) -> ASGIApp:
    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        operation, subject = route(scope["method"], scope["path"])
        seen = Seen(operation.name, subject or "", watched.worker, time.monotonic())
        watched.seen.append(seen)
        _CURRENT.set(seen)
        exchange = _Exchange(seen, watched, receive, send)
        try:
            await exchange.reach("arrived")
            await app(scope, exchange.receive, exchange.send)
        except _Ended:
            # uvicorn takes it ill when a client that is still there gets no answer.
            while (await receive())["type"] != "http.disconnect":
                pass

    return watching


class _Exchange:
    """What passes between the server and one client; `transport` is what the sandbox cuts."""

    def __init__(self, seen: Seen, watched: WatchedSandbox, receive: Receive, send: Send) -> None:
        self.transport = send.__self__.transport  # type: ignore[attr-defined]  # a method of uvicorn's cycle
        self._seen = seen
        self._watched = watched
        self._receive = receive
        self._send = send

    async def reach(self, moment: Moment) -> None:
        """Let the test do what it wants to at this moment; raises _Ended."""
        if self._watched.at is not None and not await self._watched.at(moment, self._seen):
            raise _Ended

    async def receive(self) -> Message:
        """Note what is asked."""
        message = await self._receive()
        self._seen.asked += message.get("body", b"")
        return message

    async def send(self, message: Message) -> None:
        """Note what is answered."""
        if message["type"] == "http.response.start":
            await self.reach("done")
            self._seen.status = message["status"]
            self._seen.content_type = dict(message["headers"]).get(b"content-type", b"").decode()
        await self._send(message)
        self._seen.answer += message.get("body", b"")
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._seen.answered_at = time.monotonic()
            await self.reach("answered")


class _Ended(Exception):
    """A request ends here."""

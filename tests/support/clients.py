"""A client on a platform that a test makes up, and what it did to the budget meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

from product_live_worker.model.execution import Outcome
from product_live_worker.model.window import Demand
from product_live_worker.product_live.budget import Budget, MemoryLedger, Purpose
from product_live_worker.product_live.client import Client, no_cookies
from product_live_worker.product_live.wire import TaskDraft, TaskExecution
from product_live_worker.telemetry.events import Event

KEY = "key-0123456789abcdef"
BASE = "https://api.platform.test"

Handler = Callable[[httpx.Request], Coroutine[Any, Any, httpx.Response]]
Verb = Callable[["Desk"], Awaitable[Any]]


@dataclass
class NotingLedger(MemoryLedger):
    """A ledger that keeps a note of each step."""

    notes: list[str] = field(default_factory=list)

    async def take(self, demand: Demand) -> int | float:
        """See Ledger."""
        taken = await super().take(demand)
        self.notes.append("taken" if isinstance(taken, int) else "refused")
        return taken

    def answered(self, slot: int, hold: float) -> None:
        """See Ledger."""
        super().answered(slot, hold)
        self.notes.append("answered")

    def give_back(self, slot: int) -> None:
        """See Ledger."""
        # Who gives back twice, as a `with` in a `with` does, gives back once.
        if slot in self._lane_of:
            self.notes.append("given back")
        super().give_back(slot)


@dataclass
class Desk:
    """A client, its budget, and the notes of both."""

    http: httpx.AsyncClient
    total_timeout: float = 20.0
    limit: int = 50
    keys: list[str] = field(default_factory=lambda: [KEY])
    """The keys that the key file has, one reading after the other; the last one stays."""
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Put the parts together, as the daemon does."""
        self.ledger = NotingLedger(now=anyio.current_time)
        self.budget = Budget(
            self.ledger, limit=self.limit, window=60, longest_request=self.total_timeout + 2, emit=self.events.append
        )
        self.client = Client(
            self.http,
            self.budget,
            read_key=lambda: self.keys.pop(0) if len(self.keys) > 1 else self.keys[0],
            total_timeout=self.total_timeout,
            emit=self.events.append,
        )

    async def poll(self, task: str = "t1") -> TaskExecution | None:
        """Poll as the poller does, with a slot taken before."""
        with await self.budget.slot(Purpose.POLL, resource="tasks") as slot:
            return await self.client.poll(task, slot)

    def heard(self, kind: type[Event]) -> list[Any]:
        """Give the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


DRAFT = TaskDraft(key="power", description="2 to the power of")
LOGS = "/v1/data_factory/logs"
VERBS: dict[str, Verb] = {
    "poll": lambda desk: desk.poll(),
    "read_execution": lambda desk: desk.client.read_execution("e1", Purpose.RECOVER),
    "update_execution": lambda desk: desk.client.update_execution("e1", Outcome.completed({"result": 8})),
    "list_tasks": lambda desk: desk.client.list_tasks(),
    "read_task": lambda desk: desk.client.read_task("t1"),
    "create_task": lambda desk: desk.client.create_task(DRAFT),
    "update_task": lambda desk: desk.client.update_task("t1", DRAFT),
    "read_file": lambda desk: desk.client.read_file("f1"),
    "write_log": lambda desk: desk.client.write_log(LOGS, "c1", emitter="power", message="m", severity="info"),
}


@asynccontextmanager
async def desk_on(handle: Handler | httpx.Response, **fields: Any) -> AsyncIterator[Desk]:
    """Give a client whose every request is answered by `handle`."""

    async def always(_: httpx.Request) -> httpx.Response:
        assert isinstance(handle, httpx.Response)
        return httpx.Response(handle.status_code, headers=handle.headers, content=handle.content)

    respond = always if isinstance(handle, httpx.Response) else handle
    transport = httpx.MockTransport(respond)
    async with httpx.AsyncClient(base_url=BASE, transport=transport, cookies=no_cookies()) as http:
        yield Desk(http, **fields)

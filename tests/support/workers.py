"""A real worker against a sandbox over a real connection, in the test's own event loop."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx

from product_live_worker import sandbox
from product_live_worker.daemon import Daemon, open_daemon
from product_live_worker.model.handler import Handler
from product_live_worker.sandbox.records import FINAL, Execution
from product_live_worker.settings import Settings, load
from product_live_worker.stage import Stop
from product_live_worker.systemd import Notifier
from product_live_worker.telemetry.events import Event
from support import leaks

Found = TypeVar("Found", bound=Event)


@dataclass
class RunningWorker:
    """The worker, the world that it serves, and all that it has said."""

    daemon: Daemon
    world: sandbox.World
    url: str
    stop: Stop
    events: list[Event] = field(default_factory=list)
    ended: anyio.Event = field(default_factory=anyio.Event)

    def submit(self, task: str, *inputs: dict[str, Any]) -> list[Execution]:
        """Submit executions as jobs would."""
        return [self.world.submit(task, given, time.monotonic()) for given in inputs]

    async def run(self, task: str, *inputs: dict[str, Any]) -> list[Execution]:
        """Submit executions and wait until the platform has a final status of each."""
        submitted = self.submit(task, *inputs)
        await until(lambda: all(execution.status in FINAL for execution in submitted))
        return submitted

    def heard(self, kind: type[Found]) -> list[Found]:
        """Give the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask the ops listener."""
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.get(f"http://127.0.0.1:{self.daemon.port}{path}", headers=headers)

    async def page(self) -> str:
        """Give the operator's page."""
        return (await self.get("/", Accept="text/html")).text

    async def drain(self) -> None:
        """Stop the worker in its orderly way, and wait until it has ended."""
        self.stop.request("the test asks for it")
        await self.ended.wait()


async def until(true: Callable[[], bool]) -> None:
    """Wait until something has come true; the test's own timeout ends a wait that is in vain."""
    while not true():  # noqa: ASYNC110 (what is waited for is the other side's, and says nothing)
        await anyio.sleep(0.005)


def new_world(*tasks: str, limit: int = 50, window: float = 60.0, **fields: Any) -> sandbox.World:
    """Make an account with tasks of these names."""
    world = leaks.watch(sandbox.World(sandbox.Settings(limit=limit, window=window)))
    for task in tasks:
        add_task(world, task, **fields)
    return world


def add_task(world: sandbox.World, key: str, **fields: Any) -> str:
    """Add a task; gives its id."""
    minimum = {"key": key, "description": "", "retryCount": 0, "inputKeys": [], "outputKeys": []}
    return world.create_task({**minimum, **fields}, time.monotonic()).id


def settings_for(url: str, state: Path, /, **sections: Mapping[str, Any]) -> Settings:
    """Give the settings of a worker on this platform; a section's values replace the defaults."""
    base = load(None, {"PLW_API__BASE_URL": url, "PLW_API__KEY": "sandbox-key", "PLW_CONFIG": "/dev/null"})
    given: dict[str, Mapping[str, Any]] = {
        "http": {"port": 0},
        **sections,
        "state": {"url": f"sqlite:///{state / 'worker.db'}", **sections.get("state", {})},
    }
    return Settings(**{**base.model_dump(), **{name: {**base.model_dump()[name], **v} for name, v in given.items()}})


@asynccontextmanager
async def running_worker(
    handlers: Iterable[Handler],
    state: Path,
    /,
    *,
    world: sandbox.World | None = None,
    url: str | None = None,
    faults: sandbox.Faults | None = None,
    **sections: Mapping[str, Any],
) -> AsyncIterator[RunningWorker]:
    """Run a worker with these handlers while the block runs; it is drained at the end.

    `url` is where `world` is served already; left out, it is served for as long as the worker runs.
    """
    by_name = {handler.name: handler for handler in handlers}
    world = world or new_world(*by_name)
    async with sandbox.serve(world, faults=faults) if url is None else nullcontext(url) as base_url:
        settings = settings_for(base_url, state, **sections)
        events: list[Event] = []
        async with open_daemon(settings, by_name, readers=[events.append]) as daemon:
            worker = RunningWorker(daemon, world, base_url, Stop(), events)

            async def live() -> None:
                try:
                    await daemon.run(worker.stop, Notifier(None))
                finally:
                    worker.ended.set()

            async with anyio.create_task_group() as life:
                life.start_soon(live)
                try:
                    yield worker
                finally:
                    worker.stop.request("the test is over")

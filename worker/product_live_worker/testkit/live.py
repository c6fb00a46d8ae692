"""The coroutines behind the `sandbox` fixture: a daemon, the platform it serves, and what a test asks of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from pydantic import SecretStr

from product_live_worker import sandbox
from product_live_worker.daemon import Daemon, open_daemon
from product_live_worker.model.execution import Outcome, Status
from product_live_worker.model.handler import Handler
from product_live_worker.ops.health import verdict
from product_live_worker.settings import Settings
from product_live_worker.stage import Stop
from product_live_worker.systemd import Notifier

GLANCE = 0.005
"""Seconds between two looks at an execution."""
FINAL = frozenset(Status)


@dataclass
class Live:
    """An open worker and its world; all is called in their event loop."""

    world: sandbox.World
    url: str
    daemon: Daemon
    died: BaseException | None = None

    async def submit(self, task: str, input: dict[str, Any]) -> str:
        """Submit an execution; gives its id. Raises ValueError for a task that is not served."""
        keys = sorted(served.key for served in self.world.tasks.values())
        if task not in keys:
            raise ValueError(f"no handler named {task!r} is served here; served are {', '.join(keys) or 'none'}")
        return self.world.submit(task, input, time.monotonic()).id

    async def upload(self, filename: str, content: bytes) -> dict[str, Any]:
        """Put a file on the platform; gives it as an input has it."""
        return self.world.upload(filename, content, time.monotonic()).public(self.url)

    async def content(self, file_id: str) -> bytes:
        """Give what is in a file of the platform's; raises LookupError."""
        if file_id not in self.world.files:
            raise LookupError(f"the platform has no file {file_id!r}")
        return self.world.files[file_id].content

    async def outcome(self, execution: str, timeout: float) -> Outcome:
        """Wait for the outcome of an execution; raises TimeoutError, or RuntimeError when the worker has died."""
        found = self.world.execution(execution, time.monotonic())
        with anyio.move_on_after(timeout):
            while found.status not in FINAL:
                if self.died is not None:
                    raise RuntimeError("the worker ended by an error; this is a defect of it") from self.died
                await anyio.sleep(GLANCE)
            return Outcome(Status(found.status), dict(found.output or {}))
        raise TimeoutError(
            f"the execution {execution} of {found.task_key!r} is {found.status} after {timeout:g} s; "
            f"the worker says: {verdict(self.daemon.health.ready())}"
        )


@asynccontextmanager
async def open_live(
    handlers: Mapping[str, Handler],
    settings: Mapping[str, Mapping[str, Any]],
    connections: Mapping[str, Mapping[str, Any]],
    directory: Path,
) -> AsyncIterator[Live]:
    """Run a worker with these handlers against a sandbox while the block runs; it is drained at the end.

    Raises ValueError for the settings of a handler that is not served.
    """
    if strangers := settings.keys() - handlers.keys():
        raise ValueError(f"settings for {', '.join(sorted(strangers))}: served are {', '.join(sorted(handlers))}")
    world = sandbox.World(sandbox.Settings(limit=0), epoch=time.time() - time.monotonic())
    for name in handlers:
        fields = {"key": name, "description": "", "retryCount": 0, "inputKeys": [], "outputKeys": []}
        world.create_task(fields, time.monotonic())
    async with sandbox.serve(world) as url:
        worker = _settings((url, world.settings.key), handlers, settings, connections, directory)
        async with open_daemon(worker, handlers) as daemon:
            live, stop = Live(world, url, daemon), Stop()

            async def work() -> None:
                try:
                    await daemon.run(stop, Notifier(None))
                except Exception as error:  # noqa: BLE001 (told to the test that waits for an outcome)
                    live.died = error

            async with anyio.create_task_group() as life:
                life.start_soon(work)
                try:
                    yield live
                finally:
                    stop.request("the test is over")


def _settings(
    world: tuple[str, str],
    handlers: Mapping[str, Handler],
    settings: Mapping[str, Mapping[str, Any]],
    connections: Mapping[str, Mapping[str, Any]],
    directory: Path,
) -> Settings:
    url, key = world
    return Settings.model_validate(
        {
            "api": {"base_url": url, "key": SecretStr(key)},
            "budget": {"requests_per_minute": 0},
            "state": {"url": f"sqlite:///{(directory / 'worker.db').as_posix()}"},
            "http": {"port": 0},
            "drain": {"timeout": 1},
            "connections": {name: dict(section) for name, section in connections.items()},
            "tasks": {name: {"handler": name, "settings": dict(settings.get(name, {}))} for name in handlers},
        }
    )

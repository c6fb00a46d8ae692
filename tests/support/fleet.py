"""Several real workers on one PostgreSQL and one account, killed and stopped as machines do it."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from support.journals import all_rows
from support.noted_handlers import TASKS, Note, notes
from support.plugins import install
from support.processes import Running, running
from support.watched_sandbox import WatchedSandbox

LIMIT, WINDOW = 50, 6.0
"""The budget, scaled down ten times."""
LEASE = 3.0


@dataclass
class Fleet:
    """The workers, all that ever were."""

    url: str
    sandbox: WatchedSandbox
    directory: Path
    tasks: tuple[str, ...] = TASKS
    variables: dict[str, str] = field(default_factory=dict)
    workers: list[Running] = field(default_factory=list)
    killed: dict[int, float] = field(default_factory=dict)
    """The processes that got a SIGKILL, and when, on the monotonic clock."""
    group: anyio.abc.TaskGroup | None = None

    async def start(self) -> Running:
        """Start one more."""
        self.directory.mkdir(exist_ok=True)
        variables = {
            "PLW_API__BASE_URL": self.sandbox.url,
            "PLW_API__KEY": "sandbox-key",
            "PLW_API__TOTAL_TIMEOUT": "3s",
            "PLW_STATE__URL": self.url,
            "PLW_STATE__LEASE": f"{LEASE}s",
            "PLW_BUDGET__REQUESTS_PER_MINUTE": str(LIMIT),
            "PLW_BUDGET__WINDOW": f"{WINDOW}s",
            "PLW_BUDGET__MAX_STALENESS": f"{WINDOW}s",
            "PLW_HTTP__PORT": "0",
            "PLW_DRAIN__TIMEOUT": "5s",
            "NOTES": str(self.directory / "notes"),
            **install(self.directory / "plugin", "support.noted_handlers", *self.tasks),
            **self.variables,
        }

        async def live(*, task_status: anyio.abc.TaskStatus[Running]) -> None:
            async with running("run", cwd=self.directory, variables=variables) as worker:
                task_status.started(worker)
                await worker.ended()

        assert self.group is not None
        worker: Running = await self.group.start(live)
        self.workers.append(worker)
        return worker

    async def started(self, count: int) -> None:
        """Start so many, and wait until all are up."""
        for _ in range(count):
            await self.start()
        await self.up()

    async def up(self) -> None:
        """Wait until all that were started and not killed are at work."""
        waiting = self.alive()
        while waiting:
            await anyio.sleep(0.1)
            waiting = [worker for worker in waiting if "serving tasks" not in worker.output]
            assert not (gone := [worker.output for worker in waiting if worker.process.returncode is not None]), gone

    def alive(self) -> list[Running]:
        """Give those that run."""
        return [worker for worker in self.workers if worker.process.returncode is None]

    async def kill(self, worker: Running) -> None:
        """End a worker without a word."""
        self.killed[worker.process.pid] = time.monotonic()
        worker.send(signal.SIGKILL)
        await worker.ended()

    async def drain(self) -> list[int]:
        """End all in an orderly way; gives their exit codes."""
        ending = self.alive()
        for worker in ending:
            worker.send(signal.SIGTERM)
        return [await worker.ended() for worker in ending]

    def rows(self) -> dict[str, dict[str, Any]]:
        """Give the rows of the journal, by execution."""
        return {row["id"]: row for row in all_rows(self.url)}

    def notes(self) -> list[Note]:
        """Give what the handlers have noted."""
        return notes(self.directory / "notes")


@asynccontextmanager
async def fleet(url: str, sandbox: WatchedSandbox, directory: Path, **more: Any) -> AsyncIterator[Fleet]:
    """Give a fleet without workers; at the end all are killed."""
    it = Fleet(url, sandbox, directory, **more)
    async with anyio.create_task_group() as it.group:
        yield it
        it.group.cancel_scope.cancel()

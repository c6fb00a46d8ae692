"""The watch: asks the platform whether a long-running execution is still wanted, and ends one that is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import anyio

from product_live_worker.flow.backoff import Outage
from product_live_worker.journal.journal import Journal
from product_live_worker.model.errors import IllegalTransition, PlatformError, RequestRefused
from product_live_worker.model.execution import ENDED_ALREADY, FINAL_ELSEWHERE, Execution, State
from product_live_worker.model.task import ServedTask
from product_live_worker.product_live.budget import Purpose
from product_live_worker.product_live.client import Client
from product_live_worker.telemetry.events import Emit, ExecutionUnwanted, about

STEP = 5.0
"""Seconds at most between two looks at what runs here; these cost no request."""


class Watch:
    """Takes RUNNING rows that the platform has ended, leaves REPORTED ones.

    Its requests come after all reports and polls, and one at a time: where the budget is short, they wait.
    """

    def __init__(
        self,
        client: Client,
        journal: Journal,
        tasks: Mapping[str, ServedTask],
        *,
        ready: anyio.Event,
        cancel: Callable[[str, str], None],
        emit: Emit,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ready` is set when `tasks` are known; `cancel` ends one that has this status; `now` is any clock."""
        self._client = client
        self._journal = journal
        self._tasks = tasks
        self._ready = ready
        self._cancel = cancel
        self._emit = emit
        self._now = now
        self._outage = Outage("watching executions", emit)
        self._seen: dict[str, float] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        await self._ready.wait()
        while True:
            for execution in tuple(self._due()):
                await self._look(execution)
            await anyio.sleep(min([STEP, *(task.watch / 4 for task in self._tasks.values() if task.watch)]))

    def _due(self) -> Iterator[Execution]:
        """Give what runs longer than its task's watch, or did so again since it was looked at."""
        if not any(task.watch for task in self._tasks.values()):
            return
        now = self._now()
        running = {e.id: e for e in self._journal.open_executions() if e.state is State.RUNNING}
        self._seen = {execution_id: self._seen.get(execution_id, now) for execution_id in running}
        for execution in running.values():
            task = self._tasks.get(execution.task)
            if task is not None and task.watch and now - self._seen[execution.id] >= task.watch:
                yield execution

    async def _look(self, execution: Execution) -> None:
        try:
            found = await self._client.read_execution(execution.id, Purpose.WATCH, order=execution.claimed_at)
        except RequestRefused:
            # Unknown to the platform: the report will be told so, and kept as undeliverable.
            found = None
        except PlatformError as error:
            self._outage.failed(error)
            return
        finally:
            self._seen[execution.id] = self._now()
        self._outage.worked()
        row = self._journal.get(execution.id)
        if found is None or found.status not in FINAL_ELSEWHERE or row is None or row.state is not State.RUNNING:
            return
        try:
            await self._journal.close(row, ENDED_ALREADY)
        except IllegalTransition:
            # It has just ended by itself: its report will be told.
            return
        self._cancel(execution.id, found.status)
        self._emit(ExecutionUnwanted(**about(execution), status=found.status))

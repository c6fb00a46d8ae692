"""The catalogue: which of the account's tasks this worker serves, learnt at start and again now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import anyio

from product_live_worker.flow.backoff import Outage
from product_live_worker.model.errors import PlatformError
from product_live_worker.model.execution import OnCrash
from product_live_worker.model.handler import Handler
from product_live_worker.model.task import ServedTask, TaskSettings
from product_live_worker.product_live.client import Client
from product_live_worker.registry import Connections, assign
from product_live_worker.telemetry.events import Emit, TasksServed, TimeoutShortened

REFRESH = 600.0
"""Seconds between two looks at the account's tasks; it costs a request or two of five hundred."""
REFRESH_INCOMPLETE = 60.0
"""The same while a configured task is unknown to the platform, or nothing at all is served."""


CUT_SHORT: dict[OnCrash, str] = {"fail": "is FAILED as cancelled", "rerun": "is run again by the next start"}
"""What becomes of an execution that still runs when the drain is over."""


def cut_short(tasks: Iterable[ServedTask], drain: float) -> tuple[str, ...]:
    """Say of each task whose handler may run for longer than the drain waits, what then becomes of it.

    Nothing of one that goes on at the next start: no drain has to wait for that.
    """
    return tuple(
        f"{task.key} may run for {task.timeout:g} s, and after {drain:g} s {CUT_SHORT[task.on_crash]}"
        for task in tasks
        if task.timeout > drain and not task.resumes
    )


class Catalogue:
    """`tasks` is read by the stages: the tasks served, by key."""

    def __init__(
        self,
        client: Client,
        handlers: Mapping[str, Handler],
        sections: Mapping[str, TaskSettings],
        connections: Connections,
        *,
        platform: str,
        on_change: Callable[[], None],
        emit: Emit,
    ) -> None:
        """`sections` is what the settings say of each task; without any, tasks are matched to handlers by key."""
        self.tasks: dict[str, ServedTask] = {}
        self.problems: tuple[str, ...] = ()
        self.outage = Outage("reading the account's tasks", emit)
        self.loaded = anyio.Event()
        self._client = client
        self._handlers = handlers
        self._sections = sections
        self._connections = connections
        self._platform = platform
        self._on_change = on_change
        self._emit = emit

    async def run(self) -> None:
        """Keep `tasks` true until cancelled."""
        while True:
            try:
                await self._refresh()
                self.outage.worked()
                wait = REFRESH if self.tasks and not self.problems else REFRESH_INCOMPLETE
            except PlatformError as error:
                wait = self.outage.failed(error, at_least=error.retry_after)
            await anyio.sleep(wait)

    async def _refresh(self) -> None:
        definitions = await self._client.list_tasks()
        known = {task.key: task.id for task in definitions}
        assigned, problems = assign(known, self._handlers, self._sections, self._connections)
        waits = {task.key: task.longest_wait for task in definitions}
        served = {key: replace(task, platform_timeout=waits[key]) for key, task in assigned.items()}
        first = not self.loaded.is_set()
        if first or (served, problems) != (self.tasks, self.problems):
            self.tasks.clear()
            self.tasks.update(served)
            self.problems = problems
            self._on_change()
            tasks = tuple((task.key, task.handler.name) for task in served.values())
            self._emit(TasksServed(platform=self._platform, tasks=tasks, problems=problems))
            for task in served.values():
                if task.longest < task.timeout:
                    self._emit(TimeoutShortened(task=task.key, wanted_seconds=task.timeout, seconds=task.longest))
        self.loaded.set()

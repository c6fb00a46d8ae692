"""The catalogue: which of the account's tasks this worker serves, learnt at start and again now and then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import anyio

from product_live_worker.flow.backoff import Outage
from product_live_worker.journal.task_list import TaskList
from product_live_worker.model.errors import JournalUnwritable, PlatformError
from product_live_worker.model.execution import OnCrash
from product_live_worker.model.handler import Handler
from product_live_worker.model.task import ServedTask, TaskSettings
from product_live_worker.product_live.client import Client
from product_live_worker.registry import Connections, assign
from product_live_worker.telemetry.events import Emit, TasksServed, TimeoutShortened

LOOK = 60.0
"""Seconds between two looks at what the workers on this database know of the account's tasks; these cost no request."""
REFRESH = 600.0
"""Seconds after which one of them asks the platform again; it costs a request or two of five hundred."""
REFRESH_INCOMPLETE = 30.0
"""The same, at a look, while a configured task is unknown to the platform, or nothing at all is served."""
UNREADABLE = 2.0
"""Seconds at most between two attempts to look while the journal's database cannot be asked."""

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


class Listed(NamedTuple):
    """A task of the account, as far as it matters here."""

    id: str
    longest_wait: float | None
    """How long the platform waits for an outcome, in seconds; None where it says no limit."""


class Catalogue:
    """`tasks` is read by the stages: the tasks served, by key."""

    def __init__(
        self,
        client: Client,
        task_list: TaskList,
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
        self._task_list = task_list
        self._has_the_turn = False
        """Whether it is for this worker to ask the platform, and it has had no answer yet."""
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
                wait = LOOK
            except PlatformError as error:
                wait = self.outage.failed(error, at_least=error.retry_after)
            except JournalUnwritable as error:
                # Nothing is claimed meanwhile either.
                wait = min(self.outage.failed(error), UNREADABLE)
            await anyio.sleep(wait)

    async def _refresh(self) -> None:
        # What another worker has read is as good, unless this one misses something in it.
        for within in (REFRESH, REFRESH_INCOMPLETE):
            listed = await self._list(within)
            known = {key: task.id for key, task in listed.items()}
            assigned, problems = assign(known, self._handlers, self._sections, self._connections)
            if assigned and not problems:
                break
        waits = {key: task.longest_wait for key, task in listed.items()}
        self._serve({key: replace(task, platform_timeout=waits[key]) for key, task in assigned.items()}, problems)

    async def _list(self, within: float) -> dict[str, Listed]:
        if not self._has_the_turn:
            known = await self._task_list.known(within)
            if known is not None:
                return {key: Listed(*task) for key, task in known.items()}
            self._has_the_turn = True
        listed = {task.key: Listed(task.id, task.longest_wait) for task in await self._client.list_tasks()}
        with contextlib.suppress(JournalUnwritable):
            await self._task_list.keep(listed)
            # Else it is asked for again: the list that is kept is older than what is served here.
            self._has_the_turn = False
        return listed

    def _serve(self, served: dict[str, ServedTask], problems: tuple[str, ...]) -> None:
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

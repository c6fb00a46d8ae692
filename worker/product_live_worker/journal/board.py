"""The board: what operators have asked for, and what they are shown of the database that its workers share."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, func, select

from product_live_worker.journal import actions
from product_live_worker.journal.leases import Leases
from product_live_worker.journal.tables import IS_FAILED, IS_OPEN, executions
from product_live_worker.model.action import Action
from product_live_worker.model.execution import State

Result = TypeVar("Result")
OVERTAKEN = 32
"""Numbers before the latest that are looked for again."""
SHOWN = 50
"""Rows of each kind that are read to be shown."""
_KEPT = (
    executions.c.id,
    executions.c.task,
    executions.c.correlation_id,
    executions.c.code,
    executions.c.message,
    executions.c.trouble,
    executions.c.settled_at,
)


class Do(Protocol):
    """How a step is done on the journal's database."""

    def __call__(
        self, step: Callable[[Connection], Result], *, writes: bool = True, at_once: bool = False
    ) -> Coroutine[Any, Any, Result]:
        """Give the step's result once it is committed."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker on this database: its holder, the seconds left of its lease, the executions that it has open."""

    holder: str
    lease_left: float
    open: int


@dataclass(frozen=True, slots=True)
class Kept:
    """An execution of which a person should know: how it failed, or why its outcome cannot be delivered."""

    id: str
    task: str
    correlation_id: str | None
    code: str | None
    message: str | None
    trouble: str
    settled_at: float | None


class Board:
    """What was last seen of it; a stage that reads it waits for nothing."""

    def __init__(self, do: Do, platform: str, leases: Leases) -> None:
        """`do` is the journal's way to its database."""
        self.actions: tuple[Action, ...] = ()
        """The latest actions, the oldest first."""
        self.undeliverable: tuple[Kept, ...] = ()
        self.workers: tuple[Worker, ...] = ()
        self._do = do
        self._platform = platform
        self._leases = leases
        self._pauses: dict[str, Action] = {}

    def paused(self, task: str) -> Action | None:
        """Give the pause of this task by itself (of ALL: of all together), if there is one."""
        return self._pauses.get(task)

    def pauses(self) -> tuple[Action, ...]:
        """Give the pauses that hold, that of all tasks first."""
        return tuple(self._pauses[task] for task in sorted(self._pauses))

    async def act(self, action: Action) -> None:
        """Do what is asked, and keep it; raises IllegalTransition, or JournalUnwritable."""
        await self._do(lambda connection: actions.act(connection, self._platform, action), at_once=True)

    async def look(self) -> list[Action]:
        """Read which pauses hold by now; gives the actions that were not known. Raises JournalUnwritable."""
        # On a shared database a number may come to be seen after a higher one, whose transaction was the shorter.
        known, now = {action.number for action in self.actions}, time.time()
        after = max(known, default=0) - OVERTAKEN

        def step(connection: Connection) -> tuple[list[Action], list[Action]]:
            return actions.look(connection, self._platform, after, now)

        pauses, latest = await self._do(step, writes=False)
        new = [action for action in latest if action.number not in known]
        self._pauses = {pause.subject: pause for pause in pauses}
        self.actions = (*self.actions, *new)[-actions.MOST :]
        return new

    async def survey(self) -> None:
        """Read what is shown of the rows of all workers; raises JournalUnwritable."""
        here = executions.c.platform == self._platform
        refused = select(*_KEPT).where(here, IS_OPEN, executions.c.state == State.UNDELIVERABLE.value)
        counts = (
            select(executions.c.holder, func.count().label("held")).where(here, IS_OPEN).group_by(executions.c.holder)
        )

        def step(connection: Connection) -> tuple[tuple[Kept, ...], tuple[Worker, ...]]:
            held = {row.holder: row.held for row in connection.execute(counts)}
            workers = (Worker(holder, left, held.get(holder, 0)) for holder, left in self._leases.left(connection))
            rows = connection.execute(refused.order_by(executions.c.number.desc()).limit(SHOWN))
            return tuple(Kept(*row) for row in rows), tuple(workers)

        self.undeliverable, self.workers = await self._do(step, writes=False)

    async def failures(self) -> list[Kept]:
        """Give the latest failures, of this process and those before it, the oldest first."""
        here = (executions.c.platform == self._platform) & IS_FAILED
        latest = select(*_KEPT).where(here).order_by(executions.c.number.desc()).limit(SHOWN)
        rows = await self._do(lambda connection: connection.execute(latest).all(), writes=False)
        return [Kept(*row) for row in reversed(rows)]

    async def record(self, execution_id: str) -> dict[str, Any] | None:
        """Give all columns of an execution's row."""
        one = select(executions).where(executions.c.platform == self._platform, executions.c.id == execution_id)
        row = await self._do(lambda connection: connection.execute(one).one_or_none(), writes=False)
        return None if row is None else dict(row._mapping)  # noqa: SLF001 (its public name)

    async def prune(self, before: float) -> None:
        """Forget what was asked before that moment; raises JournalUnwritable."""
        await self._do(lambda connection: actions.prune(connection, self._platform, before), writes=False)

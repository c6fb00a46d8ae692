"""The list of the account's tasks: one of the workers on a database asks for it, and all of them read it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Double, bindparam, insert, select, update

from product_live_worker.journal.backend import Clock
from product_live_worker.journal.tables import task_lists
from product_live_worker.journal.writer import Writer


class TaskList:
    """What was read last, and when the platform was asked for it, on the clock of leases and slots."""

    def __init__(self, writer: Writer, platform: str, clock: Clock) -> None:
        self._writer = writer
        here = task_lists.c.platform == platform
        age = clock.sql - task_lists.c.asked_at
        is_old = (task_lists.c.boot != clock.boot) | (age >= bindparam("within", type_=Double))
        self._find = select(task_lists.c.tasks, is_old.label("is_old")).where(here)
        self._first = insert(task_lists).values(platform=platform, boot=clock.boot, asked_at=clock.sql)
        self._turn = update(task_lists).where(here, is_old).values(boot=clock.boot, asked_at=clock.sql)
        self._keep = update(task_lists).where(here).values(tasks=bindparam("listed"))
        self._outdate = update(task_lists).where(here).values(boot="")

    async def known(self, within: float) -> Any:
        """Give the list if the platform was asked for it within so many seconds; None: now it is this worker's turn.

        Of several that find it too old only one has the turn; a list that nobody has read yet is every one's to ask
        for. Raises JournalUnwritable.
        """
        this = {"within": within}

        def step(connection: Connection) -> str | None:
            row = connection.execute(self._find, this).one_or_none()
            if row is None:
                connection.execute(self._first)
                return None
            if row.is_old and connection.execute(self._turn, this).rowcount == 1:
                return None
            listed: str | None = row.tasks
            return listed

        listed = await self._writer.do(step)
        return None if listed is None else json.loads(listed)

    async def keep(self, listed: Any) -> None:
        """Keep what the platform has answered; raises JournalUnwritable."""
        await self._writer.do(lambda connection: connection.execute(self._keep, {"listed": json.dumps(listed)}))

    def outdate(self) -> None:
        """Have the platform be asked again; written with the next step that somebody waits for, a lease's end."""
        self._writer.later(lambda connection: connection.execute(self._outdate))

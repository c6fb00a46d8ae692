"""The list of the account's tasks: one of the workers on a database asks for it, and all of them read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Double, Text, bindparam, exists, insert, null, select, update

from product_live_worker.journal.backend import Clock
from product_live_worker.journal.tables import holders, task_lists
from product_live_worker.journal.writer import Writer


class TaskList:
    """What was read last, when the platform was asked for it, on the clock of leases and slots, and who asks just now.

    Who has the turn to ask has it until its answer is kept, or its lease has ended.
    """

    def __init__(self, writer: Writer, platform: str, clock: Clock, *, holder: Callable[[], str]) -> None:
        """`holder` gives the name under which this worker is among the holders."""
        self._writer = writer
        self._holder = holder
        self._asker = ""
        """The name under which it has the turn."""
        here, this = task_lists.c.platform == platform, bindparam("this_holder", type_=Text)
        age = clock.sql - task_lists.c.asked_at
        lives = exists().where(
            holders.c.holder == task_lists.c.asker, holders.c.boot == clock.boot, holders.c.ends_at > clock.sql
        )
        is_old = (
            task_lists.c.tasks.is_(None)
            | (task_lists.c.boot != clock.boot)
            | (age >= bindparam("within", type_=Double))
            | (task_lists.c.asker.is_not(None) & ~lives)
        )
        self._find = select(task_lists.c.tasks, is_old.label("is_old")).where(here)
        asked = {"boot": clock.boot, "asked_at": clock.sql, "asker": this}
        self._first = insert(task_lists).values(platform=platform, **asked)
        self._turn = update(task_lists).where(here, is_old).values(asked)
        self._keep = (
            update(task_lists).where(task_lists.c.asker == this).values(tasks=bindparam("listed"), asker=null())
        )
        self._outdate = update(task_lists).where(here).values(boot="")

    async def known(self, within: float) -> Any:
        """Give the list if the platform was asked for it within so many seconds; None: now it is this worker's turn.

        Of several that find it too old only one has the turn, and the others read what is known until it has kept more;
        of a list that nobody has read yet the last to look. Raises JournalUnwritable.
        """
        this = {"within": within, "this_holder": self._holder()}

        def step(connection: Connection) -> str | None:
            row = connection.execute(self._find, {"within": within}).one_or_none()
            if row is None:
                connection.execute(self._first, {"this_holder": this["this_holder"]})
                return None
            if row.is_old and connection.execute(self._turn, this).rowcount == 1:
                return None
            listed: str | None = row.tasks
            return listed

        listed = await self._writer.do(step)
        if listed is None:
            self._asker = str(this["this_holder"])
            return None
        return json.loads(listed)

    async def keep(self, listed: Any) -> None:
        """Keep what the platform has answered, unless another has the turn by now; raises JournalUnwritable."""
        this = {"listed": json.dumps(listed), "this_holder": self._asker}
        await self._writer.do(lambda connection: connection.execute(self._keep, this))

    def outdate(self) -> None:
        """Have the platform be asked again; written with the next step that somebody waits for, a lease's end."""
        self._writer.later(lambda connection: connection.execute(self._outdate))

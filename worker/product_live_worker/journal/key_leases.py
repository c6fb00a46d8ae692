"""Named leases: at most one execution has each, among all workers on the database."""

from __future__ import annotations

import anyio
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from product_live_worker.journal.tables import executions, key_leases
from product_live_worker.journal.writer import Writer
from product_live_worker.model.execution import IN_HAND

LOOK_AGAIN = 1.0
"""Seconds between two looks at a lease that an execution of another worker may have."""

_KEY = (key_leases.c.platform == bindparam("this_platform")) & (key_leases.c.key == bindparam("this_key"))
# Locked: of two that find it with one that is over, the second has to see that the first has it.
_HELD = select(key_leases.c.execution).where(_KEY).with_for_update()
_STATE = select(executions.c.state).where(
    executions.c.platform == bindparam("this_platform"), executions.c.id == bindparam("this_id")
)
_INSERT = insert(key_leases)
_PASS_ON = update(key_leases).where(_KEY)
_RELEASE = delete(key_leases).where(_KEY, key_leases.c.execution == bindparam("this_id"))


class KeyLeases:
    """Who has which key. One that is over, however it ended, has none; one that a crash left is to be run again."""

    def __init__(self, writer: Writer, platform: str) -> None:
        self._writer = writer
        self._platform = platform
        self._released = anyio.Event()

    async def take(self, key: str, execution_id: str) -> None:
        """Wait until the execution has the key; raises JournalUnwritable."""
        while True:
            released = self._released
            if await self._writer.do(lambda connection: self._take(connection, key, execution_id), at_once=True):
                return
            with anyio.move_on_after(LOOK_AGAIN):
                await released.wait()

    async def release(self, key: str, execution_id: str) -> None:
        """Give it back, if the execution has it; raises JournalUnwritable."""
        this = {"this_platform": self._platform, "this_key": key, "this_id": execution_id}
        with anyio.CancelScope(shield=True):
            await self._writer.do(lambda connection: connection.execute(_RELEASE, this))
        released, self._released = self._released, anyio.Event()
        released.set()

    def _take(self, connection: Connection, key: str, execution_id: str) -> bool:
        this = {"this_platform": self._platform, "this_key": key}
        holder = connection.execute(_HELD, this).scalar_one_or_none()
        if holder == execution_id:
            return True
        if holder is None:
            connection.execute(_INSERT, {"platform": self._platform, "key": key, "execution": execution_id})
            return True
        state = connection.execute(_STATE, {"this_platform": self._platform, "this_id": holder}).scalar_one_or_none()
        if state in IN_HAND:
            return False
        connection.execute(_PASS_ON, {**this, "execution": execution_id})
        return True

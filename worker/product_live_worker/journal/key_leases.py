"""Named leases: at most one execution has each, among all workers on the database."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import anyio
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from product_live_worker.journal.tables import executions, key_leases
from product_live_worker.journal.writer import Writer
from product_live_worker.model.execution import IN_HAND

LOOK_AGAIN = 1.0
"""Seconds between two looks, one for all that wait here, at what executions of other workers may have."""

_KEY = (key_leases.c.platform == bindparam("this_platform")) & (key_leases.c.key == bindparam("this_key"))
# Locked: of two that find it with one that is over, the second has to see that the first has it.
_HELD = select(key_leases.c.execution).where(_KEY).with_for_update()
_STATE = select(executions.c.state).where(
    executions.c.platform == bindparam("this_platform"), executions.c.id == bindparam("this_id")
)
_INSERT = insert(key_leases)
_PASS_ON = update(key_leases).where(_KEY)
_RELEASE = delete(key_leases).where(_KEY, key_leases.c.execution == bindparam("this_id"))
_TAKEN = (
    select(key_leases.c.key)
    .join(executions, (executions.c.platform == key_leases.c.platform) & (executions.c.id == key_leases.c.execution))
    .where(key_leases.c.platform == bindparam("this_platform"), executions.c.state.in_([s.value for s in IN_HAND]))
)


@dataclass(eq=False)
class _Waiter:
    key: str
    woken: anyio.Event = field(default_factory=anyio.Event)
    """Set when the key may be free, or when it is this one's turn to look."""


class KeyLeases:
    """Who has which key. One that is over, however it ended, has none; one that a crash left is to be run again."""

    def __init__(self, writer: Writer, platform: str) -> None:
        self._writer = writer
        self._platform = platform
        self._waiting: list[_Waiter] = []
        """In the order of their coming."""
        self._looker: _Waiter | None = None
        self.look_again = LOOK_AGAIN

    async def take(self, key: str, execution_id: str, timeout: float = math.inf) -> str | None:
        """Wait until the execution has the key; raises JournalUnwritable.

        Gives None, or who has it when `timeout` seconds have passed.
        """
        holder = await self._try(key, execution_id)
        if holder is None:
            return None
        waiter = _Waiter(key)
        self._waiting.append(waiter)
        try:
            with anyio.move_on_after(timeout):
                while holder is not None:
                    await self._news(waiter)
                    holder = await self._try(key, execution_id)
        finally:
            self._waiting.remove(waiter)
            self._relieve(waiter)
        return holder

    async def release(self, key: str, execution_id: str) -> None:
        """Give it back, if the execution has it; raises JournalUnwritable."""
        this = {"this_platform": self._platform, "this_key": key, "this_id": execution_id}
        with anyio.CancelScope(shield=True):
            await self._writer.do(lambda connection: connection.execute(_RELEASE, this))
        self._wake_firsts({key})

    async def _news(self, waiter: _Waiter) -> None:
        """Wait until the key may be free. One of all that wait looks for the others too: a thousand cost one look."""
        if self._looker is None:
            self._looker = waiter
        while not waiter.woken.is_set():
            with anyio.move_on_after(self.look_again if self._looker is waiter else math.inf) as scope:
                await waiter.woken.wait()
            if scope.cancelled_caught:
                await self._look()
        waiter.woken = anyio.Event()

    async def _look(self) -> None:
        this = {"this_platform": self._platform}
        taken = await self._writer.do(lambda connection: set(connection.execute(_TAKEN, this).scalars()))
        self._wake_firsts({waiter.key for waiter in self._waiting} - taken)

    def _wake_firsts(self, keys: set[str]) -> None:
        """Wake the first that waits for each of these keys."""
        for waiter in self._waiting:
            if waiter.key in keys:
                keys.remove(waiter.key)
                waiter.woken.set()

    def _relieve(self, waiter: _Waiter) -> None:
        """Have the next one look, if it was this one that did."""
        if self._looker is waiter:
            self._looker = self._waiting[0] if self._waiting else None
            if self._looker is not None:
                self._looker.woken.set()

    async def _try(self, key: str, execution_id: str) -> str | None:
        """Take the key if nobody has it; gives who has it else."""
        return await self._writer.do(lambda connection: self._take(connection, key, execution_id), at_once=True)

    def _take(self, connection: Connection, key: str, execution_id: str) -> str | None:
        this = {"this_platform": self._platform, "this_key": key}
        holder = connection.execute(_HELD, this).scalar_one_or_none()
        if holder == execution_id:
            return None
        if holder is None:
            connection.execute(_INSERT, {"platform": self._platform, "key": key, "execution": execution_id})
            return None
        state = connection.execute(_STATE, {"this_platform": self._platform, "this_id": holder}).scalar_one_or_none()
        if state in IN_HAND:
            return str(holder)
        connection.execute(_PASS_ON, {**this, "execution": execution_id})
        return None

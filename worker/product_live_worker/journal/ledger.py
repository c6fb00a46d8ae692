"""The budget's window in the journal's database: it survives a crash, and workers on one database share it."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from product_live_worker.journal.tables import slots
from product_live_worker.journal.writer import Writer

_LANE = (slots.c.platform == bindparam("this_platform")) & (slots.c.resource == bindparam("this_resource"))
_SLOT = slots.c.number == bindparam("this_number")
_INSERT = insert(slots)
_EXPIRE = delete(slots).where(_LANE, slots.c.free_at <= bindparam("now"))
_COUNT = select(func.count()).where(_LANE)
_NTH = select(slots.c.free_at).where(_LANE).order_by(slots.c.free_at).offset(bindparam("position")).limit(1)
_FREE_AT = update(slots).where(_SLOT)
_FREE = delete(slots).where(_SLOT)


class JournalLedger:
    """See product_live.budget.Ledger, whose protocol this satisfies. Its clock is the boot clock."""

    def __init__(self, writer: Writer, platform: str, *, now: Callable[[], float], boot: str) -> None:
        self.now = now
        self._writer = writer
        self._platform = platform
        self._boot = boot

    async def open(self, window: float) -> None:
        """Count the slots of another boot as answered now: their clock is gone, their requests may not be."""
        others = (slots.c.platform == self._platform) & (slots.c.boot != self._boot)
        step = update(slots).where(others).values(boot=self._boot, free_at=self.now() + window)
        await self._writer.do(lambda connection: connection.execute(step))

    async def take(self, resource: str, limit: int, leave: int, hold: float) -> int | float:
        """See Ledger."""
        return await self._writer.do(lambda connection: self._take(connection, resource, limit, leave, hold))

    def _take(self, connection: Connection, resource: str, limit: int, leave: int, hold: float) -> int | float:
        now = self.now()
        lane = {"this_platform": self._platform, "this_resource": resource}
        connection.execute(_EXPIRE, {**lane, "now": now})
        held = connection.execute(_COUNT, lane).scalar_one()
        too_many = held + 1 + leave - limit
        if too_many > 0:
            position = min(too_many, held) - 1
            return float(connection.execute(_NTH, {**lane, "position": position}).scalar_one()) - now
        row = {"platform": self._platform, "resource": resource, "boot": self._boot, "free_at": now + hold}
        return int(connection.execute(_INSERT, row).inserted_primary_key[0])  # type: ignore[index]  # one row, one key

    def answered(self, slot: int, hold: float) -> None:
        """See Ledger."""
        free_at = {"this_number": slot, "free_at": self.now() + hold}
        # Written with the next step that somebody waits for; until then the slot only looks held for longer.
        self._writer.later(lambda connection: connection.execute(_FREE_AT, free_at))

    def give_back(self, slot: int) -> None:
        """See Ledger."""
        self._writer.later(lambda connection: connection.execute(_FREE, {"this_number": slot}))

"""The budget's window in the journal's database: it survives a crash, and workers on one database share it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from product_live_worker.journal.tables import slots
from product_live_worker.journal.writer import Writer
from product_live_worker.model.errors import JournalUnwritable
from product_live_worker.model.window import Demand, wait_for_slot

_HERE = slots.c.platform == bindparam("this_platform")
_SLOT = slots.c.number == bindparam("this_number")
_INSERT = insert(slots)
_EXPIRE = delete(slots).where(_HERE, slots.c.free_at <= bindparam("now"))
_HELD = select(slots.c.resource, slots.c.free_at).where(_HERE)
_FREE_AT = update(slots).where(_SLOT)
_FREE = delete(slots).where(_SLOT)


UNWRITTEN = -2
"""The first number of a slot that is only in memory; they go down from here."""


class JournalLedger:
    """See product_live.budget.Ledger, whose protocol this satisfies. Its clock is the boot clock.

    While the disk refuses commits, the window goes on in memory, so that what is settled can still be reported.
    """

    def __init__(self, writer: Writer, platform: str, *, now: Callable[[], float], boot: str) -> None:
        self.now = now
        self._writer = writer
        self._platform = platform
        self._boot = boot
        self._known: dict[int, tuple[str, float]] = {}
        self._unwritten = itertools.count(UNWRITTEN, -1)

    async def open(self, window: float) -> None:
        """Count the slots of another boot as answered now: their clock is gone, their requests may not be."""
        here = slots.c.platform == self._platform
        step = (
            update(slots).where(here, slots.c.boot != self._boot).values(boot=self._boot, free_at=self.now() + window)
        )

        def read(connection: Connection) -> dict[int, tuple[str, float]]:
            connection.execute(step)
            return {row.number: (row.resource, row.free_at) for row in connection.execute(select(slots).where(here))}

        self._known = await self._writer.do(read)

    async def take(self, demand: Demand) -> int | float:
        """See Ledger."""
        try:
            taken = await self._writer.do(lambda connection: self._take(connection, demand))
        except JournalUnwritable:
            taken = self._take_unwritten(demand)
        if isinstance(taken, int):
            self._known[taken] = (demand.lane, self.now() + demand.hold)
        return taken

    def used(self) -> int:
        """See Ledger."""
        now = self.now()
        for number in [number for number, (_, free_at) in self._known.items() if free_at <= now]:
            del self._known[number]
        return len(self._known)

    def frees_in(self) -> float | None:
        """See Ledger."""
        held = self.used() and [free_at for _, free_at in self._known.values()]
        return min(held) - self.now() if held else None

    def _take(self, connection: Connection, demand: Demand) -> int | float:
        now = self.now()
        here = {"this_platform": self._platform}
        connection.execute(_EXPIRE, {**here, "now": now})
        wait = wait_for_slot(
            demand, _by_lane((row.resource, row.free_at) for row in connection.execute(_HELD, here)), now
        )
        if wait > 0:
            return wait
        row = {"platform": self._platform, "resource": demand.lane, "boot": self._boot, "free_at": now + demand.hold}
        return int(connection.execute(_INSERT, row).inserted_primary_key[0])  # type: ignore[index]  # one row, one key

    def _take_unwritten(self, demand: Demand) -> int | float:
        return wait_for_slot(demand, _by_lane(self._known.values()), self.now()) or next(self._unwritten)

    def answered(self, slot: int, hold: float) -> None:
        """See Ledger."""
        free_at = self.now() + hold
        if slot in self._known:
            self._known[slot] = (self._known[slot][0], free_at)
        # Written with the next step that somebody waits for; until then the slot only looks held for longer.
        self._writer.later(lambda connection: connection.execute(_FREE_AT, {"this_number": slot, "free_at": free_at}))

    def give_back(self, slot: int) -> None:
        """See Ledger."""
        self._known.pop(slot, None)
        self._writer.later(lambda connection: connection.execute(_FREE, {"this_number": slot}))


def _by_lane(held: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    lanes: defaultdict[str, list[float]] = defaultdict(list)
    for lane, free_at in held:
        lanes[lane].append(free_at)
    return lanes

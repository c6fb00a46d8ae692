"""The budget's window in the journal's database: it survives a crash, and workers on one database share it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable

from sqlalchemy import BigInteger, Connection, Double, Text, bindparam, delete, exists, insert, select, update

from product_live_worker.journal.backend import Clock
from product_live_worker.journal.tables import slots
from product_live_worker.journal.writer import Writer
from product_live_worker.model.errors import JournalUnwritable
from product_live_worker.model.window import Demand, wait_for_slot

UNWRITTEN = -2
"""The first number of a slot that is only in memory; they go down from here."""
UNREACHABLE = 0.5
"""Seconds between two attempts to take a slot while a shared database cannot be asked."""
EXPIRED = 16
"""Slots that are past their time are taken away so many at once."""


class JournalLedger:
    """See product_live.budget.Ledger, whose protocol this satisfies.

    Of the workers that look at the same window only one takes the slot after its newest; the others look again. No lock
    is held between looking and taking, so a worker that is stopped there stops nobody else.

    While the disk refuses commits, the window of a worker that is alone goes on in memory, so that what is settled can
    still be reported. Beside others it waits: nobody knows then what they send.
    """

    def __init__(self, writer: Writer, platform: str, *, clock: Clock, shared: bool = False) -> None:
        self.now = clock.now
        self.on_trouble: Callable[[str], None] = lambda _: None
        """Hears that the disk refuses."""
        self._writer = writer
        self._platform = platform
        self._clock = clock
        self._shared = shared
        self.alone = True
        """Whether no other worker uses this window, as of the last renewal."""
        self._seen: dict[int, tuple[str, float]] = {}
        self._known: dict[int, tuple[str, float]] = {}
        self._unwritten = itertools.count(UNWRITTEN, -1)
        # Built once: what SQLAlchemy makes of a statement is kept with the statement.
        left = (slots.c.free_at - clock.sql).label("left")
        hold, seen = bindparam("hold", type_=Double), bindparam("seen", type_=BigInteger)
        newer = exists().where(slots.c.number > seen)
        self._look = select(slots.c.number, slots.c.platform, slots.c.resource, left)
        self._take = (
            insert(slots)
            .from_select(
                ["number", "platform", "resource", "boot", "free_at"],
                select(seen + 1, *(bindparam(f"this_{name}", type_=Text) for name in ("platform", "lane", "boot")))
                .add_columns(clock.sql + hold)
                .where(~newer)
                .suffix_with("ON CONFLICT DO NOTHING"),
            )
            .execution_options(preserve_rowcount=True)
        )
        this = slots.c.number == bindparam("this_number")
        self._free_at = update(slots).where(this).values(free_at=clock.sql + hold)
        # Never the newest: its number would be given again.
        expired = (slots.c.free_at <= clock.sql) & (slots.c.number < bindparam("newest"))
        self._expire = delete(slots).where(slots.c.platform == bindparam("this_platform"), expired)

    async def open(self, window: float) -> None:
        """Count the slots of another boot as answered now: their clock is gone, their requests may not be."""
        elsewhen = (slots.c.platform == self._platform) & (slots.c.boot != self._clock.boot)
        step = update(slots).where(elsewhen).values(boot=self._clock.boot, free_at=self._clock.sql + window)

        def read(connection: Connection) -> dict[int, tuple[str, float]]:
            connection.execute(step)
            now = self.now()
            found = connection.execute(self._look)
            return {row.number: (row.resource, now + row.left) for row in found if row.platform == self._platform}

        self._known = await self._writer.do(read)

    async def take(self, demand: Demand) -> int | float:
        """See Ledger."""
        try:
            taken = await self._writer.do(lambda connection: self._look_and_take(connection, demand))
        except JournalUnwritable as error:
            self.on_trouble(str(error))
            taken = self._take_unwritten(demand) if self.alone and not self._shared else UNREACHABLE
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

    def _look_and_take(self, connection: Connection, demand: Demand) -> int | float:
        while True:
            rows = connection.execute(self._look).all()
            here = [row for row in rows if row.platform == self._platform]
            now = self.now()
            self._seen = {row.number: (row.resource, now + row.left) for row in here}
            # What was sent while the disk refused is in no row, and counts all the same.
            unwritten = [known for number, known in tuple(self._known.items()) if number <= UNWRITTEN]
            wait = wait_for_slot(demand, _by_lane((*self._seen.values(), *unwritten)), now)
            if wait > 0:
                return wait
            seen = max((row.number for row in rows), default=0)
            this = {"this_platform": self._platform, "this_lane": demand.lane, "this_boot": self._clock.boot}
            if connection.execute(self._take, {"seen": seen, "hold": demand.hold, **this}).rowcount != 1:
                # Somebody else has just taken one: the window has moved on, so this ends.
                continue
            if sum(row.left <= 0 for row in here) >= EXPIRED:
                connection.execute(self._expire, {"this_platform": self._platform, "newest": seen + 1})
            return int(seen) + 1

    def _take_unwritten(self, demand: Demand) -> int | float:
        held = self._seen | self._known
        return wait_for_slot(demand, _by_lane(held.values()), self.now()) or next(self._unwritten)

    def answered(self, slot: int, hold: float) -> None:
        """See Ledger."""
        # One that was given back, or is past its time, stays free.
        if slot in self._known:
            free_at = self.now() + hold
            self._known[slot] = (self._known[slot][0], free_at)
            self._free_later(slot, free_at)

    def give_back(self, slot: int) -> None:
        """See Ledger."""
        if self._known.pop(slot, None) is not None:
            self._free_later(slot, self.now())

    def _free_later(self, slot: int, free_at: float) -> None:
        # Written with the next step that somebody waits for; until then the slot only looks held for longer.
        self._writer.later(
            lambda connection: connection.execute(self._free_at, {"this_number": slot, "hold": free_at - self.now()})
        )


def _by_lane(held: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    lanes: defaultdict[str, list[float]] = defaultdict(list)
    for lane, free_at in held:
        lanes[lane].append(free_at)
    return lanes

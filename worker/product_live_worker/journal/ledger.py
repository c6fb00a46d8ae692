"""The budget's window in the journal's database: it survives a crash, and workers on one database share it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from product_live_worker.journal.backend import Clock
from product_live_worker.journal.tables import slots
from product_live_worker.journal.writer import Writer
from product_live_worker.model.errors import JournalUnwritable
from product_live_worker.model.window import Demand, Held, most_needed, wait_beside, wait_for_slot

UNWRITTEN = -2
"""The first number of a slot that is only in memory; they go down from here."""
UNREACHABLE = 0.5
"""Seconds between two attempts to take a slot while a shared database cannot be asked."""
EXPIRED = 16
"""Slots that are past their time are taken away so many at once."""

_LANE = (slots.c.platform == bindparam("this_platform", type_=Text)) & (
    slots.c.resource == bindparam("this_lane", type_=Text)
)


@dataclass(frozen=True, slots=True)
class _Lane:
    """A lane as the database has it."""

    held: Held
    newest: int
    """The number of the newest slot of all."""
    expired: int
    """How many of its slots are past their time."""


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
        self._known: dict[int, tuple[str, float]] = {}
        self._of_others: dict[str, tuple[int, float]] = {}
        """In each lane: how many slots others held at the last look, and when all of them will be free."""
        self._unwritten = itertools.count(UNWRITTEN, -1)
        # Built once: what SQLAlchemy makes of a statement is kept with the statement.
        self._all = select(
            slots.c.number, slots.c.platform, slots.c.resource, (slots.c.free_at - clock.sql).label("left")
        )
        self._look = _look(clock)
        hold, seen = bindparam("hold", type_=Double), bindparam("seen", type_=BigInteger)
        newer = exists().where(slots.c.number > seen)
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
        self._expire = delete(slots).where(_LANE, expired)

    async def open(self, window: float) -> None:
        """Count the slots of another boot as answered now: their clock is gone, their requests may not be."""
        elsewhen = (slots.c.platform == self._platform) & (slots.c.boot != self._clock.boot)
        step = update(slots).where(elsewhen).values(boot=self._clock.boot, free_at=self._clock.sql + window)

        def read(connection: Connection) -> dict[int, tuple[str, float]]:
            connection.execute(step)
            now = self.now()
            found = connection.execute(self._all)
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
            lanes = {lane: self._lane(connection, demand, lane, most) for lane, most in most_needed(demand).items()}
            wait = wait_beside({name: lane.held for name, lane in lanes.items()}, demand)
            if wait > 0:
                return wait
            seen = min(lane.newest for lane in lanes.values())
            this = {"this_platform": self._platform, "this_lane": demand.lane, "this_boot": self._clock.boot}
            if connection.execute(self._take, {"seen": seen, "hold": demand.hold, **this}).rowcount != 1:
                # Somebody else has just taken one: the window has moved on, so this ends.
                continue
            if lanes[demand.lane].expired >= EXPIRED:
                lane = {"this_platform": self._platform, "this_lane": demand.lane}
                connection.execute(self._expire, {**lane, "newest": seen + 1})
            return seen + 1

    def _lane(self, connection: Connection, demand: Demand, name: str, most: int) -> _Lane:
        now = self.now()
        mine = [(number, free_at) for number, free_at in self._mine(name) if free_at > now]
        # What was sent while the disk refused is in no row, and counts all the same.
        unwritten = [free_at - now for number, free_at in mine if number <= UNWRITTEN]
        room = demand.limit - most - len(unwritten)
        this = {"this_platform": self._platform, "this_lane": name, "room": room}
        rows = connection.execute(self._look, this).all()
        newest, held, expired, _ = tuple(rows[0])
        first = (row.left for row in rows if row.left is not None)
        self._of_others[name] = max(0, held - (len(mine) - len(unwritten))), now + demand.hold
        return _Lane(Held(held + len(unwritten), sorted((*first, *unwritten))), newest, expired)

    def _mine(self, lane: str) -> Iterator[tuple[int, float]]:
        # A copy is one step for the interpreter; to read item by item lets the loop's thread in, which changes them.
        return ((number, free_at) for number, (name, free_at) in self._known.copy().items() if name == lane)

    def _take_unwritten(self, demand: Demand) -> int | float:
        free_at = {lane: list(self._known_in(lane)) for lane in (demand.lane, demand.leave_in)}
        return wait_for_slot(demand, free_at, self.now()) or next(self._unwritten)

    def _known_in(self, lane: str) -> Iterator[float]:
        yield from (free_at for _, free_at in self._mine(lane))
        others, at_latest = self._of_others.get(lane, (0, 0.0))
        yield from itertools.repeat(at_latest, others)

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


def _look(clock: Clock) -> Select[Any]:
    """Look at a lane: how many slots are held in it, and when those come free that are too many beside `room` others.

    In one statement, which counts in an index and reads as few rows as it can: at a limit of thousands, all of them
    would be a tenth of a second. There is always a row, where none is too many without a moment.

    The clock is read once: PostgreSQL's goes on within a statement, and a slot that ended between two readings would be
    counted and not be among those that come free.
    """
    # Not a subquery of the clock itself, which would be read anew wherever it stands.
    read = select(clock.sql.label("now")).cte("read").prefix_with("MATERIALIZED", dialect="postgresql")
    now = select(read.c.now).scalar_subquery()
    held = _LANE & (slots.c.free_at > now)
    counted = select(
        select(func.coalesce(func.max(slots.c.number), 0)).scalar_subquery().label("newest"),
        select(func.count()).where(held).scalar_subquery().label("held"),
        select(func.count()).where(_LANE, slots.c.free_at <= now).scalar_subquery().label("expired"),
    ).cte("counted")
    too_many = counted.c.held - bindparam("room", type_=Integer)
    first = (
        select((slots.c.free_at - now).label("left"))
        .where(held)
        .order_by(slots.c.free_at)
        .limit(select(case((too_many > 0, too_many), else_=0)).scalar_subquery())
        .subquery("first")
    )
    return select(counted, first.c.left).select_from(counted.outerjoin(first, literal(value=True)))

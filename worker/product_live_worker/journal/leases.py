"""Leases: one row for each holder, renewed for as long as it has rows in hand; who lost it has lost its rows."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, Text, bindparam, delete, insert, select, update

from product_live_worker.journal.backend import Backend
from product_live_worker.journal.holders import process_of
from product_live_worker.journal.tables import holders, version

LONG_GONE = 100
"""Leases after its end for which one is kept in mind."""


@dataclass(frozen=True)
class Living:
    """The workers that serve the platform on this database, as one statement has seen them."""

    holders: tuple[str, ...]
    """In an order that all of them know."""
    at: float
    """The reading of the clock that they share."""
    revision: str | None
    """The schema that the database has by now."""


class Leases:
    """Who is alive, by leases on the database's clock and by what else it can tell."""

    def __init__(self, database: Backend, platform: str, *, seconds: float) -> None:
        """A lease lasts `seconds`."""
        self.seconds = seconds
        self._platform = platform
        self._database = database
        self.clock = clock = database.clock
        this = bindparam("this_holder", type_=Text)
        ends_at = clock.sql + seconds
        here = (holders.c.platform == platform) & (holders.c.boot == clock.boot)
        left = (holders.c.ends_at - clock.sql).label("left")
        revision = select(version.c.version_num).scalar_subquery()
        self._join = insert(holders).values(holder=this, platform=platform, boot=clock.boot, ends_at=ends_at)
        self._forget = delete(holders).where(here, holders.c.ends_at + LONG_GONE * seconds < clock.sql)
        self._renew = update(holders).where(holders.c.holder == this).values(ends_at=ends_at)
        self._living = (
            select(holders.c.holder, left, clock.sql.label("at"), revision.label("revision"))
            .where(here)
            .order_by(holders.c.holder)
        )
        self._of = select(holders.c.holder, holders.c.boot, left)

    def join(self, connection: Connection, holder: str) -> None:
        """Begin a lease; those that ended long ago, and had nothing to be taken over, are forgotten."""
        connection.execute(self._forget)
        connection.execute(self._join, {"this_holder": holder})

    def renew(self, connection: Connection, holder: str) -> bool:
        """Prolong a lease; gives False when another worker has ended it and taken the rows over."""
        return connection.execute(self._renew, {"this_holder": holder}).rowcount == 1

    def leave(self, connection: Connection, gone: Collection[str]) -> None:
        """End leases."""
        connection.execute(delete(holders).where(holders.c.holder.in_(gone)))

    def living(self, connection: Connection) -> Living:
        """Find the holders of this platform whose lease has not ended; whoever asks has just renewed its own."""
        rows = connection.execute(self._living).all()
        return Living(tuple(row.holder for row in rows if row.left > 0), rows[0].at, rows[0].revision)

    def left(self, connection: Connection) -> list[tuple[str, float]]:
        """Give each holder of this platform with the seconds left of its lease; of one that ended, less than 0."""
        rows = connection.execute(self._of.where(holders.c.platform == self._platform)).all()
        here = self.clock.boot
        return [(row.holder, row.left if row.boot == here else -self.seconds) for row in rows]

    def gone(
        self, connection: Connection, candidates: Collection[str], *, locked: bool = False
    ) -> tuple[list[str], float]:
        """Give those that are dead: provably, or by a lease that ended, is missing, or is of another boot.

        Beside them, the seconds until the next of the others may be. When they are `locked`, one that renews its lease
        just now waits until it knows whether it still has one.
        """
        if not candidates:
            return [], math.inf
        these = self._of.where(holders.c.holder.in_(candidates))
        rows = connection.execute(these.with_for_update() if locked else these).all()
        left = {row.holder: row.left for row in rows if row.boot == self.clock.boot and row.left > 0}
        gone = [name for name in candidates if name not in left or self._database.is_dead(process_of(name))]
        return gone, min((left[name] for name in left if name not in gone), default=math.inf)

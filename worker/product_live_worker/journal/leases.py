"""Leases: one row for each holder, renewed for as long as it has rows in hand; who lost it has lost its rows."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select, update

from product_live_worker.journal.holders import is_dead, process_of
from product_live_worker.journal.tables import holders


class Leases:
    """Who is alive, by lock files on this machine and by leases on the boot clock."""

    def __init__(self, directory: Path, platform: str, *, seconds: float, now: Callable[[], float], boot: str) -> None:
        """`directory` has the lock files; a lease lasts `seconds`."""
        self.seconds = seconds
        self._platform = platform
        self._directory = directory
        self._now = now
        self._boot = boot

    def join(self, connection: Connection, holder: str) -> None:
        """Begin a lease."""
        row = {"platform": self._platform, "boot": self._boot, "ends_at": self._now() + self.seconds}
        connection.execute(insert(holders).values(holder=holder, **row))

    def renew(self, connection: Connection, holder: str) -> bool:
        """Prolong a lease; gives False when another worker has ended it and taken the rows over."""
        step = update(holders).where(holders.c.holder == holder).values(ends_at=self._now() + self.seconds)
        return connection.execute(step).rowcount == 1

    def leave(self, connection: Connection, gone: Collection[str]) -> None:
        """End leases."""
        connection.execute(delete(holders).where(holders.c.holder.in_(gone)))

    def living(self, connection: Connection) -> int:
        """Count the holders of this platform whose lease has not ended."""
        alive = (holders.c.platform == self._platform, holders.c.boot == self._boot, holders.c.ends_at > self._now())
        return connection.execute(select(func.count()).select_from(holders).where(*alive)).scalar_one()

    def left(self, connection: Connection) -> list[tuple[str, float]]:
        """Give each holder of this platform with the seconds left of its lease; of one that ended, less than 0."""
        rows = connection.execute(select(holders).where(holders.c.platform == self._platform)).all()
        now = self._now()
        return [(row.holder, row.ends_at - now if row.boot == self._boot else -self.seconds) for row in rows]

    def gone(self, connection: Connection, candidates: Collection[str]) -> list[str]:
        """Give those that are dead: provably, or by a lease that ended, is missing, or is of another boot."""
        rows = connection.execute(select(holders).where(holders.c.holder.in_(candidates))).all()
        alive = {row.holder for row in rows if row.boot == self._boot and row.ends_at > self._now()}
        return [name for name in candidates if name not in alive or is_dead(self._directory, process_of(name))]

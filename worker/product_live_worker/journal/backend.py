"""What SQLite and PostgreSQL do differently, as the rest of the journal sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import ColumnElement, Connection, Engine
from sqlalchemy.exc import DBAPIError

from product_live_worker.model.errors import JournalError


@dataclass(frozen=True)
class Clock:
    """The clock of leases and slots, the same for all workers on one database."""

    sql: ColumnElement[float]
    """Its reading in seconds, within a statement."""
    boot: str
    """Which clock it is: what was written by another one's reading says nothing here."""
    now: Callable[[], float]
    """A clock of this process alone that never jumps; only differences of its readings count."""


class Backend(Protocol):
    """An open database."""

    engine: Engine
    clock: Clock
    shared: bool
    """Whether workers on other machines may use it: while it cannot be asked, nobody knows what they have sent."""

    together: bool
    """Whether steps that wait together are committed together."""

    def begin(self, *, at_once: bool) -> AbstractContextManager[Connection]:
        """Begin what is committed at the end of the block; where not all at once, then statement by statement."""

    def worked(self) -> None:
        """Something was committed."""

    def failed(self, error: DBAPIError) -> None:
        """Something could not be: let go of what the next attempt must not use again."""

    def one_by_one(self, error: DBAPIError) -> bool:
        """Whether other steps may succeed where one has failed so, and none that has failed was committed."""

    def is_race(self, error: DBAPIError) -> bool:
        """Whether the same step may succeed at once: another worker was faster by a moment."""

    def told(self, error: DBAPIError) -> JournalError:
        """Say in a sentence what is the matter: damage, or what may pass."""

    def hold(self, process: str) -> AbstractContextManager[None]:
        """Be seen alive while the block runs, beside the lease; raises JournalUnwritable."""

    def is_dead(self, process: str) -> bool:
        """Whether the process is provably gone, although its lease has not ended."""

    def close(self) -> None:
        """Let go of the database."""

"""Opening the journal's database, whichever it is; the only place that chooses."""

from __future__ import annotations

from types import ModuleType
from typing import cast

from product_live_worker.journal import sqlite
from product_live_worker.journal.backend import Backend


def open_database(url: str) -> Backend:
    """Open, and where needed create or migrate, the database; raises JournalUnusable or JournalUnwritable."""
    return cast("Backend", _module_for(url).open_database(url))


def open_existing(url: str, *, to_write: bool) -> Backend:
    """Open the database of a worker that may be running or not; only to read, or to change rows too.

    Raises a JournalError, also where there is no journal yet.
    """
    return cast("Backend", _module_for(url).open_existing(url, to_write=to_write))


def _module_for(url: str) -> ModuleType:
    if url.startswith("sqlite:"):
        return sqlite
    # Imported here: driver and dialect take a tenth of a second and 10 MB that a worker with a file never needs.
    from product_live_worker.journal import postgres  # noqa: PLC0415 (as said)

    return postgres

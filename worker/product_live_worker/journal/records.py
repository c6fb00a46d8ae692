"""The journal as a person reads and mends it, while the daemon runs or not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update
from sqlalchemy.exc import DBAPIError

from product_live_worker.journal.database import open_existing
from product_live_worker.journal.tables import IS_OPEN, executions
from product_live_worker.model.errors import IllegalTransition, JournalUnwritable
from product_live_worker.model.execution import State

NOBODY = ""
"""The holder of a row that any worker may take over."""
DISCARDED = "discarded by hand"

Record = dict[str, Any]
"""A row of the journal, by the names of its columns."""


class Records:
    """The rows of one platform."""

    def __init__(self, engine: Engine, platform: str) -> None:
        self._engine = engine
        self._here = executions.c.platform == platform

    def find(
        self, *, states: tuple[State, ...] = (), task: str | None = None, correlation: str | None = None, most: int = 50
    ) -> list[Record]:
        """Give the rows that match, the latest claim first, without their payloads."""
        query = select(executions).where(self._here).order_by(executions.c.number.desc()).limit(most)
        if states and State.REPORTED not in states:
            query = query.where(IS_OPEN)
        if states:
            query = query.where(executions.c.state.in_([state.value for state in states]))
        if task is not None:
            query = query.where(executions.c.task == task)
        if correlation is not None:
            query = query.where(executions.c.correlation_id == correlation)
        with self._read() as connection:
            return [_record(row, payloads=False) for row in connection.execute(query)]

    def get(self, execution_id: str) -> Record | None:
        """Give one row, with its payloads as far as they are kept."""
        with self._read() as connection:
            row = connection.execute(
                select(executions).where(self._here, executions.c.id == execution_id)
            ).one_or_none()
        return None if row is None else _record(row, payloads=True)

    def redeliver(self, execution_id: str) -> None:
        """UNDELIVERABLE → SETTLED: a running worker reports it again within a lease, or else the next start does."""
        again = {"state": State.SETTLED.value, "holder": NOBODY, "attempts": 0, "trouble": ""}
        self._move(execution_id, (State.UNDELIVERABLE,), again)

    def discard(self, execution_id: str) -> None:
        """UNDELIVERABLE or SETTLED → REPORTED without a report: nobody waits for it any more."""
        gone = {"state": State.REPORTED.value, "trouble": DISCARDED, "input": None, "output": None, "checkpoint": None}
        self._move(execution_id, (State.UNDELIVERABLE, State.SETTLED), {**gone, "reported_at": time.time()})

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise JournalUnwritable(f"the journal cannot be read: {error.orig}") from error

    def _move(self, execution_id: str, states: tuple[State, ...], values: Record) -> None:
        allowed = executions.c.state.in_([state.value for state in states])
        step = update(executions).where(self._here, executions.c.id == execution_id, allowed).values(**values)
        try:
            with self._engine.begin() as connection:
                moved = connection.execute(step).rowcount
        except DBAPIError as error:
            raise JournalUnwritable(f"the journal cannot be written: {error.orig}") from error
        if not moved:
            found = self.get(execution_id)
            state = "not in the journal" if found is None else found["state"]
            raise IllegalTransition(f"execution {execution_id} is {state}; it must be {' or '.join(states)}")


@contextmanager
def open_records(url: str, *, platform: str, to_write: bool = False) -> Iterator[Records]:
    """Open the journal beside a worker that may be using it; only to read, or to move rows too.

    Raises a JournalError, also where there is none yet.
    """
    database = open_existing(url, to_write=to_write)
    try:
        yield Records(database.engine, platform)
    finally:
        database.close()


def _record(row: Row[Any], *, payloads: bool) -> Record:
    hidden = {"number"} if payloads else {"number", "input", "output", "checkpoint"}
    return {name: value for name, value in row._mapping.items() if name not in hidden}  # noqa: SLF001 (its public name)

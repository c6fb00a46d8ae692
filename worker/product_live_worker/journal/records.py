"""The journal as a person reads and mends it, while the daemon runs or not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Row, select
from sqlalchemy.exc import DBAPIError

from product_live_worker.journal import actions
from product_live_worker.journal.database import open_existing
from product_live_worker.journal.tables import IS_OPEN, executions
from product_live_worker.model.action import Action
from product_live_worker.model.errors import JournalUnwritable
from product_live_worker.model.execution import State

Record = dict[str, Any]
"""A row of the journal, by the names of its columns."""


class Records:
    """The rows of one platform."""

    def __init__(self, engine: Engine, platform: str) -> None:
        self._engine = engine
        self._platform = platform
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

    def act(self, action: Action) -> None:
        """Do what is asked, and keep it with who, when and why; the workers on the journal see it within a second.

        Raises IllegalTransition for what cannot be done.
        """
        try:
            with self._engine.begin() as connection:
                actions.act(connection, self._platform, action)
        except DBAPIError as error:
            raise JournalUnwritable(f"the journal cannot be written: {error.orig}") from error

    def pauses(self) -> list[Action]:
        """Give the pauses that hold."""
        with self._read() as connection:
            return actions.in_force(connection, self._platform, time.time())

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise JournalUnwritable(f"the journal cannot be read: {error.orig}") from error


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

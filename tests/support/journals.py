"""Journals in real files and on a real server, and what a test does with them from outside."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, Self

import psycopg
from sqlalchemy import event
from sqlalchemy.engine import Engine

from product_live_worker.journal.journal import Journal, open_journal
from product_live_worker.model.execution import Execution, Outcome, State

from .postgres import ask

Place = Path | str
"""Where a journal is: SQLite's file, or the address of a database of PostgreSQL."""
PLATFORM = "https://api.example.com"
DONE = Outcome.completed({"result": 8})
FULL = "disk is full"


def url_of(place: Place) -> str:
    """Give the address of a journal, as the settings have it."""
    return f"sqlite:///{place}" if isinstance(place, Path) else place


def opened(
    place: Place, *, platform: str = PLATFORM, keep_payloads: bool = False, window: float = 60.0, lease: float = 30.0
) -> AbstractAsyncContextManager[Journal]:
    """Open a journal there, as one more worker process would."""
    return open_journal(url_of(place), platform=platform, window=window, lease=lease, keep_payloads=keep_payloads)


def an_execution(id: str = "e1", **fields: Any) -> Execution:
    """Give an execution as a poll brings it."""
    return Execution(**{"id": id, "task_id": "t1", "task": "power", "input": {"power": 3}, "claimed_at": 1.0, **fields})


def query(place: Place, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run SQL on the database, past the journal."""
    if not isinstance(place, Path):
        return ask(place, sql.replace("?", "%s"), *values)
    with closing(sqlite3.connect(place)) as connection, connection:
        return connection.execute(sql, values).fetchall()


def unordered(what: str, number: int) -> str:
    """Give an id or a key as they come: in no order, so that each belongs on another page of its index."""
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()[:32]


def add_reported(place: Place, count: int, *, platform: str = PLATFORM) -> None:
    """Put so many rows of executions into a journal that were reported a while ago."""
    names = (
        "platform, id, task_id, task, state, holder, status, correlation_id, idempotency_key, on_repeat, crashes, "
        "attempts, trouble, claimed_at, started_at, settled_at, reported_at"
    )
    row = "?, ?, 't1', 'power', 'REPORTED', 'gone', 'COMPLETED', ?, ?, 'run', 0, 0, '', ?, ?, ?, ?"
    sql = f"INSERT INTO executions ({names}) VALUES ({row})"  # noqa: S608 (both are above)
    rows = (
        (platform, unordered("id", n), f"job-{n}", unordered("key", n), *(1e9 + n + later for later in range(4)))
        for n in range(count)
    )
    if isinstance(place, Path):
        with closing(sqlite3.connect(place)) as connection, connection:
            connection.executemany(sql, rows)
        return
    with psycopg.connect(place) as server:
        server.cursor().executemany(sql.replace("?", "%s"), rows)


def row(place: Place, id: str = "e1") -> dict[str, Any]:
    """Give the row of an execution, as the database has it."""
    return all_rows(place, "WHERE id = ?", id)[0]


def all_rows(place: Place, which: str = "", *values: Any) -> list[dict[str, Any]]:
    """Give the rows of executions, as the database has them."""
    if not isinstance(place, Path):
        found = query(place, f"SELECT row_to_json(executions) FROM executions {which}", *values)  # noqa: S608 (ours)
        return [dict(columns) for (columns,) in found]
    with closing(sqlite3.connect(place)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(found) for found in connection.execute(f"SELECT * FROM executions {which}", values)]  # noqa: S608 (ours)


def refuse(place: Place, verb: str, table: str = "executions", *, only: str = "") -> None:
    """Let the database refuse every INSERT, UPDATE or DELETE on the table, as a full disk would; or that of a row."""
    when = f"WHEN (NEW.id = '{only}')" if only else ""
    name = f"refuse_{verb}_{table}".lower()
    if isinstance(place, Path):
        how = "ABORT" if only else "FAIL"
        query(place, f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {when} BEGIN SELECT RAISE({how}, '{FULL}'); END")
        return
    body = f"BEGIN RAISE EXCEPTION '{FULL}' USING ERRCODE = 'disk_full'; END"
    query(place, f"CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    query(place, f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH ROW {when} EXECUTE FUNCTION refuse()")


def fill_up(place: Path) -> None:
    """Let the database refuse all that a worker at work writes."""
    for verb in ("INSERT", "UPDATE"):
        for table in ("executions", "holders", "slots"):
            refuse(place, verb, table)


def allow(place: Place, verb: str, table: str = "executions") -> None:
    """End what `refuse` has begun."""
    on = "" if isinstance(place, Path) else f" ON {table}"
    query(place, f"DROP TRIGGER {f'refuse_{verb}_{table}'.lower()}{on}")


async def _claim(journal: Journal, execution: Execution) -> Execution:
    claimed, is_new = await journal.claim(execution)
    assert is_new
    return claimed


async def in_state(journal: Journal, state: State, execution: Execution) -> Execution:
    """Claim an execution and take it to this state, by the usual way."""
    execution = await _claim(journal, execution)
    for verb in WAY[state]:
        execution = await verb(journal, execution)
    return execution


Verb = Callable[[Journal, Execution], Awaitable[Execution]]
VERBS: dict[str, Verb] = {
    "start": lambda journal, execution: journal.start(execution),
    "settle": lambda journal, execution: journal.settle(execution, DONE),
    "rerun": lambda journal, execution: journal.rerun(execution),
    "postpone": lambda journal, execution: journal.postpone(execution, "no answer"),
    "close": lambda journal, execution: journal.close(execution),
    "give_up": lambda journal, execution: journal.give_up(execution, "404"),
}
LEADS_TO = {
    "start": State.RUNNING,
    "settle": State.SETTLED,
    "rerun": State.CLAIMED,
    "postpone": State.SETTLED,
    "close": State.REPORTED,
    "give_up": State.UNDELIVERABLE,
}
WAY: dict[State, Iterable[Verb]] = {
    State.CLAIMED: (),
    State.RUNNING: (VERBS["start"],),
    State.SETTLED: (VERBS["start"], VERBS["settle"]),
    State.REPORTED: (VERBS["start"], VERBS["settle"], VERBS["close"]),
    State.UNDELIVERABLE: (VERBS["start"], VERBS["settle"], VERBS["give_up"]),
}


class Commits:
    """Counts the transactions that all databases of this process really commit."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        event.listen(Engine, "commit", self._committed)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(Engine, "commit", self._committed)

    def _committed(self, _: Any) -> None:
        self.count += 1

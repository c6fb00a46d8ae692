"""The one writer: what it does when the file is somebody else's just now, or damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, event

from product_live_worker.journal.sqlite import File, open_database
from product_live_worker.journal.writer import Writer
from product_live_worker.model.errors import JournalUnusable, JournalUnwritable
from support.journals import query

pytestmark = pytest.mark.anyio


@contextmanager
def opened_file(path: Path) -> Iterator[File]:
    """Open a database that waits for others only a moment."""
    with closing(open_database(f"sqlite:///{path}", busy_timeout=0.05)) as database:
        yield database


def note(connection: Connection) -> None:
    """Write something."""
    connection.exec_driver_sql("UPDATE holders SET ends_at = 0")


async def test_those_that_wait_for_a_locked_file_wait_once_together(tmp_path: Path) -> None:
    """A process stopped within its transaction holds the file: twenty steps are not twenty waits."""
    waits, told = 0, []
    with opened_file(tmp_path / "worker.db") as file, closing(sqlite3.connect(tmp_path / "worker.db")) as stopped:
        writer = Writer(file)

        def wait(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            nonlocal waits
            waits += statement == "BEGIN IMMEDIATE"

        async def step() -> None:
            try:
                await writer.do(note)
            except JournalUnwritable as error:
                told.append(str(error))

        event.listen(file.engine, "before_cursor_execute", wait)
        stopped.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as together:
            for _ in range(20):
                together.start_soon(step)
        # The first goes at once; the others gather while it waits.
        assert (waits <= 2, len(told)) == (True, 20)
        assert all("locked" in text for text in told)
        stopped.rollback()
        await writer.do(note)


async def test_a_damaged_page_is_no_trouble_that_passes(tmp_path: Path) -> None:
    """Trouble with the disk heals by itself, damage does not: it is told as what it is, with what to do."""
    path = tmp_path / "worker.db"
    with opened_file(path):
        query(path, "INSERT INTO holders VALUES ('a', 'p', 'b', 1)")
    ((page,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'holders'")
    ((size,),) = query(path, "PRAGMA page_size")
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(content)
    with opened_file(path) as file:
        with pytest.raises(JournalUnusable, match="damaged") as refusal:
            await Writer(file).do(note)
        assert str(path) in str(refusal.value)

"""The journal's file: who may read it, what it is refused for, and that its schema is the newest migration's."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import anyio
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Engine

from product_live_worker.journal.sqlite import open_database
from product_live_worker.journal.tables import REVISION, metadata
from product_live_worker.model.errors import JournalUnusable, JournalUnwritable
from product_live_worker.model.execution import State
from support.journals import Commits, an_execution, in_state, opened, query

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a place for a journal's file."""
    return tmp_path / "worker.db"


def opening(path: Path, **options: float) -> None:
    """Open the database, and close it."""
    open_database(f"sqlite:///{path}", **options).close()


def mode(path: Path) -> int:
    """Give the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_nobody_else_can_read_the_journal(tmp_path: Path) -> None:
    """The file, what SQLite puts beside it, and the holders' files are for this user alone, whatever the umask."""
    path = tmp_path / "state" / "worker.db"
    before = os.umask(0)
    try:
        async with opened(path) as journal:
            await journal.claim(an_execution())
            modes = {found.name: mode(found) for found in path.parent.rglob("*")}
    finally:
        os.umask(before)
    assert mode(path.parent) == 0o700
    assert modes.pop("worker.db.holders") == 0o700
    assert {"worker.db", "worker.db-wal", "worker.db-shm", journal.holder} == set(modes)
    assert set(modes.values()) == {0o600}


def test_a_journal_that_others_could_read_is_closed_to_them(path: Path) -> None:
    """A journal that was copied or restored with open permissions is private again after the next start."""
    opening(path)
    path.chmod(0o644)
    opening(path)
    assert mode(path) == 0o600


def test_every_commit_is_on_the_disk(path: Path) -> None:
    """Write-ahead with full synchronisation: what is committed survives the power going off."""
    database = open_database(f"sqlite:///{path}")
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.close()


async def test_a_journal_is_opened_again_as_it_was(path: Path) -> None:
    """Opening changes nothing in a current journal."""
    async with opened(path) as journal:
        await in_state(journal, State.SETTLED, an_execution())
    before = query(path, "SELECT * FROM executions")
    opening(path)
    assert query(path, "SELECT * FROM executions") == before
    assert query(path, "SELECT version_num FROM alembic_version") == [(REVISION,)]


async def test_a_disk_without_room_refuses_a_claim_and_recovers(path: Path) -> None:
    """A database that cannot grow says so, and goes on when it can."""

    def limit(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA max_page_count = 40")

    event.listen(Engine, "connect", limit)
    try:
        async with opened(path) as journal:
            await journal.claim(an_execution(id="large", input="x" * 400_000))
            assert "full" in journal.trouble
            assert (await journal.claim(an_execution()))[1]
            assert journal.trouble == ""
            assert query(path, "SELECT id FROM executions") == [("e1",)]
    finally:
        event.remove(Engine, "connect", limit)


async def test_verbs_that_wait_together_share_a_transaction(path: Path) -> None:
    """A commit costs a write to the disk; thirty claims at once do not cost thirty."""
    async with opened(path) as journal:
        with Commits() as commits:
            async with anyio.create_task_group() as group:
                for number in range(30):
                    group.start_soon(journal.claim, an_execution(id=f"e{number}"))
        assert journal.unreported() == 30
    assert 1 <= commits.count <= 3
    assert query(path, "SELECT count(*) FROM executions") == [(30,)]


# What is refused


def foreign(path: Path) -> None:
    """Make a database of something else."""
    query(path, "CREATE TABLE invoices (id INTEGER)")
    query(path, "INSERT INTO invoices VALUES (7)")


def foreign_with_migrations(path: Path) -> None:
    """Make a database of something else that uses Alembic too."""
    foreign(path)
    query(path, "CREATE TABLE alembic_version (version_num TEXT)")
    query(path, "INSERT INTO alembic_version VALUES ('0001')")


def no_database(path: Path) -> None:
    """Make a file that is no database."""
    path.write_bytes(b"a list of things to buy\n" * 1000)


def damaged(path: Path) -> None:
    """Make a journal, and break its first page."""
    opening(path)
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xff" * 1900
    path.write_bytes(content)


def newer(path: Path) -> None:
    """Make a journal of a later version of the worker."""
    opening(path)
    query(path, "UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize("make", [foreign, foreign_with_migrations, no_database, damaged, newer])
def test_a_file_that_is_not_ours_to_use_is_refused_and_left_as_it_was(path: Path, make: Callable[[Path], None]) -> None:
    """Nothing is written into a foreign, damaged or newer file; the error names it and says what to do."""
    make(path)
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(JournalUnusable) as refusal:
        opening(path)
    assert (path.read_bytes(), mode(path)) == (before, 0o640)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert str(path) in str(refusal.value)
    assert "left as it" in str(refusal.value)


@pytest.mark.parametrize("make", [foreign, foreign_with_migrations, damaged, newer])
def test_the_log_beside_a_refused_file_stays_too(path: Path, make: Callable[[Path], None]) -> None:
    """What a killed process had written lies in the log; put into a damaged file, it could not be saved any more."""
    make(path)
    damage, wrote = path.read_bytes()[:2000], "UPDATE alembic_version SET version_num = version_num"
    if make is damaged:
        path.unlink()
        opening(path)
    log = path.with_name(f"{path.name}-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as killed:
        killed.execute("PRAGMA journal_mode = WAL")
        killed.execute("UPDATE invoices SET id = 8" if make is foreign else wrote)
        left = path.read_bytes(), log.read_bytes()
    if make is damaged:
        left = damage + left[0][2000:], left[1]
    path.write_bytes(left[0])
    log.write_bytes(left[1])
    path.chmod(0o640)
    with pytest.raises(JournalUnusable, match="left as it"):
        opening(path)
    assert (path.read_bytes(), log.read_bytes(), mode(path)) == (*left, 0o640)


async def test_a_journal_that_was_left_open_is_opened_with_what_its_log_has(path: Path, tmp_path: Path) -> None:
    """Looking before opening takes nothing away: what a killed worker had committed is there."""
    left = tmp_path / "killed.db"
    async with opened(path) as journal:
        await journal.claim(an_execution())
        for beside in ("", "-wal"):
            shutil.copyfile(f"{path}{beside}", f"{left}{beside}")
    opening(left)
    assert query(left, "SELECT id FROM executions") == [("e1",)]


def test_a_newer_journal_is_named_with_both_versions(path: Path) -> None:
    """Who went back to an older worker learns which version the file has, and which this one knows."""
    newer(path)
    with pytest.raises(JournalUnusable, match=f"schema 9999; this one knows {REVISION}"):
        opening(path)


def is_directory(path: Path) -> Path:
    """Give a folder instead of a file."""
    path.mkdir()
    return path


def is_below_a_file(path: Path) -> Path:
    """Give a path that leads through a file."""
    path.touch()
    return path / "worker.db"


@pytest.mark.parametrize("make", [is_directory, is_below_a_file])
def test_a_place_that_cannot_be_written_is_said(path: Path, make: Callable[[Path], Path]) -> None:
    """A journal that cannot be opened is one clear error with the path."""
    place = make(path)
    with pytest.raises(JournalUnwritable, match=r"cannot be opened.*state\.url") as refusal:
        opening(place)
    assert str(place) in str(refusal.value)


async def test_a_place_for_the_lock_files_that_cannot_be_made_is_said(path: Path) -> None:
    """The journal opens, the folder beside it does not: one clear error, no traceback."""
    path.with_name("worker.db.holders").touch()
    with pytest.raises(JournalUnwritable, match="no file can be made"):
        async with opened(path):
            pass


def test_a_database_that_is_locked_is_unwritable_not_unusable(path: Path) -> None:
    """A lock passes; it is no reason to call the file damaged."""
    opening(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(JournalUnwritable, match="locked"):
            opening(path, busy_timeout=0.01)


# The schema


def migrations() -> Config:
    """Find the migrations that are shipped."""
    config = Config()
    config.set_main_option("script_location", str(resources.files("product_live_worker.journal") / "migrations"))
    return config


def test_the_code_reads_the_newest_migrations_schema() -> None:
    """There is one newest migration, and it is the one that the code was written for."""
    assert ScriptDirectory.from_config(migrations()).get_heads() == [REVISION]


def migrated(path: Path) -> None:
    """Make a database by all migrations, one after the other."""
    engine = create_engine(f"sqlite:///{path}")
    config = migrations()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


def test_migrating_makes_exactly_the_tables_of_the_code(path: Path) -> None:
    """A database that went through all migrations has the columns and indexes that the code declares."""
    migrated(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []


def test_a_new_journal_and_a_migrated_one_are_alike_to_the_letter(path: Path, tmp_path: Path) -> None:
    """Keys and conditions of indexes are the same as well; a comparison of names misses them."""
    opening(path)
    migrated(tmp_path / "migrated.db")
    assert schema(path) == schema(tmp_path / "migrated.db")


def test_a_migrated_journal_is_a_current_one(path: Path) -> None:
    """What the migrations leave is opened without a further step."""
    migrated(path)
    before = query(path, "SELECT * FROM sqlite_master")
    opening(path)
    assert query(path, "SELECT * FROM sqlite_master") == before


def schema(path: Path) -> dict[str, Any]:
    """Read what SQLite knows of the schema, without its spelling."""
    objects = query(path, "SELECT type, name, sql FROM sqlite_master WHERE name != 'alembic_version'")
    tables = [name for kind, name, _ in objects if kind == "table"]
    return {
        "indexes": {name: "".join((sql or "").split()) for kind, name, sql in objects if kind == "index"},
        "columns": {
            table: query(path, 'SELECT name, type, "notnull", pk FROM pragma_table_info(?)', table) for table in tables
        },
    }


def test_an_older_journal_is_copied_before_it_is_migrated(path: Path) -> None:
    """A migration that goes wrong can be undone by hand: the copy is private and holds what the journal held."""
    opening(path)
    query(path, "UPDATE alembic_version SET version_num = '0000'")
    query(path, "INSERT INTO slots VALUES (1, 'p', '', 'b', 1)")
    with pytest.raises(Exception, match="0000"):
        opening(path)
    copy = path.with_name("worker.db.0000.backup")
    assert mode(copy) == 0o600
    assert query(copy, "SELECT platform FROM slots") == [("p",)]


def test_without_a_copy_nothing_is_migrated(path: Path) -> None:
    """Where the copy cannot be made, the older journal stays as it was, and the error says so."""
    opening(path)
    query(path, "UPDATE alembic_version SET version_num = '0000'")
    path.with_name("worker.db.0000.backup").mkdir()
    with pytest.raises(JournalUnwritable, match="no copy"):
        opening(path)
    assert query(path, "SELECT version_num FROM alembic_version") == [("0000",)]


def test_alembic_is_not_loaded_for_a_current_journal(path: Path) -> None:
    """A worker with a current journal does not pay for Alembic's memory."""
    opening(path)
    code = (
        "import sys; from product_live_worker.journal.sqlite import open_database; "
        f"open_database('sqlite:///{path}').close(); sys.exit('alembic' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)  # noqa: S603 (our own code)

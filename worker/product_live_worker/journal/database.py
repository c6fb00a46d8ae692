"""Opening the journal's database: its file, its pragmas, its schema."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from importlib import resources
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, make_url, select
from sqlalchemy.exc import DatabaseError

from product_live_worker.journal.tables import REVISION, executions, metadata, version
from product_live_worker.model.errors import JournalUnusable, JournalUnwritable

BUSY_TIMEOUT = 5.0
"""Seconds that a commit waits for another process's commit."""


def open_database(url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> Engine:
    """Open, and where needed create or migrate, the database; raises JournalUnusable or JournalUnwritable."""
    path = Path(make_url(url).database or "")
    _private_file(path)
    engine = create_engine(url, connect_args={"timeout": busy_timeout, "check_same_thread": False})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            revision = _revision(connection, path)
            if revision is None:
                _create(connection)
        _write_ahead(engine)
        if revision not in (None, REVISION):
            _migrate(engine, path, revision)
    except DatabaseError as error:
        engine.dispose()
        if isinstance(error.orig, sqlite3.OperationalError):
            raise JournalUnwritable(f"the journal {path} cannot be opened: {error.orig}") from error
        raise JournalUnusable(
            f"{path} is damaged or no database of this worker ({error.orig}); it was left as it is. Move it away to "
            f"start with an empty journal, or set state.url to another file"
        ) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _private_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its -wal and -shm files the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with contextlib.suppress(PermissionError):
            path.chmod(0o600)
    except OSError as error:
        raise JournalUnwritable(f"the journal {path} cannot be opened: {error.strerror}") from error


def _configure(connection: sqlite3.Connection, _: Any) -> None:
    # pysqlite would begin transactions by itself, and late: a commit could then find another's before it.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous = FULL")


def _write_ahead(engine: Engine) -> None:
    # Only once the file is known to be ours: this is written into it, and stays.
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _revision(connection: Connection, path: Path) -> str | None:
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if not {"alembic_version", executions.name} <= tables:
        raise JournalUnusable(
            f"{path} is a database of something else (it has the tables {', '.join(sorted(tables)[:5])}); it was left "
            f"as it is. Set state.url to another file"
        )
    revision: str | None = connection.execute(select(version.c.version_num)).scalar()
    if revision is not None and revision > REVISION:
        raise JournalUnusable(
            f"{path} was written by a newer worker (schema {revision}; this one knows {REVISION}); it was left as it "
            f"is. Install that version again, or set state.url to another file"
        )
    return revision


def _create(connection: Connection) -> None:
    # Not by the migrations: an empty journal is not behind, and a first start needs no Alembic.
    metadata.create_all(connection)
    connection.execute(insert(version).values(version_num=REVISION))


def _migrate(engine: Engine, path: Path, revision: str | None) -> None:
    # Imported here: Alembic is 10 MB of memory that a worker with a current journal never needs.
    from alembic import command  # noqa: PLC0415 (as said)
    from alembic.config import Config  # noqa: PLC0415 (as said)

    _back_up(engine, path.with_name(f"{path.name}.{revision}.backup"))
    config = Config()
    config.set_main_option("script_location", str(resources.files("product_live_worker.journal") / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _back_up(engine: Engine, copy: Path) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        source = Path(str(make_url(str(engine.url)).database))
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        shutil.copyfile(source, copy)

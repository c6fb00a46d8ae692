"""Opening the journal's database: its file, its pragmas, its schema."""

from __future__ import annotations

import contextlib
import os
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
WRITES_AHEAD = b"\x02"
"""At offset 18 of the file: what is written goes into the log beside it first."""
BESIDE = ("-wal", "-shm")
"""What SQLite puts beside the file while it is open, and leaves there when its process is killed."""


def open_database(url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> Engine:
    """Open, and where needed create or migrate, the database; raises JournalUnusable or JournalUnwritable."""
    path = file_of(url)
    _make_file(path)
    _refuse_what_is_not_ours(path)
    engine = create_engine(url, connect_args={"timeout": busy_timeout, "check_same_thread": False})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            revision = _revision(connection, path)
            _make_private(path)
            if revision is None:
                _create(connection)
        _write_ahead(engine)
        if revision not in (None, REVISION):
            _migrate(engine, path, revision)
    except DatabaseError as error:
        engine.dispose()
        if is_damage(error.orig):
            raise _damaged(path, error.orig) from error
        raise _not_to_be_opened(path, error.orig) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def open_to_read(url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> Engine:
    """Open the database of a worker that may be running, or stopped in the middle of a write; changes nothing.

    Raises JournalUnusable or JournalUnwritable.
    """
    path = file_of(url)
    _refuse_what_is_not_ours(path)
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(_only_to_read(path), uri=True, timeout=busy_timeout, check_same_thread=False),
    )
    try:
        with engine.connect() as connection:
            revision = _revision(connection, path)
    except DatabaseError as error:
        engine.dispose()
        raise _damaged(path, error.orig) if is_damage(error.orig) else _not_to_be_opened(path, error.orig) from error
    if revision != REVISION:
        raise JournalUnusable(
            f"{path} was written by an older worker (schema {revision}; this one reads {REVISION}); "
            f"start the worker once, which brings it up to date"
        )
    return engine


def file_of(url: str) -> Path:
    """Give the database's file."""
    return Path(make_url(url).database or "")


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite says that the file is damaged, or no database; anything else may pass."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_locked(error: BaseException | None) -> bool:
    """Whether another process has not let go of the file in time."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _damaged(path: Path, error: object) -> JournalUnusable:
    return JournalUnusable(
        f"{path} is damaged or no database of this worker ({error}); it was left as it is. Move it away to "
        f"start with an empty journal, or set state.url to another file"
    )


def _not_to_be_opened(path: Path, why: object) -> JournalUnwritable:
    return JournalUnwritable(
        f"the journal {path} cannot be opened: {why}. Let this user write to {path.parent} and make room there, "
        f"or set state.url to another place"
    )


def _make_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise _not_to_be_opened(path, error.strerror) from error


def _make_private(path: Path) -> None:
    # SQLite gives its -wal and -shm files the mode that the database had when they were made.
    for name in ("", *BESIDE):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.with_name(path.name + name).chmod(0o600)


def _refuse_what_is_not_ours(path: Path) -> None:
    """Look before SQLite opens the file to write: it would put the log that lies beside it into it, and remove it."""
    if not _header(path):
        return
    try:
        with contextlib.closing(sqlite3.connect(_only_to_read(path), uri=True)) as reader:
            names = {name for (name,) in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            _refuse_foreign(path, names)
            if names:
                _refuse_newer(path, *reader.execute("SELECT version_num FROM alembic_version").fetchone() or (None,))
    except sqlite3.DatabaseError as error:
        # What else is wrong with it, opening it will tell.
        if is_damage(error):
            raise _damaged(path, error) from error


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(100)
    except OSError as error:
        raise _not_to_be_opened(path, error.strerror) from error


def _only_to_read(path: Path) -> str:
    # One that writes ahead and has no log is open nowhere; read like a file that cannot change, it gets none either.
    alone = _header(path)[18:19] == WRITES_AHEAD and not path.with_name(path.name + "-wal").exists()
    return f"{path.absolute().as_uri()}?{'immutable=1' if alone else 'mode=ro'}"


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
    _refuse_foreign(path, tables)
    if not tables:
        return None
    revision: str | None = connection.execute(select(version.c.version_num)).scalar()
    _refuse_newer(path, revision)
    return revision


def _refuse_foreign(path: Path, tables: set[str]) -> None:
    if tables and not {"alembic_version", executions.name} <= tables:
        raise JournalUnusable(
            f"{path} is a database of something else (it has the tables {', '.join(sorted(tables)[:5])}); it was left "
            f"as it is. Set state.url to another file"
        )


def _refuse_newer(path: Path, revision: str | None) -> None:
    if revision is not None and revision > REVISION:
        raise JournalUnusable(
            f"{path} was written by a newer worker (schema {revision}; this one knows {REVISION}); it was left as it "
            f"is. Install that version again, or set state.url to another file"
        )


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
    try:
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with contextlib.closing(engine.raw_connection()) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            # SQLite's own way, whatever of the file is in its log, and whoever else writes meanwhile.
            source.driver_connection.backup(target)  # type: ignore[union-attr]  # it is open
    except (OSError, sqlite3.Error) as error:
        raise JournalUnwritable(
            f"the journal is of an older schema, and no copy of it can be made at {copy} before it is changed: {error}"
        ) from error

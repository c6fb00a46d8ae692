"""The journal in a file: SQLite, its pragmas, its errors, and the locks beside it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Double, Engine, bindparam, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError, DBAPIError

from product_live_worker.journal import holders, schema
from product_live_worker.journal.backend import Clock
from product_live_worker.journal.clock import boot_id, boot_now
from product_live_worker.journal.tables import REVISION
from product_live_worker.model.errors import JournalError, JournalUnusable, JournalUnwritable

BUSY_TIMEOUT = 5.0
"""Seconds that a commit waits for another process's commit."""
STILL_LOCKED = 0.2
"""Seconds to wait for a file that was locked the last time already."""
WRITES_AHEAD = b"\x02"
"""At offset 18 of the file: what is written goes into the log beside it first."""
BESIDE = ("-wal", "-shm")
"""What SQLite puts beside the file while it is open, and leaves there when its process is killed."""
ELSEWHERE = "Set state.url to another file"


class File:
    """See Backend, whose protocol this satisfies. Its clock is the boot clock."""

    shared = False
    together = True

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self.clock = Clock(bindparam("boot_now", callable_=boot_now, type_=Double), boot_id(), boot_now)
        self._path = path
        self._directory = path.with_name(f"{path.name}.holders")
        self._locked = False

    def begin(self, *, at_once: bool) -> AbstractContextManager[Connection]:
        """See Backend."""
        return self.engine.begin()

    def worked(self) -> None:
        """See Backend."""
        self._be_patient(locked=False)

    def failed(self, error: DBAPIError) -> None:
        """See Backend."""
        self._be_patient(locked=is_locked(error.orig))

    def one_by_one(self, error: DBAPIError) -> bool:
        """See Backend: of a file that somebody else has locked, none will get hold; they have waited together."""
        return not is_locked(error.orig)

    def is_race(self, error: DBAPIError) -> bool:
        """See Backend: who writes has the file for itself."""
        return False

    def told(self, error: DBAPIError) -> JournalError:
        """See Backend."""
        if is_damage(error.orig):
            return JournalUnusable(
                f"the journal {self._path} is damaged ({error.orig}); what can be read of it, "
                f"`executions list` shows. Move it away to start with an empty one"
            )
        return JournalUnwritable(f"the journal cannot be written: {error.orig}")

    def hold(self, process: str) -> AbstractContextManager[None]:
        """See Backend: a file that is locked, in a folder beside the journal."""
        return holders.hold(self._directory, process)

    def is_dead(self, process: str) -> bool:
        """See Backend."""
        return holders.is_dead(self._directory, process)

    def close(self) -> None:
        """See Backend."""
        self.engine.dispose()

    def _be_patient(self, *, locked: bool) -> None:
        """Wait for long only once: who holds the file for longer is stopped, and reports go on from memory."""
        if locked is self._locked:
            return
        self._locked = locked
        with contextlib.closing(self.engine.raw_connection()) as connection:
            wait = STILL_LOCKED if locked else BUSY_TIMEOUT
            connection.cursor().execute(f"PRAGMA busy_timeout = {wait * 1000:.0f}")


def open_database(url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> File:
    """See database.py."""
    path = file_of(url)
    _make_file(path)
    _refuse_what_is_not_ours(path)
    engine = create_engine(url, connect_args={"timeout": busy_timeout, "check_same_thread": False})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            revision = schema.revision_of(connection, str(path), elsewhere=ELSEWHERE)
            _make_private(path)
            if revision is None:
                schema.create(connection)
        _write_ahead(engine)
        if revision not in (None, REVISION):
            _bring_up_to_date(engine, path)
    except DatabaseError as error:
        engine.dispose()
        if is_damage(error.orig):
            raise _damaged(path, error.orig) from error
        raise _not_to_be_opened(path, error.orig) from error
    except BaseException:
        engine.dispose()
        raise
    return File(engine, path)


def _bring_up_to_date(engine: Engine, path: Path) -> None:
    with engine.begin() as connection:
        # Of workers that start together one has the file to write, and the others find it done.
        revision = schema.revision_of(connection, str(path), elsewhere=ELSEWHERE)
        if revision != REVISION:
            _back_up(engine, path.with_name(f"{path.name}.{revision}.backup"))
            schema.migrate(connection)


def open_existing(url: str, *, to_write: bool) -> File:
    """See database.py."""
    path = file_of(url)
    if not path.exists() or not path.stat().st_size:
        raise JournalError(f"there is no journal at {path} yet; is it the worker's own state.url, or folder?")
    return open_database(url) if to_write else _open_to_read(path)


def _open_to_read(path: Path) -> File:
    """Open the file of a worker that may be running, or stopped in the middle of a write; changes nothing."""
    _refuse_what_is_not_ours(path)
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(_only_to_read(path), uri=True, timeout=BUSY_TIMEOUT, check_same_thread=False),
    )
    try:
        with engine.connect() as connection:
            schema.refuse_older(str(path), schema.revision_of(connection, str(path), elsewhere=ELSEWHERE))
    except DatabaseError as error:
        engine.dispose()
        raise _damaged(path, error.orig) if is_damage(error.orig) else _not_to_be_opened(path, error.orig) from error
    except BaseException:
        engine.dispose()
        raise
    return File(engine, path)


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
            schema.refuse_foreign(str(path), names, ELSEWHERE)
            if names:
                (revision,) = reader.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
                schema.refuse_newer(str(path), revision, ELSEWHERE)
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

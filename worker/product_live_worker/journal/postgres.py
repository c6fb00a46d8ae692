"""The journal on PostgreSQL: one database for several workers, whose clock is the database's."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import Connection, Double, Engine, create_engine, event, func, literal_column, select, text
from sqlalchemy.exc import DBAPIError

from product_live_worker.journal import schema
from product_live_worker.journal.backend import Clock
from product_live_worker.journal.clock import boot_now
from product_live_worker.journal.tables import PARTIAL, REVISION
from product_live_worker.model.errors import JournalError, JournalUnusable, JournalUnwritable

try:
    import psycopg
    from psycopg.types.string import StrDumper
except ImportError as error:
    raise JournalUnusable(
        "state.url is a PostgreSQL database, and its driver is not installed: "
        "pip install 'product-live-worker[postgres]'"
    ) from error

Result = TypeVar("Result")

CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,
    # A server that is gone without a word is known to be so before a lease has ended.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "fallback_application_name": "product-live-worker",
}
"""What libpq is told unless the address says otherwise; seconds, and milliseconds for the last but one."""
PATIENCE = {"statement_timeout": "7s", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "5s"}
"""What the server is told: a worker that is stopped within its transaction holds nobody up for longer."""
SILENCE = 8.0
"""Seconds after which a server that says nothing is given up: longer than it may take by the above, so it stands still
(frozen, its disk gone) and has not even closed the connection."""
MIGRATION = 0x706C772D6A726E6C
"""The advisory lock of the one worker that makes the tables, or brings them up to date."""
NOW = literal_column("extract(epoch from clock_timestamp())::double precision", Double)
ELSEWHERE = 'Give the worker a database of its own, or a schema (state.url = "…?options=-csearch_path%3Dworker")'

RACES = frozenset({"23505", "40001", "40P01"})
"""Unique violation, serialization failure, deadlock: another worker was faster by a moment."""
LOCKED = frozenset({"55P03", "57014"})
"""A lock, or the statement, took too long."""
READ_ONLY = "25006"
"""What a server says that is no primary, or no longer one."""
DAMAGED = frozenset({"XX001", "XX002"})

for _index, _condition in PARTIAL.items():
    _index.dialect_kwargs["postgresql_where"] = _condition


class Server:
    """See Backend, whose protocol this satisfies.

    A statement alone is one round trip, and a worker that is stopped after it holds no lock.
    """

    shared = True
    together = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.clock = Clock(NOW, "database", boot_now)
        self._alone = engine.execution_options(isolation_level="AUTOCOMMIT")

    def begin(self, *, at_once: bool) -> AbstractContextManager[Connection]:
        """See Backend."""
        return self.engine.begin() if at_once else self._alone.begin()

    def worked(self) -> None:
        """See Backend."""

    def failed(self, error: DBAPIError) -> None:
        """See Backend: the primary may be another server by now."""
        if error.connection_invalidated or _state(error) == READ_ONLY:
            self.engine.dispose()

    def one_by_one(self, error: DBAPIError) -> bool:
        """See Backend: of what was lost with the connection, nobody knows whether it was committed."""
        return not error.connection_invalidated and _state(error) not in LOCKED | {READ_ONLY, None}

    def is_race(self, error: DBAPIError) -> bool:
        """See Backend."""
        return _state(error) in RACES

    def told(self, error: DBAPIError) -> JournalError:
        """See Backend."""
        if _state(error) in DAMAGED:
            return JournalUnusable(f"the journal's database is damaged ({_said(error)}); its administrator has to look")
        return JournalUnwritable(f"the journal cannot be written: {_said(error)}")

    def hold(self, process: str) -> AbstractContextManager[None]:
        """See Backend: on another machine only the lease can be seen."""
        return nullcontext()

    def is_dead(self, process: str) -> bool:
        """See Backend: never; a lost connection is no death."""
        return False

    def close(self) -> None:
        """See Backend."""
        self.engine.dispose()


def open_database(url: str) -> Server:
    """See database.py."""
    return _open(url, _bring_up_to_date)


def open_existing(url: str, *, to_write: bool) -> Server:  # noqa: ARG001 (readers of a server are in nobody's way)
    """See database.py."""

    def look(connection: Connection) -> None:
        revision = schema.revision_of(connection, _place(url), elsewhere=ELSEWHERE)
        if revision is None:
            raise JournalError(f"there is no journal in {_place(url)} yet; is it the worker's own state.url?")
        schema.refuse_older(_place(url), revision)

    return _open(url, look)


def _open(url: str, prepare: Any) -> Server:
    # libpq reads the address itself: several hosts, ~/.pgpass, PGPASSWORD and all else that it knows.
    try:
        psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        # Without libpq's own words: they may quote a part of the password.
        raise JournalUnusable(
            "state.url is no address that libpq can read; write special characters of user and password as %XX"
        ) from None
    engine = create_engine("postgresql+psycopg://", creator=lambda: _connect(url), pool_size=1, max_overflow=1)
    event.listen(engine, "connect", _configure)
    try:
        with engine.begin() as connection:
            prepare(connection)
    except DBAPIError as error:
        engine.dispose()
        raise JournalUnwritable(
            f"the journal {_place(url)} cannot be opened: {_said(error)}. Let this worker connect and create tables "
            f"there, or set state.url to another database"
        ) from error
    except BaseException:
        engine.dispose()
        raise
    return Server(engine)


def _bring_up_to_date(connection: Connection) -> None:
    place = _place_of(connection)
    if schema.revision_of(connection, place, elsewhere=ELSEWHERE) == REVISION:
        return
    # One worker after the other, however long it takes: the next one looks again.
    with _for_as_long_as_it_takes(connection):
        connection.execute(select(func.pg_advisory_xact_lock(MIGRATION)))
        revision = schema.revision_of(connection, place, elsewhere=ELSEWHERE)
        if revision is None:
            schema.create(connection)
        elif revision != REVISION:
            schema.migrate(connection)


@contextmanager
def _for_as_long_as_it_takes(connection: Connection) -> Iterator[None]:
    """Let the statements of this transaction take any time."""
    driver: Any = connection.connection.driver_connection
    connection.execute(text("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0"))
    driver.silence = math.inf
    try:
        yield
    finally:
        driver.silence = SILENCE


class _Connection(psycopg.Connection[Any]):
    """One that waits for no answer for ever; neither TCP nor libpq has a deadline for a server that stands still."""

    silence = SILENCE

    def wait(self, gen: Generator[Any, Any, Result], *arguments: Any, **more: Any) -> Result:
        """Wait for an answer, and give the connection up when none comes."""
        try:
            return super().wait(_within(self.silence, gen), *arguments, **more)
        except TimeoutError:
            # Whatever it still does: this connection must never be used again.
            self.close()
            raise psycopg.OperationalError(f"the server has not answered for {self.silence:g} s") from None


def _within(seconds: float, steps: Generator[Any, Any, Result]) -> Generator[Any, Any, Result]:
    """Take psycopg's steps of an exchange with the server; raises TimeoutError when nothing has come for so long."""
    heard = time.monotonic()
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > seconds:
                raise TimeoutError
            # Where nothing has come, the steps give nothing new to wait for.
            wanted = steps.send(ready) if ready else wanted
    except StopIteration as ended:
        result: Result = ended.value
        return result


def _connect(url: str) -> _Connection:
    given = psycopg.conninfo.conninfo_to_dict(url)
    connection = _Connection.connect(url, **{name: value for name, value in CONNECTION.items() if name not in given})
    connection.adapters.register_dumper(str, _Text)
    return connection


def _configure(connection: psycopg.Connection[Any], _: Any) -> None:
    connection.autocommit = True
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in PATIENCE.items())
    connection.execute(f"SELECT {settings}")
    connection.autocommit = False


class _Text(StrDumper):
    """Text as PostgreSQL can keep it: it knows no character 0, and no half of a character."""

    def dump(self, obj: str) -> bytes:
        return obj.replace("\0", "\\x00").encode("utf-8", "backslashreplace")


def _state(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _said(error: DBAPIError) -> str:
    """Give the first line of what is the matter: the others are for those who wrote the statement."""
    return (str(error.orig).splitlines() or ["no reason given"])[0]


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _place_of(connection: Connection) -> str:
    info = connection.connection.driver_connection.info  # type: ignore[union-attr]  # it is open
    return f"postgresql://{info.host}:{info.port}/{info.dbname}"

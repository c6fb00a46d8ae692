"""The journal on a real PostgreSQL: connections that break, servers that refuse, schemas of other versions."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from typing import Any

import anyio
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from product_live_worker.journal import schema
from product_live_worker.journal.database import open_database
from product_live_worker.journal.journal import Journal
from product_live_worker.journal.postgres import PATIENCE
from product_live_worker.journal.records import open_records
from product_live_worker.journal.tables import PARTIAL, REVISION, metadata
from product_live_worker.model.action import Action
from product_live_worker.model.errors import IllegalTransition, JournalError, JournalUnusable, JournalUnwritable
from product_live_worker.model.execution import State
from product_live_worker.model.window import Demand
from support.journals import DONE, PLATFORM, add_reported, an_execution, in_state, opened, query, row
from support.postgres import PASSWORD, Postgres
from support.wire import wire_to

pytestmark = pytest.mark.anyio


def cut_all(server: Postgres) -> None:
    """End every connection but this one, as an administrator or a failover does."""
    others = "pid != pg_backend_pid() AND backend_type = 'client backend'"
    server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608 (ours)


# Connections


async def test_a_connection_that_was_cut_is_trouble_that_passes(postgres_server: Postgres, postgres_url: str) -> None:
    """The verb that meets it says so; the next one finds a new connection, and nothing is lost."""
    async with opened(postgres_url) as journal:
        running = await in_state(journal, State.RUNNING, an_execution())
        cut_all(postgres_server)
        settled = await journal.settle(running, DONE)
        assert (settled.state, bool(journal.trouble)) == (State.SETTLED, True)
        await journal.catch_up()
        assert (row(postgres_url)["state"], journal.trouble) == ("SETTLED", "")


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_server_that_is_started_again_finds_all_that_happened(
    postgres_server: Postgres, postgres_url: str, how: str
) -> None:
    """While it is away nothing is started and no slot is given; what had begun ends, and is written down afterwards."""
    async with opened(postgres_url) as journal:
        running = await in_state(journal, State.RUNNING, an_execution())
        claimed = await in_state(journal, State.CLAIMED, an_execution("e2"))
        postgres_server.stop(how)
        try:
            await journal.settle(running, DONE)
            with pytest.raises(JournalUnwritable, match="cannot be written"):
                await journal.start(claimed)
            # Nobody knows what the others send: without the ledger there are no requests.
            assert isinstance(await journal.ledger.take(Demand(limit=50, hold=82)), float)
            # Until it is written down, another worker may take it over and end it otherwise.
            with anyio.move_on_after(0.1) as waiting:
                await journal.written("e1")
            assert waiting.cancelled_caught
            assert isinstance(await journal.ledger.take(Demand(limit=50, hold=82)), float)
        finally:
            postgres_server.start()
        await journal.catch_up()
        await journal.written("e1")
        await journal.start(claimed)
        assert isinstance(await journal.ledger.take(Demand(limit=50, hold=82)), int)
        assert (row(postgres_url)["state"], row(postgres_url, "e2")["state"]) == ("SETTLED", "RUNNING")


async def test_a_primary_that_became_read_only_is_trouble_that_passes(
    postgres_server: Postgres, postgres_url: str
) -> None:
    """The connection to a server that is no primary any more is given up: the next may lead to the new one."""
    async with opened(postgres_url) as journal:
        claimed = await in_state(journal, State.CLAIMED, an_execution())
        postgres_server.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        postgres_server.sql("SELECT pg_reload_conf()")
        try:
            # The server reads its settings again in its own time.
            with anyio.fail_after(10):
                while not journal.trouble:
                    with suppress(JournalUnwritable):
                        await journal.renew()
            assert "read-only" in journal.trouble
        finally:
            commands = ("SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only")
            with psycopg.connect(postgres_url, autocommit=True) as administrator:
                for command in (*commands, "SELECT pg_reload_conf()"):
                    administrator.execute(command)
        with anyio.fail_after(10):
            while journal.trouble:
                with suppress(JournalUnwritable):
                    await journal.renew()
        assert (await journal.start(claimed)).state is State.RUNNING


@pytest.mark.parametrize("verb", ["claim", "start", "settle", "take_over"])
async def test_what_was_committed_although_nobody_heard_of_it_is_neither_lost_nor_refused(
    postgres_server: Postgres, postgres_url: str, verb: str
) -> None:
    """The answer to a commit is cut off: whether it happened is not known, and the next verb is right both ways."""
    async with wire_to(postgres_server.port) as wire:
        through = postgres_url.replace(f":{postgres_server.port}/", f":{wire.here}/")
        async with opened(postgres_url) as gone:
            await in_state(gone, State.SETTLED, an_execution("left"))
        async with opened(through) as journal:
            execution = await in_state(journal, {"settle": State.RUNNING}.get(verb, State.CLAIMED), an_execution())
            wire.lets_through = "requests"
            await _in_doubt(journal, verb)
            assert journal.trouble
            wire.lets_through = "all"
            if verb == "start":
                assert row(postgres_url)["state"] == "RUNNING"
                assert (await journal.start(execution)).state is State.RUNNING
            await journal.catch_up()
            if verb == "take_over":
                await _taken(journal)
            assert row(postgres_url, "e2" if verb == "claim" else "e1")["holder"] == journal.holder
            held = {one.id: one.state for one in journal.open_executions()}
            assert held == {id: State(row(postgres_url, id)["state"]) for id in held}
            assert len(held) == (2 if verb in ("claim", "take_over") else 1)


async def _in_doubt(journal: Journal, verb: str) -> None:
    execution = journal.get("e1")
    assert execution is not None
    if verb == "claim":
        assert (await journal.claim(an_execution("e2")))[1]
    elif verb == "settle":
        await journal.settle(execution, DONE)
    else:
        with pytest.raises(JournalUnwritable):
            await (journal.start(execution) if verb == "start" else journal.take_over())


async def _taken(journal: Journal) -> None:
    # A whole fleet may have been cut off: for a lease, nobody is taken for dead.
    assert await journal.take_over() == []
    journal.well_since -= 31
    await journal.take_over()


async def test_a_worker_at_rest_has_one_connection(postgres_server: Postgres, postgres_url: str) -> None:
    """A database allows a hundred or so: a fleet must not use them up."""
    name = postgres_url.rpartition("/")[2]
    async with opened(postgres_url) as one, opened(postgres_url):
        async with anyio.create_task_group() as together:
            for number in range(20):
                together.start_soon(one.claim, an_execution(f"e{number}"))
        (found,) = postgres_server.sql(
            f"SELECT count(*), min(application_name) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608 (ours)
        )
        assert found == (2, "product-live-worker")
    assert postgres_server.sql(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'") == [(0,)]  # noqa: S608 (ours)


def test_a_worker_that_is_stopped_within_a_transaction_holds_nobody_up(postgres_url: str) -> None:
    """The server ends what waits for a process that says nothing; no statement waits for long either."""
    with closing(open_database(postgres_url)) as database, database.begin(at_once=True) as connection:
        for name, value in PATIENCE.items():
            assert connection.execute(text(f"SHOW {name}")).scalar() == value


# What operators ask for


async def test_an_action_that_is_committed_after_a_later_one_is_seen(postgres_url: str) -> None:
    """Numbers are given before the commit: who looks after the last one seen would miss a simultaneous cancellation."""
    pause = "platform, verb, subject, who, why, at, in_force"
    early = f"INSERT INTO actions ({pause}) VALUES ('{PLATFORM}', 'pause', 'early', 'anna', '', 1e9, 1)"  # noqa: S608 (ours)
    async with opened(postgres_url) as journal:
        with psycopg.connect(postgres_url) as slower:
            slower.execute(early)
            await journal.board.act(Action(verb="pause", subject="late", who="ben", at=1e9))
            assert [action.subject for action in await journal.board.look()] == ["late"]
        assert [action.subject for action in await journal.board.look()] == ["early"]
        assert await journal.board.look() == []


# Time


async def test_slots_and_leases_are_on_the_databases_clock(postgres_url: str) -> None:
    """Machines whose clocks disagree still agree on the window, and on who is alive."""
    async with opened(postgres_url, lease=30) as journal:
        await journal.ledger.take(Demand(limit=50, hold=82))
        now = "extract(epoch from now())"
        (left,) = query(postgres_url, f"SELECT free_at - {now}, ends_at - {now} FROM slots, holders")  # noqa: S608 (ours)
        assert (70 < left[0] <= 82, 18 < left[1] <= 30) == (True, True)
        assert abs(journal.fleet.ahead + journal.now() - time.time()) < 5


# The schema


def test_workers_that_start_together_make_one_schema(postgres_url: str) -> None:
    """Eight that find an empty database at the same moment all open it; one of them has made the tables."""
    failed: list[BaseException] = []

    def start() -> None:
        try:
            open_database(postgres_url).close()
        except BaseException as error:  # noqa: BLE001 (a thread's own)
            failed.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert query(postgres_url, "SELECT version_num FROM alembic_version") == [(REVISION,)]


def test_migrating_makes_exactly_the_tables_of_the_code(postgres_server: Postgres) -> None:
    """Made by all migrations or by the code, a database is the same: columns, keys, indexes and their conditions."""
    made, migrated = postgres_server.new_database(), postgres_server.new_database()
    open_database(made).close()
    with closing(open_database(made)) as database, database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    with closing(open_database(migrated)) as database, database.engine.begin() as connection:
        metadata.drop_all(connection)
        schema.migrate(connection)
    assert _described(made) == _described(migrated)
    assert sum("WHERE" in definition for (definition,) in _described(made)["indexes"]) == len(PARTIAL)


def _described(url: str) -> dict[str, Any]:
    columns = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename != 'alembic_version'"
    return {
        "columns": query(
            url, f"{columns} WHERE table_schema = 'public' AND table_name != 'alembic_version' ORDER BY 1, 2"
        ),
        "indexes": query(url, f"{indexes} ORDER BY 1"),
    }


def test_what_is_done_with_is_passed_over_by_index(postgres_url: str) -> None:
    """With twenty thousand reported rows, what asks for open ones, or old ones, reads an index that has only these."""
    open_database(postgres_url).close()
    add_reported(postgres_url, 20_000)
    query(postgres_url, "ANALYZE executions")
    asked = {
        "state != 'REPORTED' AND holder != 'me'": ("executions_open", "executions_state"),
        "state = 'REPORTED' AND reported_at < 9e8": ("executions_reported",),
    }
    for rows, indexes in asked.items():
        sql = f"EXPLAIN SELECT number FROM executions WHERE platform = ? AND {rows}"  # noqa: S608 (ours)
        plan = str(query(postgres_url, sql, PLATFORM))
        assert any(index in plan for index in indexes), plan


def test_a_newer_schema_is_refused_at_the_start(postgres_url: str) -> None:
    """Who went back to an older worker learns both versions, and nothing is changed."""
    open_database(postgres_url).close()
    query(postgres_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(JournalUnusable, match=f"schema 9999; this one knows {REVISION}"):
        open_database(postgres_url)


async def test_a_worker_learns_that_a_newer_one_has_changed_the_schema(postgres_url: str) -> None:
    """At its next renewal; it goes on until it has ended in an orderly way."""
    async with opened(postgres_url) as journal:
        query(postgres_url, "UPDATE alembic_version SET version_num = '9999'")
        assert await journal.renew()
        assert "schema 9999" in journal.outgrown
        await in_state(journal, State.REPORTED, an_execution())


def test_a_database_of_something_else_is_refused_and_left_as_it_was(postgres_url: str) -> None:
    """The tables of another program stay alone; the error says how to have a place of one's own."""
    query(postgres_url, "CREATE TABLE invoices (id int)")
    with pytest.raises(JournalUnusable, match=r"invoices.*left as it is.*search_path"):
        open_database(postgres_url)
    query(postgres_url, "CREATE SCHEMA own")
    open_database(f"{postgres_url}?options=-csearch_path%3Down").close()
    assert query(postgres_url, "SELECT count(*) FROM own.executions") == [(0,)]
    assert query(postgres_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("invoices",)]


# People


async def test_a_person_reads_and_mends_the_rows(postgres_url: str) -> None:
    """`executions` finds, shows, sends again and gives up; a database without a journal is said so."""
    with pytest.raises(JournalError, match="no journal"), open_records(postgres_url, platform=PLATFORM):
        pass
    async with opened(postgres_url) as journal:
        await in_state(journal, State.UNDELIVERABLE, an_execution())
        await in_state(journal, State.RUNNING, an_execution("e2"))
    with open_records(postgres_url, platform=PLATFORM, to_write=True) as records:
        assert [record["id"] for record in records.find()] == ["e2", "e1"]
        records.act(Action(verb="redeliver", subject="e1", who="anna", at=1e9))
        records.act(Action(verb="discard", subject="e1", who="anna", at=1e9))
        with pytest.raises(IllegalTransition, match="RUNNING"):
            records.act(Action(verb="discard", subject="e2", who="anna", at=1e9))
        found = records.get("e1")
    assert found is not None
    assert (found["state"], found["trouble"]) == ("REPORTED", "discarded by hand")


# Secrets, and what else may go wrong at the start


async def test_a_character_that_the_database_cannot_keep_is_written_in_another_way(postgres_url: str) -> None:
    """PostgreSQL knows no character 0: an execution that has it in a name is claimed all the same."""
    async with opened(postgres_url) as journal:
        await journal.claim(an_execution(correlation_id="a\0b", input={"a\0": "\ud83d"}))
        assert journal.trouble == ""
    assert row(postgres_url)["correlation_id"] == "a\\x00b"


WRONG = {
    "password": ("guarded:another-password", "password authentication failed"),
    "nobody": ("nobody:another-password", 'role "nobody" does not exist'),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_refused_login_is_said_without_the_password(postgres_server: Postgres, what: str) -> None:
    """The error names the server and the user, what the server said, and what to do."""
    role, said = WRONG[what]
    with pytest.raises(JournalUnwritable, match=said) as refusal:
        open_database(postgres_server.url("postgres", role=role))
    assert "another-password" not in str(refusal.value)
    assert f"127.0.0.1:{postgres_server.port}/postgres cannot be opened" in str(refusal.value)


def test_the_password_may_stand_elsewhere(
    postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file as libpq knows it, or in PGPASSWORD; the address then has none."""
    address = postgres_server.new_database().replace(f"worker:{PASSWORD}@", "guarded@")
    file = tmp_path_factory.mktemp("home") / "pgpass"
    file.write_text(f"*:*:*:guarded:{PASSWORD}\n")
    file.chmod(0o600)
    open_database(f"{address}?passfile={file}").close()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    open_database(address).close()


@pytest.mark.parametrize("address", ["postgresql://h/db?passwort=secret", "postgresql://me:secret%zz@h/db"])
def test_an_address_that_cannot_be_read_is_not_quoted(address: str) -> None:
    """What was taken for a port or a name may be a part of the password."""
    with pytest.raises(JournalUnusable, match="no address that libpq can read") as refusal:
        open_database(address)
    assert "secret" not in str(refusal.value)


def test_a_server_that_is_not_there_is_said() -> None:
    """In one line, with the address."""
    with pytest.raises(JournalUnwritable, match=r"127\.0\.0\.1:9/db cannot be opened: .*refused") as refusal:
        open_database("postgresql://me:secret@127.0.0.1:9/db")
    assert "secret" not in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


LOADED = "import sys; from product_live_worker.journal.database import open_database; open_database('{url}').close(); "


def test_a_worker_with_a_file_does_not_load_the_driver(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Driver and dialect are for those who asked for them."""
    code = LOADED.format(url=f"sqlite:///{tmp_path_factory.mktemp('state') / 'worker.db'}")
    code += "sys.exit(bool({'psycopg', 'sqlalchemy.dialects.postgresql'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})  # noqa: S603 (ours)


def test_without_the_driver_it_is_said_how_to_get_it() -> None:
    """The extra is named; the settings are what has to be changed, or the installation."""
    code = "import sys; sys.modules['psycopg'] = None; " + LOADED.format(url="postgresql://h/db")
    ended = subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert "product-live-worker[postgres]" in ended.stderr
    assert "JournalUnusable" in ended.stderr

"""A disk that refuses: nothing is claimed that cannot be written down, and nothing that was claimed is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_worker import Context, handler, sandbox
from product_live_worker.journal.postgres import SILENCE
from product_live_worker.model.handler import Handler
from product_live_worker.telemetry.events import ExecutionClaimed, OutageEnded
from support.journals import all_rows, query
from support.postgres import Postgres
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio

TABLES = ("executions", "holders", "slots")
VERBS = ("INSERT", "UPDATE", "DELETE")
LEASE = {"lease": 0.5}
"""It is renewed three times as often, so that trouble with the disk is noticed soon."""


def fill(directory: Path) -> None:
    """Let the database refuse every write, as a full disk would."""
    for table in TABLES:
        for verb in VERBS:
            query(
                directory / "worker.db",
                f"CREATE TRIGGER full_{verb}_{table} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(FAIL, 'disk is full'); END",
            )


def make_room(directory: Path) -> None:
    """End what `fill` has begun."""
    for table in TABLES:
        for verb in VERBS:
            query(directory / "worker.db", f"DROP TRIGGER full_{verb}_{table}")


def states(directory: Path) -> list[str]:
    """Give the state of each row."""
    return [state for (state,) in query(directory / "worker.db", "SELECT state FROM executions")]


def protect(directory: Path, *, how: str) -> bool:
    """Let the kernel refuse every write to the journal, as when its disk is read-only; gives False where it cannot."""
    # Not to the -shm file: it is memory that processes share, and none survives a write that is refused there.
    files = [str(directory / name) for name in ("worker.db", "worker.db-wal")]
    return subprocess.run(["chattr", how, *files], check=False, capture_output=True).returncode == 0  # noqa: S603, S607


@pytest.fixture
def can_be_protected(tmp_path: Path) -> None:
    """Skip where a file cannot be made read-only for a process that has it open already."""
    names = [tmp_path / "worker.db", tmp_path / "worker.db-wal"]
    for name in names:
        name.touch()
    if not protect(tmp_path, how="+i"):
        pytest.skip("needs chattr +i: root, and a file system that knows it (ext4, xfs, btrfs)")
    protect(tmp_path, how="-i")
    for name in names:
        name.unlink()


class Held:
    """Handlers that run until they are released, and how often each execution was run."""

    def __init__(self) -> None:
        self.release = anyio.Event()
        self.runs: Counter[str] = Counter()

        @handler("held", concurrency=2)
        async def held(input: dict[str, Any], context: Context) -> dict[str, int]:
            self.runs[context.execution_id] += 1
            await self.release.wait()
            return {"number": input["number"]}

        self.handler: Handler = held


async def troubled(worker: RunningWorker) -> None:
    """Wait until the worker has noticed that the disk refuses, and no poll of it is in the air any more."""
    await until(lambda: bool(worker.daemon.journal.trouble) and "cannot be written" in worker.daemon.poller.paused())
    await until(lambda: all(arrival.status for arrival in worker.world.arrivals))


async def test_a_full_disk_stops_the_claims_and_loses_no_outcome(tmp_path: Path) -> None:
    """While nothing can be written: no poll, readyz says why, what ran is reported; then work resumes by itself."""
    held = Held()
    async with running_worker([held.handler], tmp_path, state=LEASE) as worker:
        ran = worker.submit("held", {"number": 1}, {"number": 2})
        await until(lambda: held.runs.total() == 2)
        fill(tmp_path)
        await troubled(worker)
        answer = await worker.get("/readyz")
        assert answer.status_code == 503
        (check,) = [check for check in answer.json()["checks"] if check["name"] == "journal"]
        assert (check["ok"], "disk is full" in check["reason"]) == (False, True)
        polls = sum(arrival.operation == "poll" for arrival in worker.world.arrivals)
        (later,) = worker.submit("held", {"number": 3})
        held.release.set()
        await until(lambda: all(execution.status == "COMPLETED" for execution in ran))
        assert sum(arrival.operation == "poll" for arrival in worker.world.arrivals) == polls
        assert later.status == "SCHEDULED"
        make_room(tmp_path)
        await until(lambda: later.status == "COMPLETED" and worker.daemon.journal.unreported() == 0)
        await until(lambda: states(tmp_path) == ["REPORTED"] * 3)
        assert (await worker.get("/readyz")).status_code == 200
        await until(lambda: any(event.what == "writing the journal" for event in worker.heard(OutageEnded)))
    assert [execution.output for execution in (*ran, later)] == [{"number": number} for number in (1, 2, 3)]
    assert set(held.runs.values()) == {1}
    assert [len(execution.patches) for execution in ran] == [1, 1]


@pytest.mark.usefixtures("can_be_protected")
async def test_a_journal_that_becomes_read_only_stops_the_claims_and_loses_no_outcome(tmp_path: Path) -> None:
    """A file system that turns read-only is trouble with the disk like any other: readyz says it, and work resumes."""
    held = Held()
    async with running_worker([held.handler], tmp_path, state=LEASE) as worker:
        (ran,) = worker.submit("held", {"number": 1})
        await until(lambda: held.runs.total() == 1)
        assert protect(tmp_path, how="+i")
        try:
            await troubled(worker)
            answer = await worker.get("/readyz")
            (check,) = [check for check in answer.json()["checks"] if check["name"] == "journal"]
            assert (answer.status_code, check["ok"], "cannot be written" in check["reason"]) == (503, False, True)
            assert (await worker.get("/livez")).status_code == 200
            (later,) = worker.submit("held", {"number": 2})
            held.release.set()
            await until(lambda: ran.status == "COMPLETED")
            assert (later.status, states(tmp_path)) == ("SCHEDULED", ["RUNNING"])
        finally:
            protect(tmp_path, how="-i")
        await until(lambda: later.status == "COMPLETED" and states(tmp_path) == ["REPORTED"] * 2)
        assert (await worker.get("/readyz")).status_code == 200
    assert [execution.output for execution in (ran, later)] == [{"number": 1}, {"number": 2}]
    assert set(held.runs.values()) == {1}


STOPPED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM holders WHERE holder = 'nobody'")
os.write(1, b".")
os.kill(os.getpid(), signal.SIGSTOP)
"""


async def test_a_process_stopped_within_its_commit_is_trouble_that_passes(tmp_path: Path) -> None:
    """Whoever else writes to the file claims nothing until the stopped one goes on or is killed, and loses nothing."""
    held = Held()
    async with running_worker([held.handler], tmp_path, state=LEASE) as worker:
        (ran,) = worker.submit("held", {"number": 1})
        await until(lambda: held.runs.total() == 1)
        command = [sys.executable, "-c", STOPPED, str(tmp_path / "worker.db")]
        async with await anyio.open_process(command, stderr=None) as stopped:
            assert stopped.stdout is not None
            assert await stopped.stdout.receive() == b"."
            await troubled(worker)
            assert "locked" in worker.daemon.journal.trouble
            held.release.set()
            await until(lambda: ran.status == "COMPLETED")
            stopped.send_signal(signal.SIGKILL)
        (later,) = worker.submit("held", {"number": 2})
        await until(lambda: later.status == "COMPLETED" and states(tmp_path) == ["REPORTED"] * 2)
    assert set(held.runs.values()) == {1}


async def test_a_server_that_stands_still_stops_the_claims_and_loses_no_outcome(
    postgres_server: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    """Its connections stay open and nothing answers: known within seconds, and all is as after a restart of it."""
    held = Held()
    state = {"url": f"{postgres_url}?connect_timeout=2"}
    async with running_worker([held.handler], tmp_path, state=state, drain={"timeout": 5}) as worker:
        (ran,) = worker.submit("held", {"number": 1})
        await until(lambda: held.runs.total() == 1)
        with postgres_server.frozen():
            began = time.monotonic()
            await troubled(worker)
            # What a statement may take, and a second for the next look at what operators ask for.
            assert time.monotonic() - began < SILENCE + 4
            answer = await worker.get("/readyz")
            (check,) = [check for check in answer.json()["checks"] if check["name"] == "journal"]
            assert (answer.status_code, check["ok"], "has not answered" in check["reason"]) == (503, False, True)
            assert (await worker.get("/livez")).status_code == 200
            seen = len(worker.world.arrivals)
            (later,) = worker.submit("held", {"number": 2})
            held.release.set()
            await until(lambda: worker.daemon.journal.reports_waiting() == 1)
            assert (later.status, len(worker.world.arrivals)) == ("SCHEDULED", seen)
        await until(lambda: ran.status == later.status == "COMPLETED")
        await until(lambda: [row["state"] for row in all_rows(postgres_url)] == ["REPORTED"] * 2)
        assert (await worker.get("/readyz")).status_code == 200
    assert set(held.runs.values()) == {1}
    assert [len(execution.patches) for execution in (ran, later)] == [1, 1]


async def test_a_claim_that_waits_for_the_disk_does_not_ask_for_a_restart(tmp_path: Path) -> None:
    """A restart would lose what is only in memory: livez stays well however long the disk refuses."""
    held, world, faults = Held(), new_world("held"), sandbox.Faults()
    held.release.set()
    async with running_worker([held.handler], tmp_path, world=world, faults=faults, state=LEASE) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        faults.add("delay", seconds=1.0, before="answer", operations=["poll"], count=1)
        (execution,) = worker.submit("held", {"number": 1})
        await until(lambda: execution.status == "IN_PROGRESS")
        fill(tmp_path)
        await until(lambda: bool(worker.heard(ExecutionClaimed)))
        journal, now = worker.daemon.journal, worker.daemon.journal.now
        journal.now = lambda: now() + 3600
        assert (await worker.get("/livez")).status_code == 200
        (check,) = [check for check in (await worker.get("/readyz")).json()["checks"] if check["name"] == "handlers"]
        assert check["ok"]
        make_room(tmp_path)
        await until(lambda: execution.status == "COMPLETED")


async def test_what_a_poll_brings_while_the_disk_is_full_is_kept_and_run_later(tmp_path: Path) -> None:
    """A claim that came when it could not be written down is remembered, and started once it can be."""
    held, world, faults = Held(), new_world("held"), sandbox.Faults()
    held.release.set()
    async with running_worker([held.handler], tmp_path, world=world, faults=faults, state=LEASE) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        faults.add("delay", seconds=1.0, before="answer", operations=["poll"], count=1)
        (execution,) = worker.submit("held", {"number": 1})
        await until(lambda: execution.status == "IN_PROGRESS")
        fill(tmp_path)
        await until(lambda: bool(worker.heard(ExecutionClaimed)))
        assert (states(tmp_path), held.runs.total()) == ([], 0)
        make_room(tmp_path)
        await until(lambda: execution.status == "COMPLETED")
        await until(lambda: states(tmp_path) == ["REPORTED"])
    assert held.runs == {execution.id: 1}


async def test_a_disk_that_refuses_a_checkpoint_tells_the_handler(tmp_path: Path) -> None:
    """`save_checkpoint` returns only when it is durable: while it cannot be, it raises, and the handler decides."""
    told: list[Exception] = []

    @handler("saving", on_crash="rerun")
    async def saving(input: dict[str, Any], context: Context) -> dict[str, int]:  # noqa: ARG001
        fill(tmp_path)
        try:
            await context.save_checkpoint({"at": 1})
        except Exception as error:  # noqa: BLE001 (what a handler would see)
            told.append(error)
        make_room(tmp_path)
        await context.save_checkpoint({"at": 2})
        return {"number": 1}

    async with running_worker([saving], tmp_path, state=LEASE) as worker:
        (execution,) = await worker.run("saving", {"number": 1, "eventCorrelationId": "c1"})
    assert execution.status == "COMPLETED"
    assert [type(error).__name__ for error in told] == ["NotSaved"]


async def test_a_disk_that_is_full_again_and_again(tmp_path: Path) -> None:
    """However often the disk refuses in the middle of the work, each execution is run once, and reported the same."""
    held, world = Held(), new_world("held", limit=0)
    held.release.set()
    unlimited = {"requests_per_minute": 0}
    async with running_worker([held.handler], tmp_path, world=world, state=LEASE, budget=unlimited) as worker:
        executions = []
        for _ in range(5):
            executions += worker.submit("held", *({"number": number} for number in range(8)))
            done = sum(execution.status == "COMPLETED" for execution in executions)
            submitted = tuple(executions)
            await until(lambda s=submitted, d=done: sum(e.status == "COMPLETED" for e in s) > d)  # type: ignore[misc]
            fill(tmp_path)
            await troubled(worker)
            make_room(tmp_path)
        await until(lambda: all(execution.status == "COMPLETED" for execution in executions))
        await until(lambda: states(tmp_path) == ["REPORTED"] * 40)
    assert set(held.runs.values()) == {1}
    assert all(len({str(patch.output) for patch in execution.patches}) == 1 for execution in executions)

"""Several real workers on one real PostgreSQL: one budget, nothing lost, nothing run twice, whoever is killed."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest

from product_live_worker.sandbox.records import FINAL, Execution
from support.fleet import LEASE, LIMIT, WINDOW, Fleet, fleet
from support.journals import query
from support.noted_handlers import kind
from support.postgres import PASSWORD, Postgres
from support.processes import Running, command
from support.watched_sandbox import Seen, watched_sandbox
from support.workers import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

MANY = 16
TROUBLES = 8
UNDERWAY = 3.0
"""Seconds that a claim is under way at most: the client's total timeout, and as long as a restart of the database."""
EX_CONFIG = 78


async def test_sixteen_workers_share_one_budget_and_lose_nothing_whoever_is_killed(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    """Saturated, they spend it all on work; then some are killed, some stopped, and the database is restarted twice.

    In all that time no window holds more requests than the limit, none is refused, and nothing is run twice.
    """
    async with (
        watched_sandbox("slow", "again", limit=LIMIT, window=WINDOW) as sandbox,
        fleet(postgres_server.new_database(), sandbox, tmp_path, tasks=("slow", "again")) as workers,
    ):
        await workers.started(MANY)
        for number in range(250):
            sandbox.submit("slow" if number % 2 else "again", number=number, seconds=0.3)
        executions = sandbox.world.executions
        await anyio.sleep(WINDOW)
        begun = len(sandbox.seen)
        await anyio.sleep(3 * WINDOW)
        calm = sandbox.seen[begun:]
        reports = [one.arrived_at for one in calm if one.operation == "update_execution"]
        # Whatever the machine's load: what is spent is spent on work, and hardly anything on empty polls or take-overs.
        assert len([one for one in calm if one.claimed]) + len(reports) >= 0.95 * len(calm)
        # A slot is used again one window after its answer, and a machine that is busy takes its time for that.
        answers = [one.answered_at - one.arrived_at for one in calm if one.answered_at]
        turn = WINDOW + sum(answers) / len(answers)
        assert fullest(reports, 2 * turn) >= 0.9 * LIMIT
        begun = len(sandbox.seen)
        await trouble(workers, postgres_server, Random(5))
        # A start costs the budget nothing: the others know the account's tasks.
        assert [one for one in sandbox.seen[begun:] if one.operation == "list_tasks"] == []
        rows = await over(workers)
        await workers.up()
        assert await workers.drain() == [0] * MANY
    assert sandbox.world.limiter.refused == 0
    assert sandbox.world.limiter.largest_window <= LIMIT
    assert [problem for execution in executions.values() for problem in wrong(workers, execution, rows)] == []
    lost = [one.arrived_at for one in sandbox.seen if one.claimed and one.claimed not in rows]
    assert [claimed for claimed in lost if not excused(claimed, workers)] == []
    assert len(lost) <= len(workers.killed)


def fullest(moments: list[float], seconds: float) -> int:
    """Count the moments of the stretch of so many seconds that has the most of them."""
    return max(sum(begin <= moment < begin + seconds for moment in moments) for begin in moments)


def excused(claimed: float, workers: Fleet) -> bool:
    """Whether a worker was killed while the answer to a claim of this moment may have been on its way."""
    return any(abs(claimed - moment) <= UNDERWAY for moment in workers.killed.values())


async def trouble(workers: Fleet, server: Postgres, chance: Random) -> None:
    """Kill one, stop one for longer than its lease, and so on, restarting the database twice meanwhile."""
    chosen: list[Running] = []
    async with anyio.create_task_group() as stopped:
        for nth in range(TROUBLES):
            victim = chance.choice([worker for worker in workers.alive() if worker not in chosen])
            chosen.append(victim)
            if nth % 2:
                await workers.kill(victim)
                await workers.start()
                # One whose database is away at its very start ends, and is for its service manager to start again.
                await workers.up()
            else:
                stopped.start_soon(stop_for_longer_than_a_lease, victim)
            if nth in (2, 5):
                await anyio.to_thread.run_sync(server.restart, "fast" if nth == 2 else "immediate")
            await anyio.sleep(chance.uniform(0.5, 2.0))


async def stop_for_longer_than_a_lease(worker: Running) -> None:
    """Let a worker stand still, as a machine that is moved or has no memory left does."""
    worker.send(signal.SIGSTOP)
    await anyio.sleep(LEASE * 2)
    worker.send(signal.SIGCONT)


async def over(workers: Fleet) -> dict[str, Any]:
    """Wait until every execution has ended and its row is closed; gives the rows.

    One may be left that was lost with a worker which was killed between its claim and its commit.
    """
    while True:
        rows = await anyio.to_thread.run_sync(workers.rows)
        claimed = [one for one in workers.sandbox.world.executions.values() if one.status not in FINAL]
        lost = all(one.status == "IN_PROGRESS" and one.id not in rows for one in claimed)
        if lost and all(row["state"] == "REPORTED" for row in rows.values()):
            return rows
        await anyio.sleep(0.3)


def wrong(workers: Fleet, execution: Execution, rows: dict[str, Any]) -> Iterator[str]:
    """Say which law the end of an execution breaks."""
    runs = [note.process for note in workers.notes() if note.execution == execution.id and note.word == "start"]
    own = kind(execution.task_key, execution.input["number"])
    told = (execution.status, execution.output)
    reports = workers.sandbox.patches(execution.id)
    if execution.id not in rows:
        if runs or reports:
            yield f"{execution.id}: no worker knows it, and yet it was run or reported"
        return
    crashes = rows[execution.id]["crashes"]
    if len(runs) > 1 + (crashes if own.reruns else 0):
        yield f"{execution.id}: run {len(runs)} times, after {crashes} crashes"
    if any(tuple(report) != told for report in reports):
        yield f"{execution.id}: its reports differ: {reports}"
    if told != own.told and not (execution.output.get("code") == "worker_restarted" and not own.reruns):
        yield f"{execution.id}: it ended as {told}, after {len(runs)} runs"


async def test_what_a_killed_worker_ran_is_settled_by_another_soon(postgres_server: Postgres, tmp_path: Path) -> None:
    """Within a lease and five seconds; by the handler's word it has failed, or is run again with its checkpoint."""
    async with (
        watched_sandbox("slow", "again", limit=LIMIT, window=WINDOW) as sandbox,
        fleet(postgres_server.new_database(), sandbox, tmp_path, tasks=("slow", "again")) as workers,
    ):
        await workers.started(2)
        fails = sandbox.submit("slow", number=1, seconds=60.0)
        reruns = sandbox.submit("again", number=2, seconds=3.0)
        await until(lambda: {note.execution for note in workers.notes()} == {fails.id, reruns.id})
        await until(lambda: len(workers.rows()) == 2)
        holders = {row["id"]: row["holder"] for row in workers.rows().values()}
        by_process = {worker.process.pid: worker for worker in workers.workers}
        killed = by_process[next(note.process for note in workers.notes() if note.execution == fails.id)]
        await workers.kill(killed)
        began = time.monotonic()
        await until(lambda: fails.status in FINAL)
        assert time.monotonic() - began < LEASE + 5.0
        assert (fails.status, fails.output["code"]) == ("FAILED", "worker_restarted")
        await until(lambda: reruns.status == "COMPLETED")
        assert workers.rows()[fails.id]["holder"] != holders[fails.id]
        assert await workers.drain() == [0]


@pytest.mark.parametrize("moment", ["arrived", "answered"])
async def test_what_was_claimed_while_its_worker_was_stopped_is_run(
    postgres_server: Postgres, tmp_path: Path, moment: str
) -> None:
    """The answer waits in its buffers for longer than its deadline and its lease, and is taken when it wakes up."""
    async with (
        watched_sandbox("slow", limit=LIMIT, window=WINDOW) as sandbox,
        fleet(postgres_server.new_database(), sandbox, tmp_path, tasks=("slow",)) as workers,
    ):
        workers.variables["PLW_API__TOTAL_TIMEOUT"] = "2s"
        await workers.started(1)
        (stopped,) = workers.workers
        execution = sandbox.submit("slow", number=1)
        stop = anyio.Event()

        async def at(reached: str, seen: Seen) -> bool:
            if reached == moment and seen.operation == "poll" and (seen.claimed or moment == "arrived"):
                sandbox.at = None
                stopped.send(signal.SIGSTOP)
                stop.set()
            return True

        sandbox.at = at
        await stop.wait()
        await workers.start()
        await anyio.sleep(2 * LEASE)
        stopped.send(signal.SIGCONT)
        await until(lambda: execution.status == "COMPLETED")
        assert await workers.drain() == [0, 0]
    assert [note.word for note in workers.notes()] == ["start", "end"]


async def test_an_older_worker_ends_in_an_orderly_way_when_a_newer_one_has_changed_the_schema(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    """It says so, reports what it has in hand and exits 78; started again it says so at once."""
    async with (
        watched_sandbox("slow", limit=LIMIT, window=WINDOW) as sandbox,
        fleet(postgres_server.new_database(), sandbox, tmp_path, tasks=("slow",)) as workers,
    ):
        await workers.started(1)
        execution = sandbox.submit("slow", number=1, seconds=1.0)
        await until(lambda: len(workers.notes()) == 1)
        query(workers.url, "UPDATE alembic_version SET version_num = '9999'")
        (older,) = workers.workers
        assert await older.ended() == EX_CONFIG
        assert execution.status == "COMPLETED"
        assert older.output.count("brought the journal to schema 9999") >= 1
        assert "Traceback" not in older.output
        again = await workers.start()
        assert await again.ended() == EX_CONFIG
        assert "was written by a newer worker" in again.output


async def test_commands_work_on_a_server_and_show_its_password_nowhere(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    """`run` at the chattiest level, `check`, `executions` and their errors name the server, and never the password."""
    url = postgres_server.new_database().replace("worker:", "guarded:")
    said = []
    async with (
        watched_sandbox("slow", limit=LIMIT, window=WINDOW) as sandbox,
        fleet(url, sandbox, tmp_path, tasks=("slow",), variables={"PLW_LOG__LEVEL": "debug"}) as workers,
    ):
        variables = {
            "PLW_API__BASE_URL": sandbox.url,
            "PLW_API__KEY": "sandbox-key",
            "PLW_STATE__URL": url,
        }

        async def ask(*arguments: str, **more: str) -> str:
            ended = await anyio.to_thread.run_sync(lambda: command(*arguments, cwd=tmp_path, **variables, **more))
            said.append(ended.stdout + ended.stderr)
            return ended.stdout

        assert "no journal" in (await ask("executions", "list") + said[-1])
        await workers.started(1)
        execution = sandbox.submit("slow", number=1, seconds=0.0)
        await until(lambda: execution.status == "COMPLETED")
        (listed,) = json.loads(await ask("executions", "list", "--json"))
        assert listed["id"] == execution.id
        assert "slow" in await ask("executions", "show", execution.id)
        assert "guarded:***@127.0.0.1" in await ask("check")
        await ask("executions", "discard", execution.id)
        variables["PLW_STATE__URL"] = url.replace(f":{postgres_server.port}/", ":9/")
        await ask("check")
        assert "127.0.0.1:9" in said[-1]
        await anyio.to_thread.run_sync(postgres_server.restart)
        execution = sandbox.submit("slow", number=2, seconds=0.0)
        await until(lambda: execution.status == "COMPLETED")
        await workers.drain()
        said.append(workers.workers[0].output)
    assert "guarded:***@127.0.0.1" in said[-1]
    assert not [text for text in said if PASSWORD in text or "Traceback" in text]

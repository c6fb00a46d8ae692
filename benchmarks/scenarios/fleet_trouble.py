"""16 workers on one PostgreSQL, saturated, while they are killed and stopped and the database is restarted."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
from tests.support.postgres import NoPostgres, Postgres, postgres

from benchmarks.figures import Report, Row
from benchmarks.platform import Platform, Record, open_platform
from benchmarks.scale import LIMIT, MINUTE, Scale
from benchmarks.scenarios.fleet import SETTLED, TASK, noted, runs_again
from benchmarks.worker import Worker, open_worker

WORKERS = 16
WINDOWS = 8
LEASE = 30.0
"""The default of state.lease."""
STOPPED = 40.0
"""Seconds that a stopped worker stands still: longer than its lease."""
EVERY = (3.0, 6.0)
"""Seconds between two troubles."""
RESTARTS = {2 * MINUTE: "fast", 5 * MINUTE: "immediate"}
"""When the database is restarted, in seconds from the first trouble, and how: the second is a crash."""


@dataclass
class Fleet:
    """The workers, and what was done to them."""

    folder: Path
    url: str
    platform: Platform
    running: AsyncExitStack
    alive: list[Worker] = field(default_factory=list)
    stopped: list[Worker] = field(default_factory=list)
    started: int = 0
    done: Counter[str] = field(default_factory=Counter)

    async def start(self) -> None:
        """Start one more; one that cannot, the database being away, is started again as a service manager does."""
        while True:
            self.started += 1
            place = self.folder / str(self.started)
            await anyio.Path(place).mkdir()
            opened = open_worker(
                place, self.platform.url, Scale(MINUTE), [TASK], handler=TASK, variables=noted(self.folder, self.url)
            )
            try:
                self.alive.append(await self.running.enter_async_context(opened))
            except RuntimeError:
                await anyio.sleep(1)
            else:
                return

    async def kill(self, worker: Worker) -> None:
        """End one without a word, and start another."""
        self.done["SIGKILL"] += 1
        self.alive.remove(worker)
        await worker.process.kill()
        await self.start()

    async def stop(self, worker: Worker) -> None:
        """Let one stand still for longer than its lease."""
        self.done["SIGSTOP"] += 1
        self.stopped.append(worker)
        worker.process.running.send_signal(signal.SIGSTOP)
        try:
            await anyio.sleep(STOPPED)
        finally:
            worker.process.running.send_signal(signal.SIGCONT)
            self.stopped.remove(worker)


async def run(_: Scale) -> Report:
    """Count at the platform, over windows of a minute whatever the scale: a process's start and a lease are in seconds."""
    title = f"fleet-trouble: {WORKERS} workers on one PostgreSQL, saturated, killed and stopped"
    try:
        record, since, until, twice, done = await _measure()
    except NoPostgres as error:
        return Report(title, [Row("measured", "nothing", met=False, reason=str(error))], "")
    lost = sum(one["claimedAt"] is not None and one["finishedAt"] is None for one in record.executions)
    a_minute = record.completions(since, until) / (until - since) * MINUTE
    asked = Counter(one["operation"] for one in record.requests if since <= one["at"] < until)
    return Report(
        title,
        [
            Row("completions a minute", f"{a_minute:.2f}", "≥ 24.5", "25", met=a_minute >= 24.5),
            Row("requests in the fullest window", str(record.largest_window), "≤ 50", "50", met=record.largest_window <= LIMIT),
            Row("answers 429", str(record.refused), "0", "0", met=record.refused == 0),
            Row("executions run twice", str(twice), "0", "0", met=twice == 0),
            Row("claimed and never reported", str(lost), "0", "0", met=lost == 0,
                reason="killed between the platform's claim and the journal's commit; nothing on the worker's side can know of it."),
            *(Row(f"requests: {operation}", str(count)) for operation, count in asked.most_common()),
            Row("polls that found nothing", str(record.empty_polls(since, until))),
        ],
        f"{WINDOWS} windows of {MINUTE:g} s with {done['SIGKILL']} SIGKILLs, each followed by a start, {done['SIGSTOP']} "
        f"SIGSTOPs of {STOPPED:g} s, beyond the lease of {LEASE:g} s, and {len(RESTARTS)} restarts of PostgreSQL.",
    )  # fmt: skip


async def _measure() -> tuple[Record, float, float, int, Counter[str]]:
    with TemporaryDirectory() as name, postgres() as server:
        async with _fleet(Path(name), server) as fleet:
            await fleet.platform.submit_input(TASK, [{"number": n} for n in range((WINDOWS + 4) * LIMIT // 2)])
            await anyio.sleep(2 * MINUTE)
            since = await fleet.platform.now()
            with anyio.move_on_after(WINDOWS * MINUTE):
                await _trouble(fleet, server)
            until = await fleet.platform.now()
            # What the last ones had in hand is taken over and reported, and what is left is run.
            await anyio.sleep(LEASE + 2 * MINUTE)
            return await fleet.platform.record(), since, until, runs_again(Path(name)), fleet.done


@asynccontextmanager
async def _fleet(folder: Path, server: Postgres) -> AsyncIterator[Fleet]:
    url = await anyio.to_thread.run_sync(server.new_database)
    async with open_platform(folder, Scale(MINUTE), [TASK]) as platform, AsyncExitStack() as running:
        fleet = Fleet(folder, url, platform, running)
        for _ in range(WORKERS):
            await fleet.start()
        await anyio.sleep(SETTLED)
        yield fleet


async def _trouble(fleet: Fleet, server: Postgres) -> None:
    """Kill one, stop one, and so on, for ever."""
    chance = Random(5)
    async with anyio.create_task_group() as beside:
        beside.start_soon(_restart, server)
        while True:
            for harm in (fleet.kill, fleet.stop):
                victim = chance.choice([worker for worker in fleet.alive if worker not in fleet.stopped])
                beside.start_soon(harm, victim)
                await anyio.sleep(chance.uniform(*EVERY))


async def _restart(server: Postgres) -> None:
    began = anyio.current_time()
    for after, how in RESTARTS.items():
        await anyio.sleep(began + after - anyio.current_time())
        await anyio.to_thread.run_sync(server.restart, how)

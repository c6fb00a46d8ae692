"""16 workers on one PostgreSQL, saturated, while they are killed and stopped and the database is restarted."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
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
from benchmarks.scale import LIMIT, MINUTE, ROUND_TRIP, Scale
from benchmarks.scenarios.fleet import SETTLED, TASK, noted, runs_again
from benchmarks.worker import Worker, open_worker

WORKERS = 16
WINDOWS = 8
LEASE = 30.0
"""The default of state.lease."""
HANDLERS = (0.3, 5.0)
"""Seconds that a handler takes, in each of two fleets."""
MOMENT = 0.5
"""Seconds from the platform's claim to the commit, at most: an answer takes 0.15 s."""
ASKED = ("poll", "update_execution", "read_execution", "list_tasks")
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
    killed_at: list[float] = field(default_factory=list)
    """On the monotonic clock, as the platform's is."""

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
        self.killed_at.append(time.monotonic())
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


@dataclass(frozen=True)
class Measured:
    """What came of one fleet, between two moments."""

    record: Record
    since: float
    until: float
    twice: int
    """Executions that were run more than once."""
    alive: int
    """Workers at the end."""
    done: Counter[str]
    killed_at: Sequence[float]

    def reported(self) -> Counter[str]:
        """Count the executions whose first report came in the time of the troubles, by their status."""
        status = {one["id"]: one["status"] for one in self.record.executions}
        reports = [one for one in self.record.requests if one["operation"] == "update_execution"]
        first = {one["id"]: one["at"] for one in reversed(reports)}
        return Counter(status[id] for id, at in first.items() if self.since <= at < self.until)

    def a_minute(self) -> float:
        """Give the executions reported in a minute."""
        return self.reported().total() / (self.until - self.since) * MINUTE

    def asked(self, operation: str) -> int:
        """Count the requests of one kind in the time of the troubles."""
        found = (one["at"] for one in self.record.requests if one["operation"] == operation)
        return sum(self.since <= at < self.until for at in found)

    def lost(self, *, in_the_air: bool) -> int:
        """Count the executions that were claimed and not reported long after.

        Those in the air were claimed a moment before a worker was killed: nobody has had the platform's answer.
        """
        unfinished = (one["claimedAt"] for one in self.record.executions if one["finishedAt"] is None)
        lost = (claimed for claimed in unfinished if claimed is not None and claimed < self.until)
        return sum(any(0 <= at - claimed <= MOMENT for at in self.killed_at) is in_the_air for claimed in lost)


async def run(_: Scale) -> Report:
    """Count at the platform, over windows of a minute whatever the scale: a process's start and a lease are in seconds.

    Two fleets side by side, with platforms and databases of their own: one of short handlers, one of longer ones.
    """
    fleets: dict[float, Measured] = {}

    async def measure(seconds: float) -> None:
        fleets[seconds] = await _measure(seconds)

    names = " / ".join(f"{seconds:g}" for seconds in HANDLERS)
    title = f"fleet-trouble: {WORKERS} workers on one PostgreSQL, saturated, killed and stopped; handlers of {names} s"
    try:
        async with anyio.create_task_group() as side_by_side:
            for seconds in HANDLERS:
                side_by_side.start_soon(measure, seconds)
    except* NoPostgres as none:
        missing = str(none.exceptions[0])
    if len(fleets) < len(HANDLERS):
        return Report(title, [Row("measured", "nothing", met=False, reason=missing)], "")
    found = [fleets[seconds] for seconds in HANDLERS]
    short = found[0]
    return Report(
        title,
        [
            _row("completions a minute", [f"{one.a_minute():.2f}" for one in found], "≥ 24.5 / –", short.a_minute() >= 24.5),
            _row("of these FAILED, their worker being gone", [one.reported()["FAILED"] for one in found]),
            _row("requests in the fullest window", [one.record.largest_window for one in found], "≤ 50", all(one.record.largest_window <= LIMIT for one in found)),
            _row("answers 429", [one.record.refused for one in found], "0", not any(one.record.refused for one in found)),
            _row("executions run twice", [one.twice for one in found], "0", not any(one.twice for one in found)),
            _row("claimed and never reported", [one.lost(in_the_air=False) for one in found], "0", not any(one.lost(in_the_air=False) for one in found)),
            _row("the same, claimed a moment before a SIGKILL", [one.lost(in_the_air=True) for one in found]),
            _row("workers at the end", [one.alive for one in found], f"{WORKERS}", all(one.alive == WORKERS for one in found)),
            *(_row(f"requests: {operation}", [one.asked(operation) for one in found]) for operation in ASKED),
            _row("polls that found nothing", [one.record.empty_polls(one.since, one.until) for one in found]),
        ],
        f"Handlers of {names} s, in this order. {WINDOWS} windows of {MINUTE:g} s with {short.done['SIGKILL']} SIGKILLs, each "
        f"followed by a start, {short.done['SIGSTOP']} SIGSTOPs of {STOPPED:g} s, beyond the lease of {LEASE:g} s, and "
        f"{len(RESTARTS)} restarts of PostgreSQL. What was running in a worker that is gone costs a read before it is reported. Of a claim whose "
        "worker is killed before it has the answer nobody knows, and the platform offers it again after its response timeout.",
    )  # fmt: skip


def _row(figure: str, values: Sequence[object], goal: str = "", met: bool = True) -> Row:
    return Row(figure, " / ".join(map(str, values)), goal, met=met)


async def _measure(seconds: float) -> Measured:
    with TemporaryDirectory() as name, postgres() as server:
        async with _fleet(Path(name), server) as fleet:
            inputs = [{"number": number, "seconds": seconds} for number in range((WINDOWS + 4) * LIMIT // 2)]
            await fleet.platform.submit_input(TASK, inputs)
            await anyio.sleep(2 * MINUTE)
            since = await _gap(fleet.platform)
            with anyio.move_on_after(WINDOWS * MINUTE):
                await _trouble(fleet, server)
            until = await fleet.platform.now()
            while len(fleet.alive) < WORKERS:
                # The last that was killed was not yet back.
                await fleet.start()
            # What the last ones had in hand is taken over and reported.
            await anyio.sleep(LEASE + 2 * MINUTE)
            alive = sum(worker.process.running.returncode is None for worker in fleet.alive)
            return Measured(
                await fleet.platform.record(), since, until, runs_again(Path(name)), alive, fleet.done, fleet.killed_at
            )


async def _gap(platform: Platform) -> float:
    """Wait for a moment at which nothing is under way: slots that were spent in one go come back in one go."""
    while True:
        now, requests = await platform.now(), (await platform.record()).requests
        if now - requests[-1]["at"] > 2 * ROUND_TRIP:
            return now
        await anyio.sleep(ROUND_TRIP)


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

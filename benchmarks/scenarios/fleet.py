"""1 to 64 workers on one PostgreSQL and one account: what they make of the budget, and what the database has to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
from tests.support.postgres import NoPostgres, Postgres, postgres

from benchmarks.figures import Report, Row
from benchmarks.platform import Platform, Record, open_platform
from benchmarks.scale import LIMIT, MINUTE, Scale
from benchmarks.worker import Worker, open_worker

SIZES = (1, 4, 16, 64)
WINDOWS = 5
IDLE = 20.0
"""Seconds, not scaled, for which nothing arrives: leases are renewed in real time."""
SETTLED = 12.0
"""Seconds, not scaled, in which all have learned of each other: a third of a lease."""


@dataclass(frozen=True)
class Use:
    """What workers and database have used up so far."""

    workers: float
    database: float
    statements: int

    def __sub__(self, other: Use) -> Use:
        """Give what was used since."""
        return Use(self.workers - other.workers, self.database - other.database, self.statements - other.statements)


@dataclass(frozen=True)
class Measured:
    """One size of fleet."""

    workers: int
    idle: Use
    busy: Use
    record: Record
    completed: int
    a_minute: float


async def run(scale: Scale) -> Report:
    """Measure each size on a platform and a database of its own."""
    try:
        found = [await _measure(scale, workers) for workers in SIZES]
    except NoPostgres as error:
        return Report(
            "fleet: workers on one PostgreSQL", [Row("measured", "nothing", met=False, reason=str(error))], ""
        )
    alone, largest = found[0], found[-1]
    grown = largest.idle.statements / max(1, alone.idle.statements)
    return Report(
        "fleet: 1 to 64 workers on one PostgreSQL, one saturated task",
        [
            _row("completions a minute", found, [f"{one.a_minute:.2f}" for one in found], "≥ 24.5", min(one.a_minute for one in found[:3]) >= 24.5),
            _row("requests in the fullest window", found, [str(one.record.largest_window) for one in found], "≤ 50", all(one.record.largest_window <= LIMIT for one in found)),
            _row("answers 429", found, [str(one.record.refused) for one in found], "0", not any(one.record.refused for one in found)),
            _row("statements an execution, idle ones included", found, [f"{one.busy.statements / one.completed:.1f}" for one in found]),
            _row("CPU ms an execution: workers", found, [f"{one.busy.workers / one.completed * 1000:.0f}" for one in found]),
            _row("CPU ms an execution: database", found, [f"{one.busy.database / one.completed * 1000:.1f}" for one in found]),
            _row("statements an idle minute and worker", found, [f"{one.idle.statements / one.workers / IDLE * MINUTE:.0f}" for one in found]),
            _row("CPU ms an idle minute and worker", found, [f"{one.idle.workers / one.workers / IDLE * MINUTE * 1000:.0f}" for one in found]),
            _row("CPU ms an idle minute: database", found, [f"{one.idle.database / IDLE * MINUTE * 1000:.0f}" for one in found]),
            Row("growth of the idle statements from 1 to 64 workers", f"{grown:.0f} ×", "≤ 64 ×", met=grown <= SIZES[-1] / SIZES[0]),
        ],
        f"Figures of {', '.join(map(str, SIZES))} workers, in this order; the goal for completions is that of up to 16. "
        f"Saturated over {WINDOWS} windows of {scale.window:g} s, idle over {IDLE:g} s of real time with polls in scaled "
        "time. Every statement is a transaction of its own, so they are counted as transactions; CPU is from /proc.",
    )  # fmt: skip


def _row(figure: str, found: Sequence[Measured], values: Sequence[str], goal: str = "", met: bool = True) -> Row:
    return Row(figure, " / ".join(values), goal, met=met)


async def _measure(scale: Scale, workers: int) -> Measured:
    with TemporaryDirectory() as name, postgres() as server:
        url = await anyio.to_thread.run_sync(server.new_database)
        async with open_platform(Path(name), scale, ["power"]) as platform, AsyncExitStack() as fleet:
            started = [
                await _start(fleet, Path(name), platform, scale, url=url, number=number) for number in range(workers)
            ]
            await anyio.sleep(SETTLED)
            before = _use(started, server, url)
            await anyio.sleep(IDLE)
            idle = _use(started, server, url) - before
            await platform.submit("power", (WINDOWS + 4) * LIMIT // 2)
            await anyio.sleep(2 * scale.window)
            before, since = _use(started, server, url), await platform.now()
            await anyio.sleep(WINDOWS * scale.window)
            busy, until = _use(started, server, url) - before, await platform.now()
            record = await platform.record()
    completed = record.completions(since, until)
    return Measured(workers, idle, busy, record, completed, completed / scale.there(until - since) * MINUTE)


async def _start(
    fleet: AsyncExitStack, folder: Path, platform: Platform, scale: Scale, *, url: str, number: int
) -> Worker:
    place = folder / str(number)
    await anyio.Path(place).mkdir()
    worker = open_worker(place, platform.url, scale, ["power"], variables={"PLW_STATE__URL": url})
    return await fleet.enter_async_context(worker)


def _use(workers: Sequence[Worker], server: Postgres, url: str) -> Use:
    count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    ((statements,),) = server.sql(count, url.rpartition("/")[2])
    return Use(sum(worker.process.cpu() for worker in workers), _cpu_of(server.process()), int(statements))


def _cpu_of(first: int) -> float:
    """Give the seconds of processor time of a server: its first process, its children, and those that have ended."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if first in (int(path.parent.name), int(fields[1])):
            ticks += sum(map(int, fields[11:13]))
        if int(path.parent.name) == first:
            ticks += sum(map(int, fields[13:15]))
    return ticks / os.sysconf("SC_CLK_TCK")

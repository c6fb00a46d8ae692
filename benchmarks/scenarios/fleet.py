"""1 to 64 workers on one PostgreSQL and one account: what they make of the budget, and what the database has to do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
from tests.support.noted_handlers import notes
from tests.support.plugins import install
from tests.support.postgres import NoPostgres, Postgres, postgres

from benchmarks.figures import Report, Row
from benchmarks.platform import Platform, Record, open_platform
from benchmarks.processes import CHECKOUT
from benchmarks.scale import LIMIT, MINUTE, Scale
from benchmarks.worker import Worker, open_worker

SIZES = (1, 4, 16, 64)
REAL_SIZES = (16,)
"""With a window of a minute; the others would take it ten minutes each."""
IDLE_SIZES = (1, 64)
WINDOWS = 8
TASK = "slow"
"""Whose handler notes each of its runs, and answers at once."""
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
    twice: int
    """Executions that were run more than once."""


async def run(scale: Scale) -> Report:
    """Measure each size on a platform and a database of its own."""
    sizes = SIZES if scale.window < MINUTE else REAL_SIZES
    try:
        found = [await _measure(scale, workers) for workers in sizes]
    except NoPostgres as error:
        return Report(
            "fleet: workers on one PostgreSQL", [Row("measured", "nothing", met=False, reason=str(error))], ""
        )
    names = " / ".join(map(str, sizes))
    return Report(
        f"fleet: {names} workers on one PostgreSQL, one saturated task",
        [
            _row("completions a minute", found, [f"{one.a_minute:.2f}" for one in found], "≥ 24.5", min(one.a_minute for one in found if one.workers <= 16) >= 24.5),
            _row("requests in the fullest window", found, [str(one.record.largest_window) for one in found], "≤ 50", all(one.record.largest_window <= LIMIT for one in found)),
            _row("answers 429", found, [str(one.record.refused) for one in found], "0", not any(one.record.refused for one in found)),
            _row("executions run twice", found, [str(one.twice) for one in found], "0", not any(one.twice for one in found)),
            _row("statements an execution, idle ones included", found, [f"{one.busy.statements / one.completed:.1f}" for one in found]),
            _row("CPU ms an execution: workers", found, [f"{one.busy.workers / one.completed * 1000:.0f}" for one in found]),
            _row("CPU ms an execution: database", found, [f"{one.busy.database / one.completed * 1000:.1f}" for one in found]),
            _row("statements an idle minute and worker", found, [f"{one.idle.statements / one.workers / IDLE * MINUTE:.0f}" for one in found]),
            _row("CPU ms an idle minute and worker", found, [f"{one.idle.workers / one.workers / IDLE * MINUTE * 1000:.0f}" for one in found]),
            _row("CPU ms an idle minute: database", found, [f"{one.idle.database / IDLE * MINUTE * 1000:.0f}" for one in found]),
            *_growth(found),
        ],
        f"Figures of {names} workers, in this order; the goal for completions is that of up to 16. Saturated over {WINDOWS} "
        f"windows of {scale.window:g} s, idle over {IDLE:g} s of real time, with polls in the time of the window. Every "
        "statement is a transaction of its own, so they are counted as transactions; CPU is from /proc.",
    )  # fmt: skip


def _growth(found: Sequence[Measured]) -> list[Row]:
    """Hold the database's load to the number of workers: from the smallest fleet to the largest."""
    if len(found) == 1:
        return []
    alone, largest = found[0], found[-1]
    times = largest.workers / alone.workers
    grown = {
        "statements, idle": (alone.idle.statements, largest.idle.statements),
        "CPU, idle": (alone.idle.database, largest.idle.database),
        "statements, saturated": (alone.busy.statements, largest.busy.statements),
        "CPU, saturated": (alone.busy.database, largest.busy.database),
    }
    return [
        Row(
            f"growth of the database's {what}, {alone.workers} to {largest.workers}",
            f"{after / before:.1f} ×",
            f"≤ {times:g} ×",
            met=after / before <= times,
        )
        for what, (before, after) in grown.items()
    ]


def _row(figure: str, found: Sequence[Measured], values: Sequence[str], goal: str = "", met: bool = True) -> Row:
    return Row(figure, " / ".join(values), goal, met=met)


async def idle(_: Scale) -> Report:
    """Measure what idle workers do on the real window, whatever the scale: on a shorter one polls are more frequent."""
    found = {}
    try:
        for workers in IDLE_SIZES:
            with TemporaryDirectory() as name:
                async with _fleet(Path(name), Scale(MINUTE), workers) as (_, used):
                    found[workers] = await _idle(used)
    except NoPostgres as error:
        return Report("fleet-idle", [Row("measured", "nothing", met=False, reason=str(error))], "")
    names, uses = " / ".join(map(str, found)), list(found.values())
    grown, times = uses[-1].statements / uses[0].statements, IDLE_SIZES[-1] / IDLE_SIZES[0]
    minutes = IDLE / MINUTE
    return Report(
        f"fleet-idle: {names} workers on one PostgreSQL, nothing to do, on the real window",
        [
            Row("statements an idle minute", " / ".join(f"{use.statements / minutes:.0f}" for use in uses)),
            Row("CPU ms an idle minute: database", " / ".join(f"{use.database / minutes * 1000:.0f}" for use in uses)),
            Row(f"growth of the database's statements, {IDLE_SIZES[0]} to {IDLE_SIZES[-1]}", f"{grown:.1f} ×", f"≤ {times:g} ×", met=grown <= times),
        ],
        f"Figures of {names} workers, in this order, over {IDLE:g} s on a window of {MINUTE:g} s, whatever the others' is.",
    )  # fmt: skip


async def _measure(scale: Scale, workers: int) -> Measured:
    with TemporaryDirectory() as name:
        async with _fleet(Path(name), scale, workers) as (platform, used):
            idle = await _idle(used)
            await platform.submit_input(TASK, [{"number": number} for number in range((WINDOWS + 4) * LIMIT // 2)])
            await anyio.sleep(2 * scale.window)
            before, since = used(), await platform.now()
            await anyio.sleep(WINDOWS * scale.window)
            busy, until = used() - before, await platform.now()
            record = await platform.record()
            twice = runs_again(Path(name))
    completed = record.completions(since, until)
    return Measured(workers, idle, busy, record, completed, completed / scale.there(until - since) * MINUTE, twice)


async def _idle(used: Callable[[], Use]) -> Use:
    before = used()
    await anyio.sleep(IDLE)
    return used() - before


@asynccontextmanager
async def _fleet(folder: Path, scale: Scale, workers: int) -> AsyncIterator[tuple[Platform, Callable[[], Use]]]:
    """Start so many on a platform and a database of their own; gives what tells what they have used, too."""
    with postgres() as server:
        url = await anyio.to_thread.run_sync(server.new_database)
        async with open_platform(folder, scale, [TASK]) as platform, AsyncExitStack() as fleet:
            started = [
                await _start(fleet, folder, platform, scale, url=url, number=number) for number in range(workers)
            ]
            await anyio.sleep(SETTLED)
            yield platform, lambda: _use(started, server, url)


async def _start(
    fleet: AsyncExitStack, folder: Path, platform: Platform, scale: Scale, *, url: str, number: int
) -> Worker:
    place = folder / str(number)
    await anyio.Path(place).mkdir()
    worker = open_worker(place, platform.url, scale, [TASK], handler=TASK, variables=noted(folder, url))
    return await fleet.enter_async_context(worker)


def noted(folder: Path, url: str) -> dict[str, str]:
    """Give the variables of a worker on this database whose handler notes its runs in a file of the folder."""
    installed = install(folder / "plugin", "support.noted_handlers", TASK)
    here = filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH"), installed["PYTHONPATH"]])
    return {"PLW_STATE__URL": url, "NOTES": str(folder / "notes"), "PYTHONPATH": os.pathsep.join(here)}


def runs_again(folder: Path) -> int:
    """Count the executions that were run more than once."""
    runs = Counter(note.execution for note in notes(folder / "notes") if note.word == "start")
    return sum(count > 1 for count in runs.values())


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

"""python -m benchmarks: runs the scenarios, prints their tables and writes them to RESULTS.md."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio

from benchmarks import machine, results
from benchmarks.figures import Report
from benchmarks.scale import MINUTE, Scale
from benchmarks.scenarios import (
    bursts,
    eight_saturated,
    fleet,
    fleet_trouble,
    growth_in_flight,
    growth_tasks,
    journal_million,
    large_limit,
    no_limit,
    random_arrivals,
    restart,
    saturated,
    skewed,
    startup,
    take_over,
    two_strangers,
    virtual,
    virtual_fleet,
    waiting,
)

RESULTS = Path(__file__).with_name("RESULTS.md")
SCALED = Scale(6.0)
REAL = Scale(MINUTE)
Scenario = Callable[[Scale], Awaitable[Report]]
# What is in one group runs side by side: paced by the budget, each uses a few percent of a core. What measures the
# machine's own time runs with nothing beside it.
GROUPS: tuple[dict[str, Scenario], ...] = (
    {"saturated": saturated.run, "random": random_arrivals.run, "bursts": bursts.run},
    {
        "eight-saturated": eight_saturated.run,
        "skewed": skewed.run,
        "restart": restart.run,
        "two-strangers": two_strangers.run,
        "growth-tasks": growth_tasks.run,
    },
    {"fleet": fleet.run},
    {"fleet-trouble": fleet_trouble.run},
    {"fleet-idle": fleet.idle},
    {"take-over": take_over.run},
    {"virtual": virtual.run},
    {"virtual-fleet": virtual_fleet.run},
    {"no-limit": no_limit.run},
    {"large-limit": large_limit.run},
    {"growth-in-flight": growth_in_flight.run},
    {"journal-million": journal_million.run},
    {"waiting": waiting.run},
    {"startup": startup.run},
)
NAMES = [name for group in GROUPS for name in group]
ONLY_FULL = {"fleet-trouble"}
"""What takes a quarter of an hour whatever the scale: left out where all are run in scaled time."""


def main() -> None:
    """Read the command line, run, write."""
    reader = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    reader.add_argument("--full", action="store_true", help="use the real window of 60 s; takes well over an hour")
    reader.add_argument("--only", action="append", metavar="NAME", choices=NAMES, help="only this scenario")
    reader.add_argument("--keep", action="store_true", help="write what --only measures into RESULTS.md, too")
    asked = reader.parse_args()
    began, load = f"{datetime.now(UTC):%Y-%m-%d}", machine.load()
    wanted = asked.only or [name for name in NAMES if asked.full or name not in ONLY_FULL]
    found = anyio.run(_measure, REAL if asked.full else SCALED, wanted)
    if asked.keep or not asked.only:
        beside = f"{began}; load average {load:.1f} before it, {machine.load():.1f} after it"
        command = "python -m benchmarks" + (" --full" if asked.full else "") + " --only "
        blocks = [results.block(command + name, beside, report.text()) for name, report in found.items()]
        RESULTS.write_text(results.merged(RESULTS.read_text(encoding="utf-8"), blocks), encoding="utf-8")
        sys.stdout.write(f"Written to {RESULTS}: {', '.join(found) or 'nothing'}.\n")


async def _measure(scale: Scale, names: list[str]) -> dict[str, Report]:
    found: dict[str, Report] = {}

    async def one(name: str, run: Scenario) -> None:
        try:
            found[name] = await run(scale)
        except Exception as error:  # noqa: BLE001 (what the others have measured is not lost with it)
            traceback.print_exception(error)
            sys.stdout.write(f"{name}: measured nothing; what RESULTS.md has of it stays.\n\n")
        else:
            sys.stdout.write(found[name].text() + "\n\n")
        sys.stdout.flush()

    for group in GROUPS:
        async with anyio.create_task_group() as side_by_side:
            for name in group:
                if name in names:
                    side_by_side.start_soon(one, name, group[name])
    return {name: found[name] for name in NAMES if name in found}


if __name__ == "__main__":
    main()

"""python -m benchmarks: runs the scenarios, prints their tables and writes them to RESULTS.md."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import anyio

from benchmarks import machine
from benchmarks.figures import Report, Row
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


def main() -> None:
    """Read the command line, run, write."""
    reader = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    reader.add_argument("--full", action="store_true", help="use the real window of 60 s; takes well over an hour")
    reader.add_argument("--only", action="append", metavar="NAME", choices=NAMES, help="only this scenario")
    asked = reader.parse_args()
    scale = REAL if asked.full else SCALED
    started, load = time.monotonic(), machine.load()
    reports = anyio.run(_measure, scale, asked.only or NAMES)
    if not asked.only:
        command = "python -m benchmarks" + (" --full" if asked.full else "")
        RESULTS.write_text(_document(reports, scale, command, time.monotonic() - started, load), encoding="utf-8")
        sys.stdout.write(f"Written to {RESULTS}.\n")


async def _measure(scale: Scale, names: list[str]) -> list[Report]:
    found: dict[str, Report] = {}

    async def one(name: str, run: Scenario) -> None:
        try:
            found[name] = await run(scale)
        except Exception as error:  # noqa: BLE001 (what the others have measured is not lost with it)
            traceback.print_exception(error)
            found[name] = Report(name, [Row("measured", "nothing", "everything", met=False, reason=repr(error))], "")
        sys.stdout.write(found[name].text() + "\n\n")
        sys.stdout.flush()

    for group in GROUPS:
        async with anyio.create_task_group() as side_by_side:
            for name in group:
                if name in names:
                    side_by_side.start_soon(one, name, group[name])
    return [found[name] for name in NAMES if name in found]


def _document(reports: Iterable[Report], scale: Scale, command: str, seconds: float, load: float) -> str:
    reports = list(reports)
    missed = [
        f"- {report.title.partition(':')[0]}: {row.figure}: {row.measured}, goal {row.goal}"
        for report in reports
        for row in report.missed()
    ]
    goals = sum(bool(row.goal) for report in reports for row in report.rows)
    facts = [
        *machine.described(),
        f"command: `{command}`, {seconds / 60:.0f} minutes; load average {load:.1f} before it, {machine.load():.1f} after it",
        f"window: {scale.window:g} s" + ("" if scale == REAL else f" where nothing else is said; every time below is told on the scale of 60 s (× {scale.factor:g})"),
    ]  # fmt: skip
    return "\n".join(
        [
            "# Results",
            "",
            "Measured by [these scenarios](README.md); nothing here is estimated but the column `limit`.",
            "",
            *(f"- {fact}" for fact in facts),
            "",
            f"{goals - len(missed)} of {goals} goals are met." + (" Missed:" if missed else ""),
            *([""] if missed else []),
            *missed,
            "",
            "\n\n".join(report.text() for report in reports),
            "",
        ]
    )


if __name__ == "__main__":
    main()

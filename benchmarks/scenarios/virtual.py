"""The same in virtual time: days with the real schedule and the real arithmetic of the window, in seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from tests.support.simulation import Planner, Record, RoundRobin, Simulation, at_random, schedule

from benchmarks.figures import Report, Row, mean, percentile
from benchmarks.scale import LIMIT, MINUTE, Scale
from benchmarks.scenarios.skewed import EVERY as SKEWED
from benchmarks.scenarios.skewed import SPACING

DAY = 86400.0
RARE_EVERY = 900.0
BURST_EVERY = 120.0
BURST = 10


async def run(_: Scale) -> Report:
    """Simulate a day of each scenario."""
    started = time.perf_counter()
    rows = [*_saturated(), *_random(), *_bursts(), *_eight(), *_skewed()]
    wall = time.perf_counter() - started
    return Report(
        "virtual: days in virtual time, the real schedule and window",
        [*rows, Row("wall time of the six simulated days", f"{wall:.0f} s")],
        "Answers take 0.15 s, handlers 10 ms; journal and wire take no time. A day of each "
        "scenario; the skewed one is simulated for round robin, too.",
        beside="round robin",
    )


def _simulate(arrivals: Mapping[str, Sequence[float]], seconds: float = DAY, planner: Planner | None = None) -> Record:
    return Simulation(planner or schedule(1), arrivals).run(seconds)


def _saturated() -> list[Row]:
    record = _simulate({"power": [0.0] * int(DAY / MINUTE * LIMIT)})
    rate = record.completions(MINUTE, DAY) / (DAY / MINUTE - 1)
    largest = record.fullest_window()
    return [
        Row("saturated: completions a minute", f"{rate:.2f}", "≥ 24.7", "25", met=rate >= 24.7),
        Row("saturated: fullest window", str(largest), "≤ 50", "50", met=largest <= LIMIT),
    ]


def _random() -> list[Row]:
    record = _simulate({"power": at_random(1, 20, DAY)})
    waits = record.pickups()
    average, most, empty = mean(waits), percentile(waits, 0.95), record.empty_polls(0, DAY) / (DAY / MINUTE)
    return [
        Row("random: pickup, mean", f"{average:.2f} s", "≤ 1.5 s", "1.3 s", met=average <= 1.5),
        Row("random: pickup, p95 (longest)", f"{most:.2f} s ({waits[-1]:.2f} s)", "≤ 2.6 s", "2.4 s", met=most <= 2.6),
        Row("random: empty polls a minute", f"{empty:.1f}", "≤ 26", "25", met=empty <= 26),
    ]


def _bursts() -> list[Row]:
    moments = [20 + n * (BURST_EVERY + 0.37) for n in range(int(DAY / BURST_EVERY) - 3)]
    record = _simulate({"power": [moment for moment in moments for _ in range(BURST)]})
    last: dict[float, float] = {}
    for one in record.claimed:
        reported = float("inf") if one.reported is None else one.reported
        last[one.arrived] = max(last.get(one.arrived, 0.0), reported - one.arrived)
    share = sum(seconds <= 3 for seconds in last.values()) / len(last)
    reason = "ten polls after one another cost ten round trips, beside up to 2.4 s until the first."
    return [
        Row("bursts: all ten reported within 3 s", f"{share:.0%}", "≥ 95 %", met=share >= 0.95, reason=reason),
        Row("bursts: mean (longest)", f"{mean(list(last.values())):.2f} s ({max(last.values()):.2f} s)"),
    ]


def _eight() -> list[Row]:
    rare = {f"rare_{n}": at_random(n, RARE_EVERY, DAY) for n in range(1, 8)}
    record = _simulate({"busy": [0.0] * int(DAY / MINUTE * LIMIT), **rare})
    allowed = (LIMIT - len(rare)) / 2
    rate, longest = record.completions(MINUTE, DAY) / (DAY / MINUTE - 1), record.pickups(*rare)[-1]
    figure = Row(
        "eight-saturated: completions a minute",
        f"{rate:.2f}",
        f"≥ {0.98 * allowed:.2f}",
        f"{allowed:.1f}",
        met=rate >= 0.98 * allowed,
        reason="seven idle polls leave 43 slots, which carry 21 executions, not 21.5; one slot is left over.",
    )
    return [
        figure,
        Row("eight-saturated: longest pickup of a rare one", f"{longest:.1f} s", "≤ 61 s", "60 s", met=longest <= 61),
    ]


def _skewed() -> list[Row]:
    seconds = DAY
    arrivals = {task: at_random(number, every, seconds) for number, (task, every) in enumerate(SKEWED.items())}
    ours, theirs = _simulate(arrivals, seconds), _simulate(arrivals, seconds, RoundRobin(SPACING))
    ratio = mean(ours.pickups()) / mean(theirs.pickups())
    spent = [f"{len(record.requests) / (seconds / MINUTE):.1f}" for record in (ours, theirs)]
    return [
        Row("skewed: mean pickup", f"{mean(ours.pickups()):.2f} s", "", "", f"{mean(theirs.pickups()):.2f} s"),
        Row("skewed: beside round robin", f"{ratio:.2f} ×", "≤ 0.7 ×", "", "1 ×", met=ratio <= 0.7),
        Row("skewed: requests a minute", spent[0], "", "", spent[1]),
    ]

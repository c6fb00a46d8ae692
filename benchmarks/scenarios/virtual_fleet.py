"""1 to 256 workers at limits of 50 to 5000 a minute in virtual time: the real schedule and the real window."""

from __future__ import annotations

import time

from tests.support.simulation import Record, Simulation, at_random, fleet

from benchmarks.figures import Report, Row, mean
from benchmarks.scale import MINUTE, Scale

MINUTES = {50: 30, 500: 6, 5000: 3}
"""How long each limit is simulated."""
SIZES = {50: (1, 16, 64, 256), 500: (1, 16, 64, 256), 5000: (1, 16, 64)}
SLOTS = 4
"""The concurrency of each worker; a handler takes a second."""


async def run(_: Scale) -> Report:
    """Simulate each size at each limit, saturated and idle."""
    started = time.perf_counter()
    rows = [row for limit, sizes in SIZES.items() for workers in sizes for row in _rows(limit, workers)]
    return Report(
        "virtual-fleet: 1 to 256 workers, limits of 50 to 5000 a minute, in virtual time",
        [*rows, Row("wall time", f"{time.perf_counter() - started:.0f} s")],
        f"Answers take 0.15 s, handlers a second, {SLOTS} at once in each worker. Saturated: one task. Idle: one task with "
        "an arrival in 20 s, four with one in 200 s.",
    )


def _rows(limit: int, workers: int) -> list[Row]:
    seconds = MINUTES[limit] * MINUTE
    busy = _simulate(limit, workers, {"power": [0.0] * int(limit / 2 * MINUTES[limit] * 1.2)}, seconds)
    idle = _simulate(limit, workers, {"often": at_random(1, 20, seconds), **_rare(seconds)}, seconds)
    rate = busy.completions(seconds / 3, seconds) / (seconds * 2 / 3 / MINUTE)
    possible = min(limit / 2, workers * SLOTS * MINUTE)
    largest = busy.fullest_window()
    name = f"{limit} a minute, {workers} workers"
    return [
        Row(f"{name}: completions a minute", f"{rate:.1f}", "≥ 0.8 ×", f"{possible:g}", met=rate >= 0.8 * possible),
        Row(f"{name}: fullest window", str(largest), f"≤ {limit}", met=largest <= limit),
        Row(f"{name}: idle pickup, mean", f"{mean(idle.pickups()):.2f} s"),
    ]


def _rare(seconds: float) -> dict[str, list[float]]:
    return {f"rare-{number}": at_random(5 + number, 200, seconds) for number in range(4)}


def _simulate(limit: int, workers: int, arrivals: dict[str, list[float]], seconds: float) -> Record:
    planners = fleet(workers, limit=limit)
    work = Simulation(planners[0], arrivals, others=planners[1:], limit=limit, concurrency=SLOTS, handler_seconds=1.0)
    return work.run(seconds)

"""Eight tasks whose arrivals differ a hundredfold: mean pickup beside round robin at equal spending."""

from __future__ import annotations

from functools import partial

from benchmarks.demand import at_random, demand
from benchmarks.figures import Report, Row, mean
from benchmarks.scale import Scale
from benchmarks.watch import PLAIN_LOOP, peer, side_by_side, the_worker, watch

EVERY = {"t1": 12, "t2": 40, "t3": 120, "t4": 240, "t5": 400, "t6": 600, "t7": 900, "t8": 1200}
"""Seconds between two arrivals of each task, on average."""
SECONDS = 1800.0
SPACING = 2.4
"""Seconds between two idle polls: what the worker's half of the budget comes to."""


async def run(scale: Scale) -> Report:
    """Measure the worker, round robin and the plain loop, each a process, under the same arrivals."""
    work = demand(SECONDS, *(at_random(task, every, SECONDS, seed=3) for task, every in EVERY.items()))
    worker, robin, plain = await side_by_side(
        partial(watch, scale, work, the_worker()),
        partial(watch, scale, work, peer("round_robin", SPACING)),
        partial(watch, scale, work, peer("plain_loop", PLAIN_LOOP)),
    )
    ratio = mean(worker.pickups()) / mean(robin.pickups())
    spending = [f"{one.requests_a_minute():.1f}" for one in (worker, robin, plain)]
    return Report(
        "skewed: eight tasks, from one arrival in 12 s to one in 20 min",
        [
            Row(
                "mean pickup beside round robin's",
                f"{ratio:.2f} ×",
                "≤ 0.7 ×",
                "",
                f"{mean(plain.pickups()) / mean(robin.pickups()):.2f} ×",
                met=ratio <= 0.7,
                reason="the first minutes, in which the schedule has yet to learn the rates, count here too; see `virtual`.",
            ),
            Row(
                "mean pickup",
                f"{mean(worker.pickups()):.2f} s",
                "",
                f"{mean(robin.pickups()):.2f} s (round robin)",
                f"{mean(plain.pickups()):.2f} s",
            ),
            Row("requests a minute", spending[0], "", f"{spending[1]} (round robin)", spending[2]),
            Row(
                "answers 429",
                str(worker.record.refused),
                "0",
                f"{robin.record.refused} (round robin)",
                str(plain.record.refused),
                met=worker.record.refused == 0,
            ),
        ],
        f"{len(work.arrivals)} arrivals. Round robin is a process of its own that sends an idle poll every 2.4 s, each task "
        "in its turn, and asks a task that had work again at once, without any reserve.",
    )

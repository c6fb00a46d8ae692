"""One task with arrivals at random, one in 20 seconds: how long they wait to be claimed, and what looking costs."""

from __future__ import annotations

from benchmarks.demand import at_random, demand
from benchmarks.figures import Report, Row, mean, percentile
from benchmarks.scale import Scale
from benchmarks.watch import beside_the_plain_loop

EVERY = 20.0
SECONDS = 2400.0


async def run(scale: Scale) -> Report:
    """Measure the pickup delay at the platform: from submission to claim."""
    worker, plain = await beside_the_plain_loop(scale, demand(SECONDS, at_random("power", EVERY, SECONDS, seed=1)))
    waits, theirs = worker.pickups(), plain.pickups()
    average, most = mean(waits), percentile(waits, 0.95)
    empty = worker.empty_polls_a_minute()
    late = "the scaled window multiplies this machine's own delays, too; see the note at the top."
    return Report(
        "random: one task, one arrival in 20 s",
        [
            Row(
                "pickup, mean",
                f"{average:.2f} s",
                "≤ 1.5 s",
                "1.2 s",
                f"{mean(theirs):.2f} s",
                met=average <= 1.5,
                reason=late,
            ),
            Row(
                "pickup, p95",
                f"{most:.2f} s",
                "≤ 2.6 s",
                "2.3 s",
                f"{percentile(theirs, 0.95):.2f} s",
                met=most <= 2.6,
                reason=late,
            ),
            Row("pickup, longest", f"{waits[-1]:.2f} s", "", "2.5 s", f"{theirs[-1]:.2f} s"),
            Row("requests a minute", f"{worker.requests_a_minute():.1f}", "", "50", f"{plain.requests_a_minute():.1f}"),
            Row(
                "empty polls a minute",
                f"{empty:.1f}",
                "≤ 26",
                "25",
                f"{plain.empty_polls_a_minute():.1f}",
                met=empty <= 26,
            ),
        ],
        f"{len(waits)} arrivals. The limit is that of polls every 2.4 s: half of the budget, the other half being kept for "
        "bursts. The plain loop asks half as often, and its executions wait twice as long.",
    )

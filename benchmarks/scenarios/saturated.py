"""One task that always has work: how near the budget's limit of 25 completions a minute, and never over 50 requests."""

from __future__ import annotations

from benchmarks.demand import Arrival, demand
from benchmarks.figures import Report, Row
from benchmarks.scale import LIMIT, MINUTE, Scale
from benchmarks.watch import beside_the_plain_loop

WINDOWS = 8


async def run(scale: Scale) -> Report:
    """Measure over whole windows."""
    work = demand(WINDOWS * MINUTE + 30, [Arrival(0, "power", (WINDOWS + 2) * LIMIT // 2)])
    worker, plain = await beside_the_plain_loop(scale, work)
    rate = worker.completions_a_minute(LIMIT // 2)
    largest, refused = worker.record.largest_window, worker.record.refused
    return Report(
        "saturated: one task that always has work",
        [
            Row(
                "completions a minute",
                f"{rate:.2f}",
                "≥ 24.7",
                "25",
                f"{plain.completions_a_minute():.1f}",
                met=rate >= 24.7,
                reason="each window begins one round trip and one wake-up after the last, which a scaled window enlarges.",
            ),
            Row(
                "requests in the fullest window",
                str(largest),
                "≤ 50",
                "50",
                str(plain.record.largest_window),
                met=largest <= LIMIT,
            ),
            Row("answers 429", str(refused), "0", "0", str(plain.record.refused), met=refused == 0),
        ],
        f"Over {WINDOWS} windows, from the first report to the same place of the last window. A poll and a report are two "
        "requests, so 50 carry 25 executions; the plain loop stops at one execution in five seconds.",
    )

"""10 000 executions that wait in `async def` handlers at once: what each of them costs, and how late the loop is."""

from __future__ import annotations

import anyio

from benchmarks.figures import Report, Row
from benchmarks.scale import Scale
from benchmarks.scenarios.growth_in_flight import open_waiting

SIZE = 10_000
SECONDS = 60.0
EVERY = 0.5
"""Seconds between two readings: the worker measures its lag as often."""
MEMORY = 20.0
LAG = 50.0


async def run(scale: Scale) -> Report:
    """Claim them all without a limit; then watch them wait for a minute."""
    async with open_waiting(scale, 1) as (worker, _):
        alone = worker.process.memory()
    lags: list[float] = []
    async with open_waiting(scale, SIZE) as (worker, claimed):
        memory, used = worker.process.memory(), worker.process.cpu()
        for _ in range(int(SECONDS / EVERY)):
            await anyio.sleep(EVERY)
            lags.append(1000 * await worker.metric("loop_lag_seconds"))
        used = worker.process.cpu() - used
    each = (memory - alone) * 1024 / max(1, claimed - 1)
    lags.sort()
    late, worst = lags[int(len(lags) * 0.99) - 1], lags[-1]
    return Report(
        "waiting: 10 000 executions in async handlers at once",
        [
            Row("executions that wait", str(claimed), str(SIZE), met=claimed == SIZE, reason="not claimed in time"),
            Row("memory (RSS), one and all", f"{alone:.0f} MB, {memory:.0f} MB"),
            Row(
                "memory for each",
                f"{each:.1f} kB",
                f"< {MEMORY:g} kB",
                met=each < MEMORY,
                reason="each costs more than planned",
            ),
            Row("loop lag, median", f"{lags[len(lags) // 2]:.1f} ms"),
            Row(
                "loop lag, 99th percentile",
                f"{late:.1f} ms",
                f"< {LAG:g} ms",
                met=late < LAG,
                reason="something holds the loop",
            ),
            Row("loop lag, worst", f"{worst:.1f} ms"),
            Row("CPU a minute", f"{used * 60 / SECONDS:.1f} s"),
        ],
        f"No limit; the lag is read every {EVERY:g} s for {SECONDS:.0f} s while all of them wait, a free slot being polled "
        "for meanwhile. The memory for each is what a worker with all of them has more than one with a single one.",
    )

"""1, 100 and 10 000 executions in flight, each a handler that waits: memory, processor time, lag of the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.figures import Report, Row
from benchmarks.peers.lingering import NAME, install
from benchmarks.platform import open_platform
from benchmarks.scale import Scale
from benchmarks.worker import Worker, open_worker

SIZES = (1, 100, 10_000)
SECONDS = 10.0
LONG = 1800.0
PATIENCE = 240.0
"""Seconds that the worker is given to claim them all."""


async def run(scale: Scale) -> Report:
    """Claim so many without a limit, then watch them wait."""
    rows: list[Row] = []
    for size in SIZES:
        claimed, memory, cpu, lag = await _cost(scale, size)
        short = "" if claimed == size else f" ({claimed} claimed in {PATIENCE:.0f} s)"
        rows += [
            Row(f"memory (RSS), {size} in flight", f"{memory:.0f} MB{short}"),
            Row(f"CPU a minute, {size} in flight", f"{cpu:.2f} s"),
            Row(f"loop lag, {size} in flight", f"{lag * 1000:.0f} ms"),
        ]
    return Report(
        "growth-in-flight: 1, 100 and 10 000 executions in flight",
        rows,
        f"No limit; the figures are of {SECONDS:.0f} s while all of them wait in their handlers, a free slot being polled for "
        "five times a second meanwhile. A plain loop has one in flight for each task.",
    )


async def _cost(scale: Scale, size: int) -> tuple[int, float, float, float]:
    async with open_waiting(scale, size) as (worker, claimed):
        used, lag = worker.process.cpu(), 0.0
        for _ in range(int(SECONDS)):
            await anyio.sleep(1)
            lag = max(lag, await worker.metric("loop_lag_seconds"))
        return claimed, worker.process.memory(), (worker.process.cpu() - used) * 60 / SECONDS, lag


@asynccontextmanager
async def open_waiting(scale: Scale, size: int) -> AsyncIterator[tuple[Worker, int]]:
    """Give a worker in which so many handlers wait, and how many of them it has claimed in time."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            open_platform(folder, scale, [NAME], limit=0, round_trip=0) as platform,
            open_worker(
                folder,
                platform.url,
                scale,
                [NAME],
                handler=NAME,
                limit=0,
                concurrency=size + 1,
                variables=install(folder / "installed"),
            ) as worker,
        ):
            for start in range(0, size, 500):
                await platform.submit_input(NAME, [{"seconds": LONG}] * min(500, size - start))
            with anyio.move_on_after(PATIENCE):
                while await worker.metric(f'executions_in_flight{{task="{NAME}"}}') < size:
                    await anyio.sleep(0.5)
            claimed = int(await worker.metric(f'executions_in_flight{{task="{NAME}"}}'))
            await anyio.sleep(1)
            yield worker, claimed

"""1, 10 and 100 tasks with nothing to do: memory, processor time, lag of the event loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.figures import Report, Row
from benchmarks.platform import open_platform
from benchmarks.scale import MINUTE, Scale
from benchmarks.watch import PLAIN_LOOP, Serve, peer, the_worker
from benchmarks.worker import Worker

SIZES = (1, 10, 100)
SECONDS = 60.0
REAL = Scale(MINUTE)
Cost = tuple[float, float, float]


async def run(_: Scale) -> Report:
    """Watch all of them at the same time, in the real window: most of the time they sleep."""
    found: dict[tuple[str, int], Cost] = {}

    async def one(name: str, serve: Serve, size: int) -> None:
        found[name, size] = await _cost(serve, size)

    async with anyio.create_task_group() as all_of_them:
        for size in SIZES:
            all_of_them.start_soon(partial(one, "worker", the_worker(), size))
            all_of_them.start_soon(partial(one, "plain", peer("plain_loop", PLAIN_LOOP), size))
    rows = [
        row
        for size in SIZES
        for row in (
            _row(f"memory (RSS), {size} tasks", "{:.0f} MB", found, size, 0),
            _row(f"CPU a minute, {size} tasks", "{:.2f} s", found, size, 1),
            Row(f"loop lag, {size} tasks", f"{found['worker', size][2] * 1000:.0f} ms"),
        )
    ]
    return Report(
        "growth-tasks: 1, 10 and 100 tasks with nothing to do",
        rows,
        "Idle polls are shared out, so the worker sends 25 requests a minute for one task and for a hundred, where the plain "
        "loop sends 12 for each. Lag is the largest reading of `loop_lag_seconds` in a minute, one each second.",
    )


def _row(figure: str, form: str, found: dict[tuple[str, int], Cost], size: int, index: int) -> Row:
    return Row(figure, form.format(found["worker", size][index]), "", "", form.format(found["plain", size][index]))


async def _cost(serve: Serve, size: int) -> Cost:
    tasks = [f"task_{number}" for number in range(size)]
    with TemporaryDirectory() as name:
        async with open_platform(Path(name), REAL, tasks, limit=0) as platform:
            async with serve(Path(name), platform, REAL, tasks) as server:
                while not await platform.polls():
                    await anyio.sleep(0.1)
                await anyio.sleep(2)
                process = server.process if isinstance(server, Worker) else server
                used, lag = process.cpu(), 0.0
                for _ in range(int(SECONDS)):
                    await anyio.sleep(1)
                    if isinstance(server, Worker):
                        lag = max(lag, await server.metric("loop_lag_seconds"))
                return process.memory(), process.cpu() - used, lag

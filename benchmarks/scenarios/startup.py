"""From the start of the process to its first poll, and what it weighs when it has nothing to do."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.figures import Report, Row, median
from benchmarks.platform import Platform, open_platform
from benchmarks.scale import Scale
from benchmarks.watch import PLAIN_LOOP, Serve, peer, the_worker

STARTS = 5


async def run(scale: Scale) -> Report:
    """Start each five times; the moments are of the clock that all processes of this machine share."""
    real = Scale(60.0)
    worker = [await _start(real, the_worker()) for _ in range(STARTS)]
    plain = [await _start(real, peer("plain_loop", PLAIN_LOOP)) for _ in range(STARTS)]
    return Report(
        "startup: from the process's start to its first poll",
        [
            Row(
                "seconds to the first poll",
                f"{median([one[0] for one in worker]):.2f} s",
                "",
                "",
                f"{median([one[0] for one in plain]):.2f} s",
            ),
            Row(
                "CPU until then and 3 s on",
                f"{median([one[1] for one in worker]):.2f} s",
                "",
                "",
                f"{median([one[1] for one in plain]):.2f} s",
            ),
            Row(
                "memory (RSS), idle",
                f"{median([one[2] for one in worker]):.0f} MB",
                "",
                "",
                f"{median([one[2] for one in plain]):.0f} MB",
            ),
        ],
        f"Medians of {STARTS} starts with an empty journal: Python's own start, the imports, the schema, the list of tasks.",
    )


async def _start(scale: Scale, serve: Serve) -> tuple[float, float, float]:
    with TemporaryDirectory() as name:
        async with open_platform(Path(name), scale, ["power"], round_trip=0) as platform:
            started = time.monotonic()
            async with serve(Path(name), platform, scale, ["power"]) as server:
                first = await _first_poll(platform)
                await anyio.sleep(3)
                process = getattr(server, "process", server)
                return first - started, process.cpu(), process.memory()


async def _first_poll(platform: Platform) -> float:
    while not (polls := await platform.polls()):
        await anyio.sleep(0.02)
    return polls[0]

"""One worker at a limit of 5000 requests a minute, saturated: what it makes of it, on a file and on PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
from tests.support.postgres import NoPostgres, postgres

from benchmarks.figures import Report, Row
from benchmarks.platform import open_platform
from benchmarks.scale import MINUTE, Scale
from benchmarks.worker import open_worker

LARGE = 5000
MINUTES = 2
SCALE = Scale(MINUTE)
"""Always the real one: it is about how much a process can do."""


async def run(_: Scale) -> Report:
    """Let it work for two windows."""
    rows = [*await _measure("a file"), *await _measure("PostgreSQL")]
    return Report(
        f"large-limit: one worker at {LARGE} requests a minute",
        rows,
        f"Over the first {MINUTES} windows of 60 s; answers take 0.15 s, and eight polls are in the air at most.",
    )


async def _measure(journal: str) -> list[Row]:
    with TemporaryDirectory() as name, ExitStack() as opened:
        variables: dict[str, str] = {}
        if journal != "a file":
            try:
                server = opened.enter_context(postgres())
            except NoPostgres as error:
                return [Row(f"{journal}: measured", "nothing", met=False, reason=str(error))]
            variables["PLW_STATE__URL"] = await anyio.to_thread.run_sync(server.new_database)
        async with (
            open_platform(Path(name), SCALE, ["power"], limit=LARGE) as platform,
            open_worker(
                Path(name), platform.url, SCALE, ["power"], limit=LARGE, concurrency=200, variables=variables
            ) as worker,
        ):
            for _ in range(6):
                await platform.submit("power", 1000)
            cpu, since = worker.process.cpu(), await platform.now()
            await anyio.sleep(MINUTES * MINUTE)
            cpu, until = worker.process.cpu() - cpu, await platform.now()
            record = await platform.record()
    completed = record.completions(since, until)
    rate = completed / (until - since) * MINUTE
    return [
        Row(f"{journal}: completions a minute", f"{rate:.0f}", "≥ 2000", f"{LARGE // 2}", met=rate >= 2000),
        Row(
            f"{journal}: requests in the fullest window",
            str(record.largest_window),
            f"≤ {LARGE}",
            met=record.largest_window <= LARGE,
        ),
        Row(f"{journal}: CPU ms an execution", f"{cpu / completed * 1000:.1f}"),
    ]

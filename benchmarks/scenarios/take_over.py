"""A worker is killed in the middle of a handler: how long until another has settled what it ran, with the default lease."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
from tests.support.noted_handlers import notes
from tests.support.postgres import NoPostgres, postgres

from benchmarks.figures import Report, Row
from benchmarks.platform import open_platform
from benchmarks.scale import Scale
from benchmarks.scenarios.fleet import TASK, noted
from benchmarks.worker import open_worker

LEASE = 30.0
"""The default of state.lease; it is in real time whatever the scale."""
GRACE = 5.0
ROUNDS = 3


async def run(scale: Scale) -> Report:
    """Kill a worker three times, and look when its execution is FAILED `worker_restarted`."""
    title = "take-over: a worker killed in the middle of a handler, state.lease = 30s"
    try:
        took = [await _measure(scale) for _ in range(ROUNDS)]
    except NoPostgres as error:
        return Report(title, [Row("measured", "nothing", met=False, reason=str(error))], "")
    return Report(
        title,
        [
            Row(
                "seconds until another has settled it",
                " / ".join(f"{one:.1f}" for one in took),
                f"≤ {LEASE + GRACE:g}",
                met=max(took) <= LEASE + GRACE,
            )
        ],
        f"{ROUNDS} rounds of two workers on one PostgreSQL. A lease is renewed every {LEASE / 3:g} s, so it has {LEASE * 2 / 3:g} "
        f"to {LEASE:g} s left when its worker dies.",
    )


async def _measure(scale: Scale) -> float:
    with TemporaryDirectory() as name, postgres() as server:
        url = await anyio.to_thread.run_sync(server.new_database)
        async with open_platform(Path(name), scale, [TASK]) as platform, AsyncExitStack() as fleet:
            workers = []
            for number in range(2):
                place = Path(name) / str(number)
                await anyio.Path(place).mkdir()
                opened = open_worker(place, platform.url, scale, [TASK], handler=TASK, variables=noted(Path(name), url))
                workers.append(await fleet.enter_async_context(opened))
            await platform.submit_input(TASK, [{"number": 1, "seconds": 600}])
            while not (started := notes(Path(name) / "notes")):
                await anyio.sleep(0.1)
            killed = next(worker for worker in workers if worker.process.running.pid == started[0].process)
            await killed.process.kill()
            since = await platform.now()
            while not (finished := (await platform.record()).finished):
                await anyio.sleep(0.5)
    return finished[0] - since

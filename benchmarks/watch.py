"""One server (the worker, or a peer) on a platform of its own, watched while a demand is driven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.demand import Demand
from benchmarks.platform import KEY, Platform, Record, open_platform
from benchmarks.processes import started
from benchmarks.scale import LIMIT, MINUTE, ROUND_TRIP, Scale
from benchmarks.worker import open_worker

PLAIN_LOOP = 5.0
"""Seconds of the real scale between two polls of a task by the plain loop."""

Serve = Callable[[Path, Platform, Scale, Sequence[str]], AbstractAsyncContextManager[object]]


@dataclass(frozen=True)
class Watched:
    """What the platform recorded, in times of the real scale."""

    record: Record
    scale: Scale
    since: float
    until: float

    @property
    def minutes(self) -> float:
        """How long it was watched."""
        return self.scale.there(self.until - self.since) / MINUTE

    def pickups(self, *tasks: str) -> list[float]:
        """Give the pickup delays in ascending order."""
        return [self.scale.there(delay) for delay in self.record.pickups(*tasks)]

    def requests_a_minute(self) -> float:
        """Give the requests that were sent."""
        return self.record.asked(self.since, self.until) / self.minutes

    def empty_polls_a_minute(self) -> float:
        """Give the polls that found nothing."""
        return self.record.empty_polls(self.since, self.until) / self.minutes

    def completions_a_minute(self, step: int = 1) -> float:
        """Give the rate from the first report to the last that is a whole number of `step`s after it."""
        moments = self.record.finished
        last = (len(moments) - 1) // step * step
        return last / self.scale.there(moments[last] - moments[0]) * MINUTE if last > 0 else 0.0


def the_worker(*, max_staleness: float = 60.0) -> Serve:
    """Serve by the real worker."""

    def serve(
        folder: Path, platform: Platform, scale: Scale, tasks: Sequence[str]
    ) -> AbstractAsyncContextManager[object]:
        return open_worker(folder, platform.url, scale, tasks, max_staleness=max_staleness)

    return serve


def peer(name: str, seconds: float) -> Serve:
    """Serve by one of the peers, whose pace is so many seconds of the real scale."""

    def serve(
        folder: Path, platform: Platform, scale: Scale, tasks: Sequence[str]
    ) -> AbstractAsyncContextManager[object]:
        pace = str(scale.here(seconds))
        return started(f"benchmarks.peers.{name}", platform.url, KEY, pace, *tasks, folder=folder)

    return serve


async def watch(
    scale: Scale, demand: Demand, serve: Serve, *, limit: int = LIMIT, round_trip: float = ROUND_TRIP
) -> Watched:
    """Drive the demand at a platform of its own from the server's first poll on."""
    with TemporaryDirectory() as name:
        async with open_platform(Path(name), scale, demand.tasks(), limit=limit, round_trip=round_trip) as platform:
            async with serve(Path(name), platform, scale, demand.tasks()):
                while not await platform.polls():
                    await anyio.sleep(0.05)
                since = await platform.now()
                await demand.drive(platform, scale)
                until = await platform.now()
            return Watched(await platform.record(), scale, since, until)


async def side_by_side(*watches: partial[object]) -> list[Watched]:
    """Run several watches at the same time; gives what they saw in their order."""
    found: dict[int, Watched] = {}

    async def one(index: int) -> None:
        found[index] = await watches[index]()  # type: ignore[misc]

    async with anyio.create_task_group() as all_of_them:
        for index in range(len(watches)):
            all_of_them.start_soon(one, index)
    return [found[index] for index in range(len(watches))]


async def beside_the_plain_loop(scale: Scale, demand: Demand) -> tuple[Watched, Watched]:
    """Watch the worker and the plain loop under the same demand, each on its own platform."""
    worker, plain = await side_by_side(
        partial(watch, scale, demand, the_worker()), partial(watch, scale, demand, peer("plain_loop", PLAIN_LOOP))
    )
    return worker, plain

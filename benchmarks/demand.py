"""What a scenario asks for: executions that arrive at given moments of the real scale."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

import anyio

from benchmarks.platform import Platform
from benchmarks.scale import Scale


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """So many executions of a task that arrive together; `at` is in seconds of the real scale."""

    at: float
    task: str
    count: int = 1


@dataclass(frozen=True)
class Demand:
    """All arrivals within so many seconds of the real scale."""

    arrivals: tuple[Arrival, ...]
    seconds: float

    def tasks(self) -> list[str]:
        """Name the tasks."""
        return sorted({one.task for one in self.arrivals})

    async def drive(self, platform: Platform, scale: Scale) -> None:
        """Let the executions arrive at the platform, each at its moment."""
        started = time.monotonic()
        for one in self.arrivals:
            await anyio.sleep(max(0.0, started + scale.here(one.at) - time.monotonic()))
            await platform.submit(one.task, one.count)
        await anyio.sleep(max(0.0, started + scale.here(self.seconds) - time.monotonic()))


def demand(seconds: float, *parts: Iterable[Arrival]) -> Demand:
    """Put arrivals together, in the order of their moments."""
    return Demand(tuple(sorted(one for part in parts for one in part)), seconds)


def at_random(task: str, every: float, seconds: float, seed: int) -> list[Arrival]:
    """Give independent arrivals, one every so many seconds on average."""
    chance = random.Random(f"{task} {seed}")
    found: list[Arrival] = []
    now = chance.expovariate(1 / every)
    while now < seconds:
        found.append(Arrival(now, task))
        now += chance.expovariate(1 / every)
    return found

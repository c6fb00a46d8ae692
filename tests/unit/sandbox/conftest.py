"""What the sandbox's tests share: a clock that is set by hand, a world, and a client of it over a real connection."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from product_live_worker.sandbox import Faults, Settings, World, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from product_live_worker.sandbox.records import Task

DEFINITION: dict[str, Any] = {"key": "power", "description": "", "retryCount": 0, "inputKeys": [], "outputKeys": []}


class Clock:
    """Reads what it was set to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Read the clock."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still until it is set."""
    return Clock()


@pytest.fixture
def world() -> World:
    """Give an empty account without a limit."""
    return World(Settings(limit=0), random=Random(7))


@pytest.fixture
def task(world: World) -> Task:
    """Give a task without retries."""
    return world.create_task(DEFINITION, now=0)


@pytest.fixture
def faults() -> Faults:
    """Give an empty set of faults."""
    return Faults()


@pytest.fixture
async def client(world: World, clock: Clock, faults: Faults) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client with the right key, on a sandbox that listens on a real socket."""
    async with (
        serve(world, clock=clock, faults=faults) as base_url,
        httpx.AsyncClient(base_url=base_url, headers={"X-Api-Key": world.settings.key}) as client,
    ):
        yield client

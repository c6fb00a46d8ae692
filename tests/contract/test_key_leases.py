"""Named leases, of workers on one database, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest

from product_live_worker.journal.key_leases import KeyLeases
from support.journals import Place, an_execution, opened

pytestmark = pytest.mark.anyio


@dataclass
class Room:
    """Who is in it, how many at most were at once, and how many have been."""

    inside: int = 0
    most: int = 0
    been: int = 0

    async def visit(self, leases: KeyLeases, id: str) -> None:
        """Come in with the lease; whoever has it already takes it again without waiting."""
        assert await leases.take("room", id) is None
        assert await leases.take("room", id, timeout=0) is None
        self.inside, self.been = self.inside + 1, self.been + 1
        self.most = max(self.most, self.inside)
        await anyio.sleep(0.005)
        self.inside -= 1
        await leases.release("room", id)


async def test_of_many_on_two_workers_one_has_a_lease_at_a_time(place: Place) -> None:
    """All come in, each alone."""
    room = Room()
    with anyio.fail_after(15):
        async with opened(place) as first, opened(place) as second, anyio.create_task_group() as group:
            for number in range(20):
                journal = (first, second)[number % 2]
                journal.key_leases.look_again = 0.02
                await journal.claim(an_execution(id=f"e{number}"))
                group.start_soon(room.visit, journal.key_leases, f"e{number}")
    assert (room.most, room.been) == (1, 20)


async def test_a_lease_of_another_worker_is_seen_to_be_over(place: Place) -> None:
    """Waited for as long as is said, and who has it is told; once its execution is over, the next one has it."""
    async with opened(place) as first, opened(place) as second:
        execution, _ = await first.claim(an_execution(id="e1"))
        await first.start(execution)
        second.key_leases.look_again = 0.02
        assert await first.key_leases.take("orders", "e1") is None
        assert await second.key_leases.take("orders", "e2", timeout=0.1) == "e1"
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(second.key_leases.take, "orders", "e3")
                await first.close(execution)
        assert await first.key_leases.take("prices", "e1") is None

"""The window while the disk refuses: it goes on in memory, and is never counted anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from product_live_worker.journal.journal import Journal
from product_live_worker.model.window import Demand
from support.journals import allow, opened, refuse

pytestmark = pytest.mark.anyio
DEMAND = Demand(limit=5, hold=60.0)


async def taken(journal: Journal, most: int = 20) -> int:
    """Take slots until one has to be waited for; gives how many there were."""
    for count in range(most):
        if isinstance(await journal.ledger.take(DEMAND), float):
            return count
    return most


async def test_what_was_sent_while_the_disk_refused_counts_when_it_takes_rows_again(tmp_path: Path) -> None:
    """A window is one window, whether its slots are rows or were only in memory."""
    async with opened(tmp_path / "worker.db") as journal:
        assert isinstance(await journal.ledger.take(DEMAND), int)
        refuse(tmp_path / "worker.db", "INSERT", "slots")
        assert await taken(journal) == 4
        allow(tmp_path / "worker.db", "INSERT", "slots")
        assert await taken(journal) == 0


async def test_of_several_workers_none_goes_on_in_memory(tmp_path: Path) -> None:
    """What is only in the memory of one is unknown to the others: while the disk refuses, they wait."""
    async with opened(tmp_path / "worker.db") as first, opened(tmp_path / "worker.db") as second:
        await first.renew()
        refuse(tmp_path / "worker.db", "INSERT", "slots")
        assert (await taken(first), await taken(second)) == (0, 0)
        allow(tmp_path / "worker.db", "INSERT", "slots")
        assert await taken(first) + await taken(second) == 5
    async with opened(tmp_path / "worker.db") as left:
        refuse(tmp_path / "worker.db", "INSERT", "slots")
        assert await taken(left) == 0


async def test_what_others_have_sent_counts_although_they_are_gone(tmp_path: Path) -> None:
    """A worker that is alone by now still counts the slots of those that have left."""
    async with opened(tmp_path / "worker.db") as journal:
        async with opened(tmp_path / "worker.db") as other:
            for _ in range(3):
                await other.ledger.take(DEMAND)
        await journal.renew()
        assert isinstance(await journal.ledger.take(DEMAND), int)
        refuse(tmp_path / "worker.db", "INSERT", "slots")
        assert await taken(journal) == 1

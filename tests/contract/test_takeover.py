"""One suite for taking over on SQLite and PostgreSQL: what becomes of the rows of those that are gone."""

from __future__ import annotations

import time

import anyio
import pytest

from product_live_worker.model.action import Action
from product_live_worker.model.errors import TakenOver
from product_live_worker.model.execution import State
from support.journals import DONE, Place, an_execution, in_state, opened, query, row

pytestmark = pytest.mark.anyio


async def test_two_workers_of_one_process_know_each_other_alive(place: Place) -> None:
    """Rows of a journal that is still open, even in this process, are not taken."""
    async with opened(place) as one, opened(place) as other:
        await one.claim(an_execution())
        assert await other.take_over() == []
        assert row(place)["holder"] == one.holder


async def test_what_a_dead_process_left_is_ordinary_work(place: Place) -> None:
    """Claimed rows go to the dispatcher, settled ones to the reporter, running ones are named, the rest is done."""
    async with opened(place) as first:
        for number, state in enumerate(State):
            await in_state(first, state, an_execution(id=state, claimed_at=float(number)))
    async with opened(place) as journal:
        assert [one.id for one in await journal.take_over()] == ["RUNNING"]
        assert (await journal.next(State.CLAIMED)).id == "CLAIMED"
        settled = await journal.next(State.SETTLED)
        assert (settled.id, settled.outcome is not None) == ("SETTLED", True)
        assert (journal.unreported(), journal.total_in_hand(), journal.reports_waiting()) == (3, 2, 1)
        assert journal.undeliverable == 1
        await journal.close(settled)


async def test_the_oldest_claim_is_taken_over_first(place: Place) -> None:
    """Who has waited longest is served first."""
    async with opened(place) as first:
        for number in (3, 1, 2):
            await in_state(first, State.RUNNING, an_execution(id=f"e{number}", claimed_at=float(number)))
    async with opened(place) as journal:
        assert [one.id for one in await journal.take_over()] == ["e1", "e2", "e3"]
        assert [one.id for one in journal.open_executions()] == ["e1", "e2", "e3"]


async def test_rows_of_another_platform_are_left_alone(place: Place) -> None:
    """A worker touches only rows of its own platform, however dead their holder is."""
    async with opened(place, platform="https://other.example.com") as first:
        await in_state(first, State.RUNNING, an_execution())
        holder = first.holder
    async with opened(place) as journal:
        assert await journal.take_over() == []
    assert row(place)["holder"] == holder


async def test_a_row_is_taken_over_once(place: Place) -> None:
    """A second look finds nothing more to take."""
    async with opened(place) as first:
        await in_state(first, State.RUNNING, an_execution())
    async with opened(place) as journal:
        assert len(await journal.take_over()) == 1
        assert await journal.take_over() == []


async def test_a_holder_whose_lease_has_ended_loses_its_rows_once(place: Place) -> None:
    """A process stopped for longer than its lease is taken over; when it wakes it can settle nothing, and knows why."""
    async with opened(place, lease=0.05) as stopped:
        held = await in_state(stopped, State.RUNNING, an_execution())
        await anyio.sleep(0.1)
        async with opened(place) as other:
            assert [one.id for one in await other.take_over()] == ["e1"]
            with pytest.raises(TakenOver):
                await stopped.settle(held, DONE)
            before = stopped.holder
            assert not await stopped.renew()
            assert (stopped.unreported(), stopped.holder != before) == (0, True)
            assert await stopped.renew()
            assert await stopped.take_over() == []
            assert row(place)["holder"] == other.holder


async def test_whose_a_row_is_by_now_is_read_from_the_row(place: Place) -> None:
    """An outcome holds until another worker takes it over, or a person closes it; then it is forgotten here."""
    async with opened(place, lease=0.05) as journal:
        await in_state(journal, State.SETTLED, an_execution("e1"))
        await in_state(journal, State.SETTLED, an_execution("e2"))
        await journal.must_hold("e1")
        await journal.board.act(Action(verb="discard", subject="e1", who="anna", at=time.time()))
        with pytest.raises(TakenOver, match="closed by hand"):
            await journal.must_hold("e1")
        await journal.must_hold("e2")
        await anyio.sleep(0.1)
        async with opened(place) as other:
            await other.take_over()
            with pytest.raises(TakenOver, match="another worker"):
                await journal.must_hold("e2")
        assert journal.unreported() == 0


async def test_a_lease_renewed_in_time_keeps_its_rows(place: Place) -> None:
    """A lease that ended, and that nobody took, goes on as if nothing had been."""
    async with opened(place, lease=0.05) as journal:
        held = await in_state(journal, State.RUNNING, an_execution())
        await anyio.sleep(0.1)
        assert await journal.renew()
        await journal.settle(held, DONE)


async def test_each_death_while_running_is_counted_and_a_checkpoint_forgives(place: Place) -> None:
    """A row that was RUNNING when its holder ended has one crash more; a checkpoint begins the count anew."""
    async with opened(place) as journal:
        await in_state(journal, State.RUNNING, an_execution())
    for crashes in (1, 2):
        async with opened(place) as journal:
            # Taken over, and left undecided: nothing of it was running.
            assert [one.crashes for one in await journal.take_over()] == [crashes]
        async with opened(place) as journal:
            (found,) = await journal.take_over()
            assert found.crashes == crashes
            await journal.start(await journal.rerun(found, crashes=found.crashes))
    async with opened(place) as journal:
        (found,) = await journal.take_over()
        saved = await journal.save_checkpoint(found, {"at": 7})
        assert (saved.crashes, saved.checkpoint) == (0, {"at": 7})
    async with opened(place) as journal:
        assert [(one.crashes, one.checkpoint) for one in await journal.take_over()] == [(1, {"at": 7})]


async def test_what_another_boot_held_is_free(place: Place) -> None:
    """After the machine was started again no lease of before counts, however long it would have lasted."""
    async with opened(place) as journal:
        await in_state(journal, State.RUNNING, an_execution())
        query(place, "UPDATE holders SET boot = 'another', ends_at = 1e12")
        async with opened(place) as other:
            assert [one.id for one in await other.take_over()] == ["e1"]


async def test_holders_that_are_long_gone_are_forgotten(place: Place) -> None:
    """Processes that were killed with nothing in hand leave no row for ever; those that may wake again do."""
    async with opened(place):
        for number, ago in enumerate((1, 50, 150)):
            values = f"'gone{number}', platform, boot, ends_at - 30 * {ago}"
            query(place, f"INSERT INTO holders SELECT {values} FROM holders WHERE holder NOT LIKE 'gone%'")  # noqa: S608 (ours)
        async with opened(place):
            found = query(place, "SELECT holder FROM holders WHERE holder LIKE 'gone_' ORDER BY holder")
    assert found == [("gone0",), ("gone1",)]

"""The list of the account's tasks, on both databases: one worker asks for it, all read it."""

from __future__ import annotations

import anyio
import pytest

from product_live_worker.journal.journal import Journal
from support.journals import Place, opened, query

pytestmark = pytest.mark.anyio
LISTED = {"power": ["t1", 3600.0], "echo": ["t2", None]}


def grow_old(place: Place, seconds: float) -> None:
    """Let the list have been asked for so many seconds earlier."""
    query(place, f"UPDATE task_lists SET asked_at = asked_at - {seconds}")  # noqa: S608 (a number)


async def looks(*journals: Journal, within: float = 600.0) -> list[object]:
    """Let all look at once."""
    found: list[object] = []

    async def look(journal: Journal) -> None:
        found.append(await journal.task_list.known(within))

    async with anyio.create_task_group() as together:
        for journal in journals:
            together.start_soon(look, journal)
    return found


async def test_one_has_the_turn_to_ask_and_the_others_read_what_it_has_kept(place: Place) -> None:
    """Whoever else looks meanwhile reads what was known before; when it is old again, again one has the turn."""
    async with opened(place) as one, opened(place) as two, opened(place) as three:
        assert await one.task_list.known(600) is None
        await one.task_list.keep(LISTED)
        assert await looks(one, two, three) == [LISTED] * 3
        grow_old(place, 601)
        found = await looks(one, two, three)
        assert sorted(found, key=str) == [None, LISTED, LISTED]
        for journal in (one, two, three):
            # Only the answer of the one that has the turn is kept, and each offers another one.
            await journal.task_list.keep({journal.holder: ["t3", None]})
        (kept,) = {str(found) for found in await looks(one, two, three)}
        assert kept != str(LISTED)


async def test_a_list_that_nobody_has_read_yet_is_everybodys_to_ask_for(place: Place) -> None:
    """Nobody can serve anything until it is there; what the last to look has read is kept."""
    async with opened(place) as one, opened(place) as two:
        assert await looks(one, two) == [None, None]
        assert await one.task_list.known(600) is None
        assert await two.task_list.known(600) is None
        await two.task_list.keep(LISTED)
        await one.task_list.keep({})
        assert await looks(one, two) == [LISTED, LISTED]


@pytest.mark.parametrize("gone", [True, False])
async def test_the_turn_ends_with_the_lease_of_the_one_that_has_it(place: Place, gone: bool) -> None:
    """One that was killed while it asked holds nobody up; one that was only stopped then changes nothing any more."""
    async with opened(place) as one, opened(place) as two:
        await one.task_list.known(600)
        await one.task_list.keep({})
        grow_old(place, 600)
        assert await one.task_list.known(600) is None
        assert await two.task_list.known(600) == {}
        if gone:
            query(place, "DELETE FROM holders WHERE holder = ?", one.holder)
        else:
            query(place, "UPDATE holders SET ends_at = 0 WHERE holder = ?", one.holder)
        assert await two.task_list.known(600) is None
        await two.task_list.keep(LISTED)
        await one.task_list.keep({})
        assert await two.task_list.known(600) == LISTED


async def test_who_needs_it_newer_has_the_turn_sooner(place: Place) -> None:
    """For one that misses a task in it, half a minute is old."""
    async with opened(place) as journal:
        await journal.task_list.known(600)
        await journal.task_list.keep(LISTED)
        grow_old(place, 31)
        assert await journal.task_list.known(600) == LISTED
        assert await journal.task_list.known(30) is None
        assert await journal.task_list.known(30) == LISTED


@pytest.mark.parametrize("how", ["outdated", "of another boot"])
async def test_it_is_asked_for_again_however_young_it_is(place: Place, how: str) -> None:
    """After a worker has left in an orderly way, and when its age is on a clock that is gone."""
    async with opened(place) as one, opened(place) as two:
        await one.task_list.known(600)
        await one.task_list.keep(LISTED)
        if how == "outdated":
            one.task_list.outdate()
            await one.renew()
        else:
            query(place, "UPDATE task_lists SET boot = 'another'")
        assert await two.task_list.known(600) is None
        assert await one.task_list.known(600) == LISTED


async def test_platforms_do_not_see_each_others_lists(place: Place) -> None:
    """The sandbox's tasks are not those of production: neither the list, nor whose turn it is, nor its end."""
    async with opened(place) as one, opened(place, platform="https://other.example.com") as other:
        for journal, listed in ((one, LISTED), (other, {})):
            assert await journal.task_list.known(600) is None
            await journal.task_list.keep(listed)
        assert (await one.task_list.known(600), await other.task_list.known(600)) == (LISTED, {})
        one.task_list.outdate()
        await one.renew()
        assert await other.task_list.known(600) == {}
        assert await one.task_list.known(600) is None
        assert await other.task_list.known(600) == {}
        await one.task_list.keep(LISTED)
        assert await other.task_list.known(600) == {}
        grow_old(place, 600)
        assert (await one.task_list.known(600), await other.task_list.known(600)) == (None, None)

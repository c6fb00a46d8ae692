"""One suite for all ledgers: where the window is kept makes no difference to what it allows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Double, bindparam, literal_column, text

from product_live_worker.journal.backend import Clock as Shared
from product_live_worker.journal.database import open_database
from product_live_worker.journal.journal import Journal
from product_live_worker.journal.ledger import JournalLedger
from product_live_worker.journal.writer import Writer
from product_live_worker.model.window import LOOK_AGAIN, Demand, wait_for_slot
from product_live_worker.product_live.budget import Ledger, MemoryLedger
from support.journals import Place, opened, query
from support.postgres import Postgres

pytestmark = pytest.mark.anyio

HOLD = 82.0
WINDOW = 60.0


class Clock:
    """Reads what it was set to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        """Read the clock."""
        return self.time


Open = Callable[[Callable[[], float]], Ledger]


def in_database(url: str) -> Iterator[Open]:
    """Give what opens an empty ledger in a journal's database; each is of a platform of its own."""
    numbers = itertools.count()
    with closing(open_database(url)) as database:

        def opened(now: Callable[[], float]) -> Ledger:
            clock = Shared(bindparam("test_now", callable_=now, type_=Double, unique=True), "boot", now)
            return JournalLedger(Writer(database), f"https://{next(numbers)}.example.com", clock=clock)

        yield opened


@pytest.fixture(scope="module")
def open_in_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Give what opens ledgers in a file."""
    yield from in_database(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'worker.db'}")


@pytest.fixture(scope="module")
def open_in_postgresql(postgres_server: Postgres) -> Iterator[Open]:
    """Give what opens ledgers on a server."""
    yield from in_database(postgres_server.new_database())


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still until it is set."""
    return Clock()


KINDS = ("memory", "sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def open_ledger(request: pytest.FixtureRequest) -> Open:
    """Give what opens an empty ledger of each kind."""
    if request.param == "memory":
        return lambda now: MemoryLedger(now=now)
    opening: Open = request.getfixturevalue(f"open_in_{request.param}")
    return opening


@pytest.fixture
def ledger(clock: Clock, open_ledger: Open) -> Ledger:
    """Give each kind of ledger, empty."""
    return open_ledger(clock)


async def slot(ledger: Ledger, limit: int, leave: int = 0, resource: str = "") -> int:
    """Take a slot that is free."""
    taken = await ledger.take(Demand(limit=limit, hold=HOLD, leave=leave, lane=resource, leave_in=resource))
    assert isinstance(taken, int)
    return taken


async def wait(ledger: Ledger, limit: int, leave: int = 0, resource: str = "") -> float:
    """Ask for a slot in vain."""
    seconds = await ledger.take(Demand(limit=limit, hold=HOLD, leave=leave, lane=resource, leave_in=resource))
    assert isinstance(seconds, float)
    return seconds


async def test_the_ledgers_clock_is_the_one_it_was_given(ledger: Ledger, clock: Clock) -> None:
    """Time is an argument."""
    assert ledger.now() == clock.time


async def test_no_more_slots_are_given_than_the_limit(ledger: Ledger) -> None:
    """A full window gives no slot, but says how long it stays full."""
    numbers = {await slot(ledger, 3) for _ in range(3)}
    assert len(numbers) == 3
    assert await wait(ledger, 3) == HOLD
    assert await wait(ledger, 3) == HOLD


async def test_a_slot_is_held_until_its_time_is_over_and_no_longer(ledger: Ledger, clock: Clock) -> None:
    """A slot whose request was never answered is free once the request can no longer be counted."""
    await slot(ledger, 1)
    clock.time += HOLD - 0.5
    assert await wait(ledger, 1) == 0.5
    clock.time += 0.5
    await slot(ledger, 1)


async def test_an_answered_slot_is_free_one_window_after_the_answer(ledger: Ledger, clock: Clock) -> None:
    """The server counted the request at its answer at the latest."""
    first = await slot(ledger, 1)
    clock.time += 2
    ledger.answered(first, WINDOW)
    assert await wait(ledger, 1) == WINDOW
    clock.time += WINDOW
    await slot(ledger, 1)


async def test_a_late_answer_holds_its_slot_longer(ledger: Ledger, clock: Clock) -> None:
    """An answer just before the slot's end begins a whole window all the same."""
    first = await slot(ledger, 1)
    clock.time += HOLD - 1
    ledger.answered(first, WINDOW)
    assert await wait(ledger, 1) == WINDOW


async def test_a_slot_that_is_given_back_is_free_at_once(ledger: Ledger) -> None:
    """A request that was never sent was never counted."""
    first = await slot(ledger, 1)
    ledger.give_back(first)
    assert await slot(ledger, 1) != first


async def test_a_slot_is_not_given_back_twice(ledger: Ledger) -> None:
    """Giving back what is free frees nothing of anybody else's."""
    first = await slot(ledger, 2)
    ledger.give_back(first)
    ledger.give_back(first)
    ledger.answered(first, WINDOW)
    await slot(ledger, 2)
    await slot(ledger, 2)
    assert await wait(ledger, 2) == HOLD


async def test_a_late_answer_of_an_expired_slot_changes_nobody_elses(ledger: Ledger, clock: Clock) -> None:
    """A number is never used again, so a request answered after all cannot free another's slot."""
    first = await slot(ledger, 1)
    clock.time += HOLD
    second = await slot(ledger, 1)
    assert second != first
    ledger.answered(first, 0.0)
    ledger.give_back(first)
    assert await wait(ledger, 1) == HOLD


async def test_lower_purposes_leave_slots_free_for_higher_ones(ledger: Ledger, clock: Clock) -> None:
    """Who must leave two free waits until two more than its own would be; who must leave none does not."""
    for _ in range(3):
        await slot(ledger, 5, leave=2)
        clock.time += 1
    assert await wait(ledger, 5, leave=2) == HOLD - 3
    await slot(ledger, 5, leave=1)
    await slot(ledger, 5)
    assert await wait(ledger, 5, leave=2) == HOLD - 1
    assert await wait(ledger, 5, leave=4) == HOLD


async def test_each_resource_has_a_window_of_its_own(ledger: Ledger) -> None:
    """Where the limit stands per API page, a full page does not fill another."""
    await slot(ledger, 1, resource="tasks")
    assert await wait(ledger, 1, resource="tasks") == HOLD
    await slot(ledger, 1, resource="files")


async def test_a_limit_that_shrank_waits_until_enough_slots_are_free(ledger: Ledger, clock: Clock) -> None:
    """With more slots held than the limit now allows, as many must go as are too many."""
    for _ in range(4):
        await slot(ledger, 4)
        clock.time += 1
    assert await wait(ledger, 2) == HOLD - 2


Step = tuple[Literal["take", "answered", "give_back", "pass"], int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "answered", "give_back", "pass"]), st.integers(0, 5), st.integers(0, 20)
    ),
    max_size=40,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, limit=st.integers(1, 6))
async def test_whatever_happens_no_more_than_the_limit_is_held_and_every_wait_is_true(
    open_ledger: Open, steps: list[Step], limit: int
) -> None:
    """Each ledger, through any history, agrees with the definition of the window and so with the one in memory."""
    clock = Clock()
    ledgers: list[Ledger] = [MemoryLedger(now=clock), open_ledger(clock)]
    free_at: list[float] = []
    taken: list[list[int]] = []
    for step, which, seconds in steps:
        index = which % len(taken) if taken else None
        if step == "pass":
            clock.time += seconds
        elif step == "take":
            leave = which % limit
            held = sorted(moment for moment in free_at if moment > clock.time)
            answers = [await ledger.take(Demand(limit=limit, hold=HOLD, leave=leave)) for ledger in ledgers]
            if len(held) + 1 + leave <= limit:
                assert all(isinstance(answer, int) for answer in answers)
                free_at.append(clock.time + HOLD)
                taken.append([int(answer) for answer in answers])
            else:
                too_many = len(held) + 1 + leave - limit
                assert answers == [held[too_many - 1] - clock.time] * 2
                assert all(isinstance(answer, float) for answer in answers)
        elif index is not None and free_at[index] > clock.time:
            for ledger, number in zip(ledgers, taken[index], strict=True):
                if step == "answered":
                    ledger.answered(number, WINDOW)
                else:
                    ledger.give_back(number)
            free_at[index] = clock.time + WINDOW if step == "answered" else clock.time
    assert len({tuple(numbers) for numbers in taken}) == len(taken)


HOLDS = st.lists(st.integers(1, 100), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    held=st.fixed_dictionaries({"tasks": HOLDS, "task_executions": HOLDS}),
    limit=st.integers(2, 12),
    leave=st.integers(0, 6),
    within=st.integers(0, 20),
    promised=st.lists(st.integers(0, 60), max_size=5).map(sorted),
    together=st.booleans(),
)
async def test_every_wait_is_that_of_the_arithmetic(  # noqa: PLR0917 (hypothesis gives them)
    open_ledger: Open,
    held: dict[str, list[int]],
    limit: int,
    leave: int,
    within: int,
    promised: list[int],
    together: bool,
) -> None:
    """Whatever has to stay free, in whichever lane, and however few of the slots held a ledger looks at."""
    clock = Clock()
    ledger = open_ledger(clock)
    for lane, holds in held.items():
        for hold in holds:
            await ledger.take(Demand(limit=100, hold=hold, lane=lane, leave_in=lane))
    demand = Demand(
        limit=limit,
        hold=HOLD,
        lane="tasks",
        leave=min(leave, limit - 1),
        leave_in="tasks" if together else "task_executions",
        last_within=within,
        promised=promised,
    )
    free_at = {lane: [clock.time + hold for hold in holds] for lane, holds in held.items()}
    assert isinstance(taken := await ledger.take(demand), float) or wait_for_slot(demand, free_at, clock.time) == 0
    assert isinstance(taken, int) or taken == wait_for_slot(demand, free_at, clock.time)


async def test_no_wait_is_longer_than_its_slot_is_held_whenever_that_ends(place: Place) -> None:
    """On the database's own clock, which goes on while a look counts and lists: the two agree, look after look."""
    hold = LOOK_AGAIN / 10
    demand = Demand(limit=1, hold=hold)
    waits = []
    async with opened(place) as journal:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            taken = await journal.ledger.take(demand)
            waits += [taken] if isinstance(taken, float) else []
    assert 0 < max(waits) <= hold


async def test_a_look_reads_the_clock_once(postgres_server: Postgres) -> None:
    """By a clock that goes on by a second with every reading, two looks are a second apart."""
    with closing(open_database(postgres_server.new_database())) as database:
        with database.begin(at_once=True) as connection:
            connection.execute(text("CREATE SEQUENCE readings"))
        reading = literal_column("nextval('readings')::double precision", Double)
        clock = Shared(reading, "boot", time.monotonic)
        ledger = JournalLedger(Writer(database), "https://example.com", clock=clock, shared=True)
        await slot(ledger, 1)
        assert await wait(ledger, 1) - await wait(ledger, 1) == 1


async def test_a_look_at_a_window_of_thousands_costs_hardly_more_than_one_at_a_few(place: Place) -> None:
    """A limit of 5000 a minute can be used up by one worker, which has 12 ms for each request."""

    async def seconds(journal: Journal) -> float:
        taken = []
        for _ in range(15):
            began = time.perf_counter()
            assert isinstance(await journal.ledger.take(Demand(limit=5000, hold=600)), int)
            taken.append(time.perf_counter() - began)
        return sorted(taken)[len(taken) // 2]

    async with opened(place) as journal:
        few = await seconds(journal)
        more = "WITH RECURSIVE more(n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM more WHERE n < 4500) "
        columns = "number, platform, resource, boot, free_at"
        one = f"SELECT n, {columns.partition(', ')[2]} FROM slots, more WHERE number = 1"  # noqa: S608 (ours)
        insert = f"INSERT INTO slots ({columns}) "
        query(place, f"{insert} {more} {one}" if isinstance(place, Path) else f"{more} {insert} {one}")
        assert await seconds(journal) < 8 * few

"""The budget is law: no window of the platform's, sliding or fixed, ever holds more requests than the limit."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st

from product_live_worker.model.window import Demand
from product_live_worker.product_live.budget import (
    STALE_AFTER,
    Budget,
    MemoryLedger,
    Purpose,
    reserve,
)
from product_live_worker.telemetry.events import BudgetWaited, Event
from support.clients import NotingLedger
from support.simulation import at_once, fullest_window
from support.virtual_time import run_virtually, settle, stop_the_process

WINDOW = 60.0
TOTAL_TIMEOUT = 20.0
LONGEST_REQUEST = TOTAL_TIMEOUT + 2.0
LOWER = [Purpose.POLL, Purpose.WATCH, Purpose.DEFINE, Purpose.LOG]
HIGHER = [Purpose.REPORT, Purpose.RECOVER, Purpose.FILES]


def fractions(longest: int) -> st.SearchStrategy[float]:
    """Give seconds that floats add up without rounding."""
    return st.integers(0, longest * 64).map(lambda parts: parts / 64)


def new_budget(limit: int, ledger: MemoryLedger | None = None, **more: object) -> Budget:
    """Give a budget on the virtual clock."""
    ledger = ledger or MemoryLedger(now=anyio.current_time)
    return Budget(ledger, limit=limit, window=WINDOW, longest_request=LONGEST_REQUEST, **more)  # type: ignore[arg-type]


@contextmanager
def calls_counted(steps: Iterator[int]) -> Iterator[None]:
    """Take a step for each call of a Python function in the block."""
    before = sys.getprofile()
    sys.setprofile(lambda _, what, __: next(steps) if what == "call" else None)
    try:
        yield
    finally:
        sys.setprofile(before)


async def request(budget: Budget, purpose: Purpose = Purpose.REPORT, *, resource: str = "", order: float = 0) -> float:
    """Make a request that is answered at once; gives the moment it was sent."""
    with await budget.slot(purpose, resource=resource, order=order) as slot:
        await slot.use()
        slot.answered()
        return anyio.current_time()


# ── The arithmetic. ──


@given(st.sampled_from(HIGHER), st.integers(0, 1000), st.integers(1, 1000))
def test_what_is_owed_leaves_nothing_free(purpose: Purpose, unreported: int, limit: int) -> None:
    """Reports, recovery and files may use the last slot."""
    assert reserve(purpose, unreported, limit) == 0


@given(st.sampled_from(LOWER), st.integers(0, 1000), st.integers(2, 1000))
def test_what_is_not_owed_leaves_the_designed_reserve(purpose: Purpose, unreported: int, limit: int) -> None:
    """A poll and what is below it leave min(unreported, limit / 2) + 1 slots free, and can always be made some day."""
    left = reserve(purpose, unreported, limit)
    assert left == min(unreported, limit // 2) + 1 or left == limit - 1 < min(unreported, limit // 2) + 1
    assert 1 <= left < limit


def test_a_slot_is_held_for_its_time_from_its_answer_or_not_at_all() -> None:
    """A slot is free after its hold, after its answer's hold, or at once when it is given back."""
    clock = [0.0]
    ledger = MemoryLedger(now=lambda: clock[0])
    unanswered, answered, unsent = (at_once(ledger.take(Demand(limit=3, hold=82))) for _ in range(3))
    assert [type(slot) for slot in (unanswered, answered, unsent)] == [int, int, int]
    assert at_once(ledger.take(Demand(limit=3, hold=82))) == 82.0
    clock[0] = 5.0
    ledger.answered(int(answered), 60)
    assert at_once(ledger.take(Demand(limit=3, hold=82))) == 60.0
    ledger.give_back(int(unsent))
    ledger.give_back(int(unsent))
    ledger.answered(int(unsent), 60)
    assert at_once(ledger.take(Demand(limit=3, hold=82))) == 3
    assert at_once(ledger.take(Demand(limit=3, hold=82, leave=1))) == 77.0
    assert at_once(ledger.take(Demand(limit=3, hold=82, lane="elsewhere"))) == 4
    clock[0] = 65.0
    assert at_once(ledger.take(Demand(limit=3, hold=82))) == 5


# ── The server's side. ──


@dataclass(frozen=True)
class Wish:
    """A request somebody wants to make, and what will become of it."""

    start: float
    purpose: Purpose
    dawdles: float
    """Seconds between having the slot and sending."""
    fate: Literal["answered", "unanswered", "unsent", "never used"]
    travels: float
    """Seconds until it arrives at the platform."""
    takes: float
    """Seconds from there until the answer is here."""
    patience: float
    """Seconds after which the demand is cancelled, wherever it is by then."""


PROMPT = Wish(0, Purpose.REPORT, 0, "answered", 0, 0, math.inf)
SLOW = Wish(0, Purpose.REPORT, 0, "answered", 20, 0, math.inf)
LOST = Wish(0, Purpose.REPORT, 1, "unanswered", 20, 0, math.inf)
DEMANDS = st.lists(
    st.builds(
        Wish,
        start=fractions(150),
        purpose=st.sampled_from(Purpose),
        dawdles=st.one_of(st.just(0.0), fractions(3)),
        fate=st.sampled_from(["answered", "answered", "unanswered", "unsent", "never used"]),
        travels=fractions(10),
        takes=fractions(10),
        patience=st.one_of(st.just(math.inf), fractions(100)),
    ),
    max_size=40,
)
STOPS = st.lists(st.tuples(fractions(200), fractions(100)), max_size=3)


@given(limit=st.integers(4, 9), demands=DEMANDS, stops=STOPS, refusals=st.lists(fractions(200), max_size=2))
@example(limit=4, demands=[SLOW] * 4 + [PROMPT] * 5, stops=[], refusals=[])
@example(limit=4, demands=[LOST] * 4 + [PROMPT] * 5, stops=[], refusals=[])
@settings(max_examples=300, deadline=None)
def test_no_window_of_the_platform_holds_more_than_the_limit(  # noqa: C901 (the world in one place)
    limit: int, demands: list[Wish], stops: list[tuple[float, float]], refusals: list[float]
) -> None:
    """Whatever the latencies, fates, cancellations, stops of the process and refusals, arrivals keep the law."""
    arrivals: list[float] = []

    async def live(budget: Budget, demand: Wish) -> None:
        await anyio.sleep_until(demand.start)
        with anyio.move_on_after(demand.patience):
            with await budget.slot(demand.purpose) as slot:
                await anyio.sleep(demand.dawdles)
                if demand.fate == "never used":
                    return
                await slot.use()
                sent = anyio.current_time()
                if demand.fate == "unsent":
                    await anyio.sleep(demand.takes)
                    slot.unsent()
                    return
                late = LONGEST_REQUEST - STALE_AFTER if demand.fate == "unanswered" else demand.travels
                arrivals.append(sent + late)
                await anyio.sleep(demand.travels + demand.takes)
                if demand.fate == "answered":
                    slot.answered()

    async def stop(at: float, seconds: float) -> None:
        await anyio.sleep_until(at)
        stop_the_process(seconds)

    async def refuse(budget: Budget, at: float) -> None:
        await anyio.sleep_until(at)
        budget.refused(7.0)

    async def world() -> None:
        budget = new_budget(limit, unreported=lambda: len(arrivals) % (limit + 2))
        async with anyio.create_task_group() as tasks:
            for demand in demands:
                tasks.start_soon(live, budget, demand)
            for at, seconds in stops:
                tasks.start_soon(stop, at, seconds)
            for at in refusals:
                tasks.start_soon(refuse, budget, at)

    # NothingWillHappen would say that a waiter was forgotten.
    run_virtually(world)
    assert fullest_window(arrivals, WINDOW) <= limit


@given(st.integers(1, 6), st.lists(fractions(150), max_size=25), fractions(20))
@settings(deadline=None)
def test_nobody_waits_longer_than_the_law_demands(limit: int, starts: list[float], takes: float) -> None:
    """Requests leave as early as the window allows, in the order they came: no wake-up is lost."""
    sent: list[float] = []

    async def live(budget: Budget, start: float) -> None:
        await anyio.sleep_until(start)
        with await budget.slot(Purpose.REPORT) as slot:
            await slot.use()
            sent.append(anyio.current_time())
            await anyio.sleep(takes)
            slot.answered()

    async def world() -> None:
        budget = new_budget(limit)
        async with anyio.create_task_group() as tasks:
            for start in starts:
                tasks.start_soon(live, budget, start)

    run_virtually(world)
    best: list[float] = []
    for start in sorted(starts):
        best.append(max(start, best[-limit] + takes + WINDOW) if len(best) >= limit else start)
    assert sent == best


# ── Who is next. ──


@given(st.permutations([(purpose, order) for purpose in Purpose for order in (2.0, 1.0, 1.0)]))
@settings(max_examples=30, deadline=None)
def test_the_most_urgent_goes_first_and_the_oldest_within_a_purpose(wanted: list[tuple[Purpose, float]]) -> None:
    """Slots go to reports before polls before definitions; among equals by their order, then first come."""
    given_to: list[tuple[Purpose, float, int]] = []

    async def want(budget: Budget, purpose: Purpose, order: float, arrival: int) -> None:
        await request(budget, purpose, order=order)
        given_to.append((purpose, order, arrival))

    async def world() -> None:
        # Slots come free one after the other, and all of them before anything has waited for too long.
        budget = new_budget(30)
        for _ in range(30):
            await request(budget)
            await anyio.sleep(1)
        async with anyio.create_task_group() as tasks:
            for arrival, (purpose, order) in enumerate(wanted):
                tasks.start_soon(want, budget, purpose, order, arrival)
                await checkpoint()

    run_virtually(world)
    assert given_to == sorted((purpose, order, arrival) for arrival, (purpose, order) in enumerate(wanted))


def test_the_work_for_a_slot_does_not_grow_with_the_reports_that_wait() -> None:
    """After an outage thousands of outcomes wait at once: each slot is given with as few steps as among ten."""

    async def steps_for_a_slot(waiting: int) -> int:
        budget = new_budget(4)
        for _ in range(4):
            await request(budget)
        steps = itertools.count()
        async with anyio.create_task_group() as tasks:
            for _ in range(waiting):
                tasks.start_soon(request, budget, Purpose.REPORT)
            await settle()
            with calls_counted(steps):
                await anyio.sleep(WINDOW)
            tasks.cancel_scope.cancel()
        return next(steps)

    few, many = (run_virtually(partial(steps_for_a_slot, waiting)) for waiting in (10, 1000))
    assert many <= 2 * few


def test_a_report_that_comes_late_still_goes_before_a_poll_that_waits() -> None:
    """A poll that is first in line steps back for a report, and gets the next slot it may have."""

    async def world() -> list[float]:
        budget = new_budget(4)
        sent: dict[str, float] = {}

        async def want(name: str, purpose: Purpose, start: float) -> None:
            await anyio.sleep_until(start)
            sent[name] = await request(budget, purpose)

        async with anyio.create_task_group() as tasks:
            for start in range(4):
                tasks.start_soon(want, f"first {start}", Purpose.REPORT, float(start))
            tasks.start_soon(want, "poll", Purpose.POLL, 10.0)
            tasks.start_soon(want, "report", Purpose.REPORT, 50.0)
        return [sent["report"], sent["poll"]]

    # The poll has the slot after the report's: that for its own report is free a second later.
    assert run_virtually(world) == [60.0, 61.0]


def test_a_flood_of_files_leaves_room_for_polls() -> None:
    """Files go before polls, but take at most half of a window while a poll waits."""

    async def world() -> dict[Purpose, list[float]]:
        budget = new_budget(8)
        sent: dict[Purpose, list[float]] = {Purpose.FILES: [], Purpose.POLL: []}

        async def want(purpose: Purpose) -> None:
            sent[purpose].append(await request(budget, purpose))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(want, Purpose.FILES)
            for _ in range(6):
                tasks.start_soon(want, Purpose.POLL)
        return sent

    sent = run_virtually(world)
    assert sent[Purpose.FILES][:8] == [0.0] * 4 + [60.0] * 4
    assert sent[Purpose.POLL] == [0.0] * 3 + [60.0] * 3


@pytest.mark.parametrize("leaves_at", [5.0, 30.0, 60.0])
def test_a_waiter_that_is_cancelled_gives_its_place_back(leaves_at: float) -> None:
    """Who stops waiting, at the head or behind, holds nobody up and holds no slot."""

    async def world() -> list[float]:
        budget = new_budget(1)
        sent = []

        async def want(patience: float) -> None:
            with anyio.move_on_after(patience):
                sent.append(await request(budget))

        async with anyio.create_task_group() as tasks:
            for patience in (math.inf, leaves_at, math.inf, leaves_at, math.inf):
                tasks.start_soon(want, patience)
        return sent

    assert run_virtually(world) in ([0.0, 60.0, 120.0], [0.0, 60.0, 120.0, 180.0])


@dataclass
class SlowLedger(NotingLedger):
    """A ledger that takes its time, as a database does."""

    seconds: float = 0.5

    async def take(self, demand: Demand) -> int | float:
        """See Ledger."""
        taken = await super().take(demand)
        await anyio.sleep(self.seconds)
        return taken


def test_a_slot_taken_for_a_cancelled_caller_is_given_back() -> None:
    """A cancellation in the middle of taking a slot loses none."""

    async def world() -> list[str]:
        ledger = SlowLedger(now=anyio.current_time)
        with anyio.move_on_after(0.2):
            with await new_budget(4, ledger).slot(Purpose.REPORT):
                await checkpoint()
        return ledger.notes

    assert run_virtually(world) == ["taken", "given back"]


def test_two_in_the_middle_of_taking_are_both_served() -> None:
    """While a slow ledger is asked for a poll, a report that comes is asked for too, and neither is forgotten."""

    async def world() -> dict[str, float]:
        budget = new_budget(4, SlowLedger(now=anyio.current_time))
        sent = {}

        async def want(purpose: Purpose, start: float) -> None:
            await anyio.sleep_until(start)
            sent[purpose.name] = await request(budget, purpose)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(want, Purpose.POLL, 0.0)
            tasks.start_soon(want, Purpose.REPORT, 0.25)
        return sent

    assert run_virtually(world) == {"POLL": 0.5, "REPORT": 0.75}


# ── Never claim what cannot be reported. ──


@given(st.integers(4, 60), st.integers(0, 80), st.sampled_from(LOWER))
@settings(deadline=None)
def test_a_poll_leaves_the_slots_that_reports_will_need(limit: int, unreported: int, purpose: Purpose) -> None:
    """Polls stop while a report for each of the unreported, up to half the limit, and for one more, can be paid."""

    async def world() -> tuple[int, int]:
        budget = new_budget(limit, unreported=lambda: unreported)
        polls = reports = 0
        with anyio.move_on_after(1):
            while True:
                await request(budget, purpose)
                polls += 1
        with anyio.move_on_after(1):
            while True:
                await request(budget)
                reports += 1
        return polls, reports

    polls, reports = run_virtually(world)
    assert polls + reports == limit
    assert polls >= 1
    assert reports == min(min(unreported, limit // 2) + 1, limit - 1)


def test_a_nudged_poll_goes_as_soon_as_its_reserve_allows() -> None:
    """When less is unreported than before, a poll that waits looks again at once."""

    async def world() -> float:
        owed = 2
        budget = new_budget(6, unreported=lambda: owed)
        for _ in range(4):
            await request(budget)
        sent: list[float] = []

        async def poll() -> None:
            sent.append(await request(budget, Purpose.POLL))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await anyio.sleep(10)
            owed = 0
            budget.nudge()
        return sent[0]

    assert run_virtually(world) == 10.0


def test_of_two_workers_that_wait_for_a_slot_the_one_that_gives_way_comes_later() -> None:
    """Where a slot is free it gives way to nobody; where none is, it looks that much later than there may be one."""

    async def check() -> None:
        ledger = MemoryLedger(now=anyio.current_time)
        polite, other = new_budget(2, ledger), new_budget(2, ledger)
        polls: list[tuple[str, float]] = []

        async def poll(budget: Budget, name: str, seconds: float) -> None:
            with await budget.slot(Purpose.POLL, gives_way=lambda: seconds) as slot:
                await slot.use()
                slot.answered()
                polls.append((name, anyio.current_time()))

        async with anyio.create_task_group() as both:
            both.start_soon(poll, polite, "polite", 3.0)
            await settle()
            both.start_soon(poll, polite, "polite", 3.0)
            await settle()
            both.start_soon(poll, other, "other", 0.0)
        assert polls == [("polite", 0.0), ("other", WINDOW), ("polite", 2 * WINDOW + 3.0)]

    run_virtually(check)


def test_an_answer_brings_the_next_waiter_forward() -> None:
    """A slot is first taken for the longest request; its answer lets who waits for it go sooner."""

    async def world() -> float:
        budget = new_budget(1)
        with await budget.slot(Purpose.REPORT) as slot:
            await slot.use()
            async with anyio.create_task_group() as tasks:
                sent: list[float] = []

                async def next_one() -> None:
                    sent.append(await request(budget))

                tasks.start_soon(next_one)
                await anyio.sleep(3)
                slot.answered()
        return sent[0]

    assert run_virtually(world) == 63.0


def test_a_last_look_that_is_slow_holds_its_slot_anew() -> None:
    """A slow journal slows a report and does not stop it: with the next slot the look would take as long."""
    looks = itertools.count(1)

    async def world() -> tuple[float, float]:
        budget = new_budget(1)

        async def look() -> None:
            next(looks)
            await anyio.sleep(5 * STALE_AFTER)

        with await budget.slot(Purpose.REPORT) as slot:
            await slot.use(look)
            sent = anyio.current_time()
            slot.answered()
        return sent, await request(budget)

    sent, next_one = run_virtually(world)
    assert (sent, next_one, next(looks)) == (5 * STALE_AFTER, 5 * STALE_AFTER + WINDOW, 2)


def test_a_request_that_is_long_in_sending_keeps_its_slot() -> None:
    """An upload of ten minutes may be counted by the platform when its last byte arrives, or its first."""

    async def upload() -> None:
        budget = new_budget(4)
        async with anyio.create_task_group() as others:
            with await budget.slot(Purpose.FILES) as slot:
                await slot.use()
                for _ in range(60):
                    await anyio.sleep(10)
                    slot.prolong()
                assert budget.used() == 1
                slot.answered()
            started = anyio.current_time()
            for _ in range(3):
                others.start_soon(request, budget)
            await settle()
            assert budget.used() == 4
            # The fourth waits for the upload's slot: a window from its answer.
            assert await request(budget) == started + WINDOW

    run_virtually(upload)


def test_a_slot_given_back_goes_to_the_next_waiter_at_once() -> None:
    """Nobody waits for a timer when a slot becomes free before it."""

    async def world() -> float:
        budget = new_budget(1)
        sent: list[float] = []

        async def next_one() -> None:
            sent.append(await request(budget))

        async with anyio.create_task_group() as tasks:
            with await budget.slot(Purpose.POLL):
                tasks.start_soon(next_one)
                await anyio.sleep(3)
        return sent[0]

    assert run_virtually(world) == 3.0


# ── Slots and stopped processes. ──


@pytest.mark.parametrize(
    ("stopped", "notes"),
    [(STALE_AFTER, ["taken"]), (STALE_AFTER + 0.1, ["taken", "given back", "taken"])],
    ids=["a moment", "too long"],
)
def test_a_slot_from_before_a_stop_is_exchanged(stopped: float, notes: list[str]) -> None:
    """A sender that was stopped between taking a slot and sending takes a new one."""

    async def world() -> list[str]:
        ledger = NotingLedger(now=anyio.current_time)
        with await new_budget(4, ledger).slot(Purpose.POLL) as slot:
            stop_the_process(stopped)
            await slot.use()
        return ledger.notes

    assert run_virtually(world) == notes


@pytest.mark.parametrize("seconds", [STALE_AFTER, 5.0, 50.0])
def test_a_slow_ledger_slows_requests_and_does_not_stop_them(seconds: float) -> None:
    """A slot that took long to get is used, and held for as long after that as one that was got at once."""

    async def world() -> tuple[list[str], list[int]]:
        ledger = SlowLedger(now=anyio.current_time, seconds=seconds)
        held = []
        with await new_budget(4, ledger).slot(Purpose.REPORT) as slot:
            await slot.use()
            for wait in (LONGEST_REQUEST + 60.0 - 0.1, 0.2):
                await anyio.sleep(wait)
                held.append(ledger.used())
        return ledger.notes, held

    assert run_virtually(world) == (["taken", "answered"], [1, 0])


def test_after_a_stop_the_window_that_others_filled_meanwhile_is_respected() -> None:
    """The exchanged slot is waited for like any other, on a ledger that others share."""

    async def world() -> float:
        ledger = MemoryLedger(now=anyio.current_time)
        ours, others = new_budget(4, ledger), new_budget(4, ledger)
        with await ours.slot(Purpose.REPORT) as slot:
            stop_the_process(100)
            for _ in range(4):
                await request(others)
            await slot.use()
            return anyio.current_time()

    assert run_virtually(world) == 160.0


def test_an_unused_slot_is_free_after_its_block_and_a_used_one_is_not() -> None:
    """Only a request that may have left costs a slot; one that certainly did not is given back."""

    async def world() -> list[int]:
        ledger = MemoryLedger(now=anyio.current_time)
        budget = new_budget(10, ledger)
        free = []

        def count() -> None:
            numbers = list(itertools.takewhile(lambda it: isinstance(it, int), iter(lambda: _take(ledger), None)))
            free.append(len(numbers))
            for number in numbers:
                ledger.give_back(int(number))

        with await budget.slot(Purpose.REPORT):
            count()
        count()
        with await budget.slot(Purpose.REPORT) as slot:
            await slot.use()
            slot.unsent()
        count()
        with await budget.slot(Purpose.REPORT) as slot:
            await slot.use()
        count()
        return free

    assert run_virtually(world) == [9, 10, 10, 9]


def _take(ledger: MemoryLedger) -> int | float:
    return at_once(ledger.take(Demand(limit=10, hold=82)))


# ── No limit, somebody else's requests, and scopes. ──


def test_without_a_limit_nobody_waits_and_no_ledger_is_kept() -> None:
    """A limit of 0 is no limit at all."""

    async def world() -> tuple[float, list[str]]:
        ledger = NotingLedger(now=anyio.current_time)
        budget = new_budget(0, ledger)
        for _ in range(1000):
            await request(budget, Purpose.LOG)
        with await budget.slot(Purpose.POLL) as slot:
            stop_the_process(5)
            await slot.use()
        return anyio.current_time(), ledger.notes

    assert run_virtually(world) == (5.0, [])


@pytest.mark.parametrize(
    ("said", "wait"), [([30.0], 30.0), ([30.0, 5.0], 30.0), ([5.0, 30.0], 30.0), ([None], 15.0), ([0.0], 0.0)]
)
def test_after_a_refusal_nothing_is_sent_for_as_long_as_was_asked(said: list[float | None], wait: float) -> None:
    """Retry-After is obeyed by every purpose, the longest one wins, and without one a slot's share of the window."""

    async def world() -> list[float]:
        budget = new_budget(4)
        for seconds in said:
            budget.refused(seconds)
        return [await request(budget), await request(budget, Purpose.RECOVER)]

    assert run_virtually(world) == [wait, wait]


def test_a_refusal_holds_back_those_who_wait_already() -> None:
    """A waiter whose slot comes free before the platform allows requests again waits on."""

    async def world() -> float:
        budget = new_budget(1)
        await request(budget)
        sent: list[float] = []

        async def next_one() -> None:
            sent.append(await request(budget))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(next_one)
            await settle()
            budget.refused(90.0)
        return sent[0]

    assert run_virtually(world) == 90.0


@pytest.mark.parametrize(("scope", "moments"), [("account", [0.0, 60.0, 120.0]), ("resource", [0.0, 0.0, 60.0])])
def test_the_limit_stands_for_the_account_or_for_each_page_of_the_api(scope: str, moments: list[float]) -> None:
    """By default all routes share the limit; with the scope `resource` each has its own."""

    async def world() -> list[float]:
        budget = new_budget(1, scope=scope)
        return [await request(budget, resource=resource) for resource in ("tasks", "files", "tasks")]

    assert run_virtually(world) == moments


def test_each_wait_is_told() -> None:
    """A request tells for how long its purpose had to wait."""

    async def world() -> list[Event]:
        told: list[Event] = []
        budget = new_budget(1, emit=told.append)
        await request(budget)
        await request(budget, Purpose.FILES)
        return told

    assert run_virtually(world) == [
        BudgetWaited(purpose="report", seconds=0.0),
        BudgetWaited(purpose="files", seconds=60.0),
    ]

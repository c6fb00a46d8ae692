"""What the real poller, schedule and budget make of the requests, in virtual hours."""

from __future__ import annotations

import math
import random
import statistics
from functools import partial

import pytest

from product_live_worker.product_live.budget import PATIENCE, REPORT_WITHIN, Purpose
from support.account import WINDOW, Account, Record, asking
from support.simulation import RoundRobin, Simulation, at_random, percentile

HOUR = 3600.0
RARE = [f"rare {number}" for number in range(7)]


def hot(count: int = 3000) -> list[float]:
    """Give work that never ends."""
    return [0.0] * count


def test_a_saturated_task_gets_all_that_the_budget_allows() -> None:
    """At least 24.7 executions a minute, the limit being 25, and never more than 50 requests in a window."""
    record = Account({"power": hot()}).run(HOUR)
    assert record.completions_a_minute(600) >= 24.7
    assert record.fullest_window() == 50


@pytest.mark.parametrize("seed", [1, 2])
def test_random_arrivals_are_picked_up_within_the_goal(seed: int) -> None:
    """An arrival every 20 s: mean pickup at most 1.5 s, p95 at most 2.6 s, and at most 26 empty polls a minute."""
    record = Account({"power": at_random(seed, 20, HOUR)}, seed=seed).run(HOUR)
    waits = record.waits("power")
    assert statistics.mean(waits) <= 1.5
    assert percentile(waits, 0.95) <= 2.6
    assert (record.polls["power"] - len(waits)) / 60 <= 26


@pytest.mark.parametrize(("round_trip", "goal"), [(0.02, 20), (0.05, 19), (0.15, 19)])
def test_a_burst_of_ten_is_reported_within_three_seconds(round_trip: float, goal: int) -> None:
    """At least nineteen in twenty of them: the half of a window that idle polls leave free pays for it."""
    # Not in step with the idle polls.
    starts = [120.0 * number + 0.77 * number for number in range(1, 21)]
    arrivals = [start for start in starts for _ in range(10)]
    record = Account({"power": arrivals}, round_trip=round_trip).run(starts[-1] + 60)
    last = [max(record.reported[10 * n : 10 * n + 10]) - start for n, start in enumerate(starts)]
    assert sum(seconds <= 3.0 for seconds in last) >= goal
    assert record.fullest_window() <= 50


@pytest.mark.parametrize("every", [900.0, 1e9], ids=["rare work", "no work"])
@pytest.mark.parametrize(("staleness", "polls"), [(60.0, 7), (30.0, 14)])
def test_one_saturated_task_and_seven_others_share(staleness: float, polls: int, every: float) -> None:
    """98 % of what the arithmetic allows (50 = 2 completions + idle polls); nobody waits longer than staleness + 1."""
    arrivals = {task: at_random(100 + number, every, HOUR - 300) for number, task in enumerate(RARE)}
    record = Account({"hot": hot(), **arrivals}, max_staleness=staleness).run(HOUR)
    assert max((wait for task in RARE for wait in record.waits(task)), default=0) <= staleness + 1
    assert record.completions_a_minute(600) >= 0.98 * (50 - polls) / 2
    assert record.fullest_window() <= 50


def test_what_is_claimed_can_be_reported() -> None:
    """Also when a backlog makes polls overlap, a claim's report has its slot within a twentieth of the window."""
    arrivals = {task: at_random(200 + number, 900, HOUR - 300) for number, task in enumerate(RARE)}
    record = Account({"hot": hot(), **arrivals}).run(HOUR)
    assert len(record.owed) > 1000
    assert max(record.owed) <= WINDOW * REPORT_WITHIN + 0.2


def test_skewed_arrivals_are_picked_up_sooner_than_by_turns() -> None:
    """One busy task and seven rare ones: mean pickup at most 0.7 of round robin's at equal spending."""
    span = 6 * HOUR
    arrivals = {task: at_random(number, 1200, span) for number, task in enumerate(RARE)}
    arrivals["busy"] = at_random(77, 20, span)
    ours = Account(arrivals).run(span)
    pickups = [one.claimed - one.arrived for one in ours.pickups]
    spent = ours.polls.total()
    by_turns = Simulation(RoundRobin(span / (spent - len(pickups))), arrivals).run(span)
    assert math.isclose(spent, len(by_turns.polls), rel_tol=0.02)
    assert statistics.mean(pickups) <= 0.7 * statistics.mean(by_turns.pickups())


@pytest.mark.parametrize("neighbours", [{}, {"hot": hot()}], ids=["idle", "beside work"])
def test_no_wait_is_longer_than_was_told(neighbours: dict[str, list[float]]) -> None:
    """What /status and the metric say of the longest pickup delay holds beside a task that always has work, too."""
    record = Account({"rare": at_random(7, 120, 2 * HOUR), **neighbours}).run(2 * HOUR)
    assert record.waits("rare")[-1] <= record.told["rare"] + 1.0
    assert record.told["rare"] <= (60.0 if neighbours else 3.0)


# ── Trouble of one task ──


@pytest.mark.parametrize("failing", ["bad", "hot"])
def test_a_task_whose_polls_fail_holds_no_other_up(failing: str) -> None:
    """Whether it was idle before or full of work: the others are picked up as if its polls found nothing."""
    arrivals = {"rare": at_random(3, 100, 2 * HOUR), "hot": hot(60), "bad": []}

    def later(record: Record) -> list[float]:
        return [one.claimed - one.arrived for one in record.pickups if one.task == "rare" and one.arrived > 600]

    well = later(Account(arrivals).run(2 * HOUR))
    record = Account(arrivals, fails=lambda now: {failing} if now > 120 else ()).run(2 * HOUR)
    assert statistics.mean(later(record)) <= 1.25 * statistics.mean(well)
    assert max(later(record)) <= 1.25 * max(well)
    # Once a minute at most, when it has failed for some minutes.
    assert record.polls[failing] <= 60 + 2 * 60 * 1.6


def test_a_task_whose_poll_failed_is_asked_again_before_it_has_waited_twice_as_long() -> None:
    """A poll without an answer is none: one failure does not cost a task another max_staleness."""
    chance = random.Random(4)
    arrivals = {"hot": hot(), "rare": at_random(5, 60, HOUR)}
    record = Account(arrivals, fails=lambda _: {"rare"} if chance.random() < 0.3 else ()).run(HOUR)
    assert record.waits("rare")[-1] <= 60 + 15


# ── What is less urgent ──


@pytest.mark.parametrize("purpose", [Purpose.DEFINE, Purpose.WATCH])
@pytest.mark.parametrize("tasks", [1, 20])
def test_what_is_less_urgent_than_polls_comes_to_its_turn(purpose: Purpose, tasks: int) -> None:
    """Beside tasks that always have work, too: new tasks are learnt of, and whether an execution is still wanted."""
    waits: list[float] = []
    watched = partial(asking, purpose=purpose, every=600.0, waits=waits)
    record = Account({f"hot {number}": hot(300) for number in range(tasks)}).run(HOUR, watched)
    assert len(waits) >= 3
    assert max(waits) <= (PATIENCE[purpose] + 1) * WINDOW
    assert record.fullest_window() <= 50


def test_what_is_less_urgent_takes_next_to_nothing_from_a_busy_task() -> None:
    """A watch that asks every five seconds takes a slot in five windows, not one in six."""
    watched = partial(asking, purpose=Purpose.WATCH, every=5.0, waits=[])
    record = Account({"hot": hot()}).run(HOUR, watched)
    assert record.completions_a_minute(600) >= 24.5

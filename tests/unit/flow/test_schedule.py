"""Which task is polled next, and when: the laws of the schedule, on a clock of our own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_live_worker.flow.schedule import JITTER, Schedule, share_out
from support.simulation import Simulation, at_random, percentile, schedule

HALF = 0.5


def middling() -> float:
    """Leave nothing to chance."""
    return HALF


def serving(*tasks: str, **settings: float) -> Schedule:
    """Make a schedule of 50 a minute that serves these tasks."""
    given = {"limit": 50, "window": 60.0, "idle_share": 0.5, "max_staleness": 60.0, **settings}
    made = Schedule(**given, chance=middling)  # type: ignore[arg-type]
    made.serve(tasks)
    return made


def free(_: str) -> int:
    """Have room for anything."""
    return 100


def poll(made: Schedule, task: str, now: float, outcome: str) -> None:
    """Poll a task, and hear at once how it went."""
    made.started(task, now)
    made.observed(task, now, outcome)  # type: ignore[arg-type]


def test_a_task_never_polled_is_due_at_once() -> None:
    """A start polls every task before it waits for any."""
    made = serving("a", "b")
    first = made.next(0.0, free)
    assert first is not None
    poll(made, first.task, 0.0, "empty")
    second = made.next(0.0, free)
    assert second is not None
    assert {first.task, second.task} == {"a", "b"}


def test_idle_polls_spend_their_share_and_no_more() -> None:
    """One idle task is polled evenly, 25 times a minute at a share of one half."""
    made = serving("a")
    poll(made, "a", 0.0, "empty")
    plan = made.next(0.0, free)
    assert plan is not None
    assert plan.at == pytest.approx(2.4)


def test_after_a_hit_the_same_task_is_asked_again_at_once() -> None:
    """Work seldom comes alone."""
    made = serving("a", "b")
    poll(made, "a", 0.0, "empty")
    poll(made, "b", 1.0, "hit")
    plan = made.next(1.0, free)
    assert plan is not None
    assert (plan.task, plan.at <= 1.0) == ("b", True)
    poll(made, "b", 1.0, "empty")
    plan = made.next(1.0, free)
    assert plan is not None
    assert plan.at > 1.0


def test_no_task_waits_longer_than_its_staleness_for_a_hot_one() -> None:
    """However hot another is, a task that was not polled for max_staleness goes first."""
    made = serving("hot", "rare")
    poll(made, "rare", 0.0, "empty")
    poll(made, "hot", 59.9, "hit")
    plan = made.next(60.0, free)
    assert plan is not None
    assert plan.task == "rare"


def test_no_idle_poll_slips_in_while_a_busy_tasks_own_is_in_the_air() -> None:
    """Where requests are scarce, only a stale task is asked beside one that is known to have work."""
    made = serving("busy", "idle")
    poll(made, "idle", 0.0, "empty")
    poll(made, "busy", 1.0, "hit")
    made.started("busy", 30.0)
    plan = made.next(30.0, free)
    assert plan is not None
    assert (plan.task, plan.at > 55.0) == ("idle", True)


def test_a_busy_task_whose_slots_are_full_holds_nobody_up() -> None:
    """What cannot be polled needs no request."""
    made = serving("busy", "idle")
    poll(made, "idle", 0.0, "empty")
    poll(made, "busy", 1.0, "hit")
    plan = made.next(30.0, lambda task: int(task == "idle"))
    assert plan is not None
    assert (plan.task, plan.at <= 30.0) == ("idle", True)


def test_a_task_without_a_free_slot_is_not_polled() -> None:
    """Capacity comes before work, and a poll in the air counts."""
    made = serving("a", "b")
    assert made.next(0.0, lambda _: 0) is None
    plan = made.next(0.0, lambda task: int(task == "b"))
    assert plan is not None
    assert plan.task == "b"
    made.started("b", 0.0)
    assert made.next(0.0, lambda task: int(task == "b")) is None


def test_as_a_burst_goes_on_its_polls_overlap() -> None:
    """Ten executions at once cost five round trips, not ten; a single hit is followed by a single poll."""
    made, rounds, left = serving("a"), 0, 10
    while left:
        in_the_air = 0
        while (plan := made.next(float(rounds), free)) is not None and plan.at <= rounds:
            made.started("a", float(rounds))
            in_the_air += 1
        rounds += 1
        for _ in range(in_the_air):
            made.observed("a", float(rounds), "hit" if left else "empty")
            left = max(0, left - 1)
    assert rounds == 5


def test_a_failed_poll_teaches_nothing() -> None:
    """What failed says nothing of the task's work."""
    made = serving("a")
    before = made.interval("a")
    made.started("a", 0.0)
    made.observed("a", 0.0, "failed")
    assert made.interval("a") == before


@given(
    st.dictionaries(st.text(max_size=3), st.floats(0.01, 1000), min_size=1, max_size=30),
    st.floats(0.1, 100),
    st.floats(0.0001, 1),
)
def test_what_is_shared_out_is_all_there_is_and_leaves_nobody_short(
    weights: dict[str, float], total: float, at_least: float
) -> None:
    """The shares make the total, and none is below its least where that is possible."""
    shares = share_out(total, weights, at_least=at_least)
    assert math.isclose(sum(shares.values()), total, rel_tol=1e-6)
    least = at_least if at_least * len(weights) < total else total / len(weights)
    assert min(shares.values()) >= least * (1 - 1e-9)


def test_a_share_goes_with_the_square_root_of_the_arrivals() -> None:
    """Four times the work gets twice the polls."""
    shares = share_out(9.0, {"busy": math.sqrt(4.0), "quiet": math.sqrt(1.0)}, at_least=0.001)
    assert shares == pytest.approx({"busy": 6.0, "quiet": 3.0})


def test_where_staleness_does_not_fit_the_idle_share_wins() -> None:
    """A hundred tasks cannot each be asked every minute: each waits its equal part, and the bound says so."""
    made = serving(*(f"t{number}" for number in range(100)))
    assert made.interval("t0") == pytest.approx(100 / (25 / 60))
    assert made.waits()["t0"] <= made.interval("t0") * (1 + JITTER)


def test_random_arrivals_are_picked_up_soon_within_half_of_the_budget() -> None:
    """One arrival in 20 s: picked up after 1.5 s on average, 2.6 s at the 95th percentile, 26 empty polls a minute."""
    hours = 2 * 3600.0
    record = Simulation(schedule(1), {"a": at_random(1, 20, hours - 60)}).run(hours)
    pickups = record.pickups("a")
    assert sum(pickups) / len(pickups) <= 1.5
    assert percentile(pickups, 0.95) <= 2.6
    assert sum(not hit for _, _, hit in record.polls) / (hours / 60) <= 26


def test_a_saturated_task_gets_nearly_all_there_is_beside_idle_ones() -> None:
    """Eight tasks, one saturated: the rare ones are never forgotten, and cost little."""
    end = 1200.0
    arrivals = {"hot": [0.0] * 800} | {f"r{n}": at_random(n, 300, end - 200) for n in range(7)}
    record = Simulation(schedule(1), arrivals).run(end)
    assert max(record.pickups(*(f"r{n}" for n in range(7)))) <= 61
    assert record.completions(300, end) / 15 >= 0.97 * 21.5

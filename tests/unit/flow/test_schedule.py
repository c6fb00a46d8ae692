"""Which task to poll next, and when: the laws of the plan. What they give in hours: test_speed.py."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from product_live_worker.flow.schedule import JITTER, UNLIMITED_INTERVAL, Plan, Schedule, share_out

HOUR = 3600.0
RARE = [f"rare {number}" for number in range(7)]
Capacity = Callable[[str], int]


def plenty(_: str) -> int:
    """Every task has free slots."""
    return 1000


def a_schedule(*tasks: str, chance: float = 0.5, **more: float) -> Schedule:
    """Give a schedule whose chance always falls the same way; by default it jitters nothing."""
    given_settings = {"limit": 50, "window": 60.0, "idle_share": 0.5, "max_staleness": 60.0, **more}
    made = Schedule(**given_settings, chance=lambda: chance)  # type: ignore[arg-type]
    made.serve(tasks)
    return made


def due(plan: Plan | None) -> Plan:
    """Insist on a plan."""
    assert plan is not None
    return plan


def poll(made: Schedule, now: float, capacity: Capacity = plenty, *, hits: bool = False) -> str:
    """Make the next poll, which takes no time; gives its task."""
    plan = due(made.next(now, capacity))
    assert plan.at <= now
    made.started(plan.task, now)
    made.observed(plan.task, now, "hit" if hits else "empty")
    return plan.task


def idle(made: Schedule, seconds: float, capacity: Capacity = plenty) -> dict[str, list[float]]:
    """Poll as planned, and find nothing; gives the moments by task."""
    moments: dict[str, list[float]] = {}
    now = 0.0
    while (plan := due(made.next(now, capacity))).at <= seconds:
        now = max(now, plan.at)
        moments.setdefault(poll(made, now, capacity), []).append(now)
    return moments


def gaps(moments: list[float]) -> list[float]:
    """Give the seconds between each moment and the next."""
    return [after - before for before, after in pairwise(moments)]


# ── Sharing out. ──

TASKS = st.integers(1, 30).map(lambda count: [f"t{number}" for number in range(count)])
WEIGHTS = st.floats(1e-6, 1e3)


@given(st.floats(0.01, 100), st.dictionaries(st.text(max_size=3), WEIGHTS, min_size=1, max_size=30), st.floats(0, 10))
def test_what_is_shared_out_is_the_total(total: float, weights: dict[str, float], at_least: float) -> None:
    """Nothing is lost in sharing out and nothing is added: the sum is the total, and everybody has a part."""
    shares = share_out(total, weights, at_least=at_least)
    assert shares.keys() == weights.keys()
    assert math.isclose(sum(shares.values()), total, rel_tol=1e-9)
    assert all(share > 0 for share in shares.values())


@given(st.floats(0.01, 100), st.dictionaries(st.text(max_size=3), WEIGHTS, min_size=1, max_size=30), st.floats(0, 10))
def test_nobody_has_less_than_the_least_while_there_is_enough(
    total: float, weights: dict[str, float], at_least: float
) -> None:
    """Everybody has `at_least` where that is possible, and all have the same where it is not."""
    shares = share_out(total, weights, at_least=at_least)
    if at_least * len(weights) < total:
        assert all(share >= at_least * (1 - 1e-9) for share in shares.values())
    else:
        assert len(set(shares.values())) == 1


@given(st.floats(0.01, 100), st.dictionaries(st.text(max_size=3), WEIGHTS, min_size=1, max_size=30), st.floats(0, 10))
def test_what_is_above_the_least_goes_by_weight(total: float, weights: dict[str, float], at_least: float) -> None:
    """A heavier task has never less, and those above the least are in proportion to their weights."""
    shares = share_out(total, weights, at_least=at_least)
    order = sorted(weights, key=lambda task: weights[task])
    assert all(shares[a] <= shares[b] * (1 + 1e-9) for a, b in pairwise(order))
    rich = [task for task in weights if shares[task] > at_least * (1 + 1e-6)] if at_least * len(weights) < total else []
    ratios = [shares[task] / weights[task] for task in rich]
    assert not ratios or math.isclose(min(ratios), max(ratios), rel_tol=1e-6)


# ── Idle polls. ──


def test_the_idle_polls_of_one_task_are_evenly_spaced_over_the_idle_share() -> None:
    """Half of fifty in a minute is a poll every 2.4 s."""
    moments = idle(a_schedule("power"), 600)["power"]
    assert moments[0] == 0
    assert all(math.isclose(gap, 2.4) for gap in gaps(moments))


@given(st.integers(1, 80), st.sampled_from([0.1, 0.5, 1.0]), st.sampled_from([10.0, 60.0, 300.0]), st.integers())
@settings(max_examples=25)
def test_idle_polls_keep_within_the_idle_share(count: int, share: float, staleness: float, seed: int) -> None:
    """However many tasks there are, also more than can be polled in time, idle polls spend their share only."""
    chance = random.Random(seed).random
    made = Schedule(limit=50, window=60.0, idle_share=share, max_staleness=staleness, chance=chance)
    made.serve([f"t{number}" for number in range(count)])
    polls = sum(len(moments) for moments in idle(made, 1200.0).values())
    # The first poll of each task is at once; jitter and staleness may cost a few percent.
    assert polls - count <= 1.07 * share * 50 / 60 * 1200.0


@given(st.floats(0, 1))
def test_jitter_is_bounded(chance: float) -> None:
    """Chance moves a poll by at most a twentieth of its interval, so replicas drift apart and no plan is lost."""
    moments = idle(a_schedule("power", chance=chance), 60)["power"]
    assert all(2.4 * (1 - JITTER / 2) - 1e-9 <= gap <= 2.4 * (1 + JITTER / 2) + 1e-9 for gap in gaps(moments))


def test_chance_spreads_the_polls() -> None:
    """Two replicas that start together do not keep step."""
    one, other = (
        Schedule(limit=50, window=60, idle_share=0.5, max_staleness=60, chance=random.Random(seed).random)
        for seed in (1, 2)
    )
    for made in (one, other):
        made.serve(["power"])
    assert not set(idle(one, 60)["power"][1:]) & set(idle(other, 60)["power"][1:])


def test_where_no_limit_holds_every_task_is_polled_five_times_a_second() -> None:
    """Without a limit nothing has to be shared."""
    made = a_schedule("a", "b", limit=0)
    assert made.interval("a") == made.interval("b") == UNLIMITED_INTERVAL
    assert all(math.isclose(gap, 0.2) for moments in idle(made, 10).values() for gap in gaps(moments))


def test_the_share_of_a_task_goes_with_the_root_of_its_arrivals() -> None:
    """A task with sixteen times the work of another is polled about four times as often."""
    made = a_schedule("busy", "rare", max_staleness=600)
    now = 0.0
    work = {"busy": 10.0, "rare": 160.0}
    served = dict.fromkeys(work, 0.0)
    while now < 4 * HOUR:
        plan = due(made.next(now, plenty))
        now = max(now, plan.at)
        found = served[plan.task] + work[plan.task] <= now
        served[plan.task] += work[plan.task] * found
        poll(made, now, hits=found)
    assert 3.4 < made.interval("rare") / made.interval("busy") < 4.6


def test_an_estimate_follows_what_happens_lately() -> None:
    """A task that was busy and no longer is falls back to its neighbours' share within hours."""
    made = a_schedule("once busy", "never")
    for second in range(600):
        made.started("once busy", second)
        made.observed("once busy", second, "hit" if second % 5 == 0 else "empty")
    assert made.interval("once busy") < made.interval("never") / 2
    now = 600.0
    while now < 6 * HOUR:
        now = max(now, due(made.next(now, plenty)).at)
        poll(made, now)
    assert math.isclose(made.interval("once busy"), made.interval("never"), rel_tol=0.1)


# ── Work. ──


def test_a_task_that_had_work_is_polled_again_at_once() -> None:
    """After a hit the same task is next, until a poll finds nothing."""
    made = a_schedule("a", "b")
    assert poll(made, 0.0) == "a"
    assert poll(made, 0.0, hits=True) == "b"
    again = due(made.next(0.1, plenty))
    assert (again.task, again.at <= 0.1, again.why) == ("b", True, "it just had work")
    poll(made, 0.1)
    assert due(made.next(0.2, plenty)).at > 0.2


def test_a_task_is_polled_one_at_a_time() -> None:
    """While a poll of a task is in the air, another one could only find out the same."""
    made = a_schedule("a")
    made.started("a", 0.0)
    assert made.next(1000.0, plenty) is None
    made.observed("a", 1000.0, "hit")
    assert due(made.next(1000.0, plenty)).task == "a"


@pytest.mark.parametrize(("limit", "expected"), [(50, [1, 4, 4]), (0, [8, 8, 8])], ids=["scarce", "no limit"])
def test_the_polls_of_a_burst_overlap(limit: int, expected: list[int]) -> None:
    """From the second hit in a row on, several polls are in the air together, up to a bound; one miss ends it."""
    made = a_schedule("a", limit=limit)
    in_the_air = []
    for _ in expected:
        poll(made, 0.0, hits=True)
        count = 0
        while (plan := made.next(0.0, plenty)) is not None and plan.at <= 0.0:
            made.started("a", 0.0)
            count += 1
        for _ in range(count):
            made.observed("a", 0.0, "hit")
        in_the_air.append(count)
    assert in_the_air == expected
    poll(made, 0.0)
    assert due(made.next(0.0, plenty)).at > 0.0


def saturate(made: Schedule, polls: int, now: float = 0.0) -> None:
    """Let the task "hot" have work at so many polls."""
    for _ in range(polls):
        made.started("hot", now)
        made.observed("hot", now, "hit")


def test_a_task_with_work_for_longer_than_a_window_is_polled_at_an_even_pace() -> None:
    """What was spent in one go would come back in one go: after 50 hits in a row, its polls are spaced."""
    made = a_schedule("hot")
    saturate(made, 50)
    assert due(made.next(0.0, plenty)).at == 0.0
    saturate(made, 1)
    assert 2.3 < due(made.next(0.0, plenty)).at < 2.4


def test_the_pace_leaves_the_others_their_polls() -> None:
    """Seven others that are polled once a minute take seven slots: the pace is that of the other 43."""
    made = a_schedule("hot", *RARE)
    for task in RARE:
        made.started(task, 0.0)
        made.observed(task, 0.0, "empty")
    saturate(made, 51)
    assert math.isclose(due(made.next(0.0, plenty)).at, 120 / 43, rel_tol=0.02)


def test_a_poll_with_work_promises_the_others_theirs() -> None:
    """Within a window, each moment at which another has waited for max_staleness is told, with its report's slot."""
    made = a_schedule("hot", "a", "b", "busy", max_staleness=25.0)
    free = {"hot": 9, "a": 1, "b": 1, "busy": 0}
    for moment, task in ((0.0, "a"), (10.0, "b"), (10.0, "busy"), (10.0, "hot")):
        made.started(task, moment)
        made.observed(task, moment, "hit" if task == "hot" else "empty")
    assert made.promised(10.0, free.__getitem__) == [16.0, 16.0, 26.0, 26.0, 41.0, 41.0, 51.0, 51.0]
    saturate(made, 50, 10.0)
    assert made.promised(10.0, free.__getitem__) == [16.0, 26.0, 41.0, 51.0]
    # What has waited so long itself leaves nothing to others.
    assert made.promised(26.0, free.__getitem__) == []


def test_workers_on_one_database_divide_the_idle_polls() -> None:
    """Two workers ask half as often each; when one is gone, the other asks for both again."""
    made = a_schedule("a", "b")
    alone = made.interval("a")
    made.divide(2)
    assert math.isclose(made.interval("a"), 2 * alone)
    made.divide(1)
    assert math.isclose(made.interval("a"), alone)


def test_where_no_limit_holds_nothing_is_promised() -> None:
    """Without a limit there is a slot for everybody."""
    made = a_schedule("hot", "a", limit=0)
    saturate(made, 60)
    assert made.promised(0.0, plenty) == []
    assert due(made.next(0.0, plenty)).at <= 0.0


def test_a_failed_poll_says_nothing_of_the_task() -> None:
    """A failure neither makes a task hot nor teaches that it is idle; its next poll is an interval away."""
    made = a_schedule("a")
    made.started("a", 0.0)
    made.observed("a", 0.0, "failed")
    assert math.isclose(due(made.next(0.0, plenty)).at, 2.4)


def test_no_task_without_a_free_slot_is_polled() -> None:
    """Capacity before work: a busy task is passed over, and when all are busy there is no plan at all."""
    free = {"a": 0, "b": 1}
    made = a_schedule("a", "b")
    assert set(idle(made, 120, lambda task: free[task])) == {"b"}
    made.started("b", 121)
    assert made.next(200, lambda task: free[task]) is None
    made.observed("b", 200, "hit")
    free["b"] = 0
    assert made.next(300, lambda task: free[task]) is None


@given(st.integers(1, 5), st.integers(0, 10))
def test_polls_in_the_air_count_against_the_free_slots(slots: int, seed: int) -> None:
    """Never are more polls of a task in the air than it has free slots, or their hits could not be run."""
    made = a_schedule("a", limit=0)
    poll(made, 0.0, hits=True)
    in_the_air = 0
    while (plan := made.next(seed, lambda _: slots)) is not None and plan.at <= seed:
        made.started("a", seed)
        in_the_air += 1
    assert in_the_air == slots


def test_no_task_waits_longer_than_its_staleness_however_hot_another_is() -> None:
    """A task with work at every poll steps back when another has waited for max_staleness."""
    made = a_schedule("hot", *RARE)
    moments: dict[str, list[float]] = {task: [] for task in ("hot", *RARE)}
    for tenth in range(6000):
        now = tenth / 10
        task = due(made.next(now, plenty)).task
        moments[task].append(now)
        made.started(task, now)
        made.observed(task, now, "hit" if task == "hot" else "empty")
    for task in RARE:
        assert max(gaps(moments[task])) <= 60.0 + 0.1 * len(RARE)
    assert len(moments["hot"]) > 5900


@given(TASKS, st.sampled_from([10.0, 60.0, 600.0]))
@settings(max_examples=25, deadline=None)
def test_the_wait_that_is_told_is_the_wait_that_is_kept(tasks: list[str], staleness: float) -> None:
    """`waits` gives for each task a bound that its idle polls keep, but for what is learnt meanwhile."""
    made = a_schedule(*tasks, max_staleness=staleness, chance=1.0)
    for task, moments in idle(made, 700).items():
        assert max(gaps(moments), default=0) <= made.waits()[task] * 1.05


def test_tasks_come_and_go() -> None:
    """What is known of a task that stays is kept, a new one is polled at once, and one that is gone is forgotten."""
    made = a_schedule("a", "b")
    poll(made, 0.0)
    poll(made, 0.0)
    made.serve(["b", "c"])
    assert poll(made, 0.1) == "c"
    made.observed("a", 0.2, "hit")
    assert set(idle(made, 300)) == {"b", "c"}
    made.serve([])
    assert made.next(400.0, plenty) is None

"""The round of idle polls that workers on one database share: pure, and in virtual time."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from random import Random

import pytest

from product_live_worker.flow.schedule import Schedule
from support.simulation import Record, Simulation, at_random, fleet, schedule

CELL = 2.4
"""Seconds between two idle polls of all workers together: half of fifty a minute."""
HOUR = 3600.0
HALF = HOUR / 2
SIZES = [1, 2, 3, 7, 16, 64]


def gaps(moments: Iterable[float]) -> list[float]:
    """Give the distances between moments, in ascending order."""
    ascending = sorted(moments)
    return sorted(later - earlier for earlier, later in itertools.pairwise(ascending))


def polls(record: Record, task: str | None = None, *, since: float = 0.0) -> list[float]:
    """Give the moments of the polls, of all tasks or of one."""
    return [at for at, polled, _ in record.polls if at >= since and task in (None, polled)]


def idle(workers: list[Schedule], tasks: str, seconds: float = HOUR) -> Record:
    """Let nothing arrive for so long."""
    return Simulation(workers[0], {task: [] for task in tasks}, others=workers[1:]).run(seconds)


@pytest.mark.parametrize("tasks", ["a", "ab", "abcde"])
@pytest.mark.parametrize("workers", SIZES[1:])
def test_no_two_workers_poll_close_together(workers: int, tasks: str) -> None:
    """All idle polls of a fleet are a cell apart, whichever task and whoever asks; so that none follows in vain."""
    # Until each has had its turn to see to a task that the others may have left out.
    begun = 60.0 * workers
    apart = gaps(polls(idle(fleet(workers), tasks, begun + HOUR), since=begun))
    assert apart[0] > 0.99 * CELL
    assert len(apart) * CELL == pytest.approx(HOUR, rel=0.02)


@pytest.mark.parametrize("tasks", ["a", "abcde"])
@pytest.mark.parametrize("workers", SIZES)
def test_a_fleet_polls_each_task_as_often_as_one_worker_would(workers: int, tasks: str) -> None:
    """Tasks that are alike get equal parts of the idle polls, spread over time however many workers share them."""
    record = idle(fleet(workers), tasks)
    for task in tasks:
        apart = gaps(polls(record, task, since=300.0))
        assert sum(apart) / len(apart) == pytest.approx(len(tasks) * CELL, rel=0.15)
        assert apart[-1] < 4.5 * len(tasks) * CELL


def test_each_worker_comes_to_each_task() -> None:
    """Also where the numbers of workers and tasks have a factor in common: each may be the only one with capacity."""
    asked: defaultdict[int, set[str]] = defaultdict(set)
    for turn, worker in enumerate(fleet(4)):
        worker.serve("abcd")
        now = 0.0
        for _ in range(8):
            plan = worker.next(now, lambda _: 1)
            assert plan is not None
            now = max(now, plan.at)
            asked[turn].add(plan.task)
            worker.started(plan.task, now)
            worker.observed(plan.task, now, "empty")
    assert list(asked.values()) == [set("abcd")] * 4


def test_the_round_follows_the_clock_that_is_shared() -> None:
    """Each process counts from a zero of its own; told how far it is behind, all agree on whose turn it is."""
    moments = []
    for turn, behind in enumerate((0.0, 1234.5, 99.9)):
        worker = schedule(turn)
        worker.serve("a")
        worker.divide(3, turn, ahead=behind)
        for _ in range(20):
            plan = worker.next(10_000.0 - behind, lambda _: 1)
            assert plan is not None
            moments.append(plan.at + behind)
            worker.started("a", plan.at)
            worker.observed("a", plan.at, "empty")
    assert gaps(moments)[0] > 0.99 * CELL


def test_a_worker_that_joins_or_leaves_changes_the_plan_and_nothing_else_does() -> None:
    """Told the same again, or of a clock a moment off, the plan stands; told of another number, it is laid anew."""
    worker = schedule(1)
    worker.serve("ab")
    assert worker.divide(4, 1, 100.0)
    before = worker.plans(0.0)
    assert not worker.divide(4, 1, 100.01)
    assert worker.plans(0.0) == before
    assert worker.divide(2, 1, 100.0)
    assert min(plan.at for plan in worker.plans(0.0).values()) <= 2 * CELL
    assert worker.divide(2, 0, 100.0)
    assert worker.divide(2, 0, 103.0)
    assert worker.divide(1)
    assert worker.interval("a") == pytest.approx(2 * CELL)


@pytest.mark.parametrize("tasks", ["a", "abcde"])
def test_workers_that_come_and_go_all_the_time_keep_nobody_from_polling(tasks: str) -> None:
    """Each time the round is laid anew, and yet a worker's polls are as many as its part of them."""
    chance, worker, polled = Random(3), schedule(1), 0
    worker.serve(tasks)
    for second in range(int(HOUR)):
        if second % 5 == 0:
            worker.divide(16, chance.randrange(16))
        plan = worker.next(second, lambda _: 1)
        if plan is not None and plan.at <= second:
            polled += 1
            worker.started(plan.task, second)
            worker.observed(plan.task, second, "empty")
    assert polled == pytest.approx(HOUR / (16 * CELL), rel=0.3)


def test_the_last_of_a_fleet_that_knows_of_work_takes_every_slot_that_is_free() -> None:
    """However long it has had work: alone it would keep a pace, but here the slots of those that are gone lie idle."""
    worker = fleet(16)[0]
    worker.serve("a")
    for nth in range(100):
        worker.started("a", float(nth))
        worker.observed("a", float(nth), "hit")
    plan = worker.next(99.0, lambda _: 100)
    assert plan is not None
    assert plan.at <= 99.0


def test_a_worker_that_joins_a_fleet_does_not_ask_for_everything_at_once() -> None:
    """The others poll already: the first polls of a newcomer are in its own cells."""
    for worker in fleet(16):
        worker.serve("abcde")
        at = sorted(plan.at for plan in worker.plans(0.0).values())
        assert at[0] > 0.0
        assert gaps(at)[-1] > CELL


@pytest.mark.parametrize("workers", SIZES)
def test_a_fleet_that_knows_of_no_task_yet_has_no_plan(workers: int) -> None:
    """A worker learns of the others before it learns of the account's tasks."""
    for worker in fleet(workers):
        assert worker.next(0.0, lambda _: 1) is None
        assert worker.plans(0.0) == {}
        assert worker.waits() == {}


def test_what_a_fleet_says_of_its_waits_is_true_of_all_its_workers_together() -> None:
    """With others beside it, a task waits no longer than without."""
    alone, many = schedule(1), fleet(8)[3]
    for each in (alone, many):
        each.serve("ab")
    assert many.expected("a") == pytest.approx(alone.expected("a")) == CELL
    assert many.waits() == pytest.approx(alone.waits())


def test_where_no_limit_holds_there_is_no_round() -> None:
    """Without a limit each polls as it would alone."""
    worker = schedule(1, limit=0)
    worker.serve("a")
    worker.divide(5, 3)
    assert worker.waits() == {"a": pytest.approx(0.21)}
    worker.started("a", 0.0)
    worker.observed("a", 0.0, "empty")
    plan = worker.next(0.0, lambda _: 1)
    assert plan is not None
    assert math.isclose(plan.at, 0.2, rel_tol=0.06)


@pytest.mark.parametrize("workers", SIZES)
def test_a_saturated_fleet_completes_what_the_budget_carries(workers: int) -> None:
    """However many share the window: 24.5 completions a minute, and no window over fifty."""
    made = fleet(workers)
    work = Simulation(made[0], {"a": [0.0] * 1000}, others=made[1:], concurrency=1, handler_seconds=1.0)
    record = work.run(HALF)
    assert record.completions(300, HALF) / 25 >= 24.5
    assert record.fullest_window() <= 50


@pytest.mark.parametrize("workers", SIZES)
def test_a_slot_is_looked_for_by_few(workers: int) -> None:
    """Of those that wait for the same slot most look when it has gone already: each look is a statement."""
    made = fleet(workers)
    record = Simulation(made[0], {"a": [0.0] * 1000}, others=made[1:], concurrency=1, handler_seconds=1.0).run(HALF)
    assert record.looks / len(record.requests) < 2 + workers / 4


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_rare_work_beside_a_saturated_task_is_found(workers: int) -> None:
    """Seven rare tasks cost a fleet what they cost one worker, and few wait longer than `max_staleness`."""
    waits: list[float] = []
    for first in (0, 7):
        made = fleet(workers)
        rare = {f"r{number}": at_random(first + number, 600, HOUR) for number in range(7)}
        record = Simulation(made[0], {"hot": [0.0] * 2000, **rare}, others=made[1:]).run(HOUR)
        assert record.completions(300, HOUR) / 55 > 20.5
        waits += record.pickups(*rare)
    assert sum(waits) / len(waits) < 40
    assert sum(wait > 66 for wait in waits) <= 0.05 * len(waits)
    # Found one turn late, of another worker, when a slot has come free.
    assert max(waits) < 2 * 60 + 5


def test_one_worker_uses_up_a_limit_of_a_thousand_although_answers_take_long() -> None:
    """Where requests are not scarce it waits for none of eight answers before it asks again."""
    work = Simulation(schedule(1, limit=1000), {"a": [0.0] * 3000}, limit=1000, round_trip=0.75)
    record = work.run(240.0)
    assert record.completions(60, 240) / 3 >= 0.95 * 500
    assert record.fullest_window() <= 1000

"""Workers and their platform in virtual time, without a loop: the real Schedule, reserve and MemoryLedger.

What is left out is what takes no time: the journal, the wire, the threads. A simulated hour takes well under a second.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from product_live_worker.flow.schedule import Plan, Schedule
from product_live_worker.model.window import Demand
from product_live_worker.product_live.budget import REPORT_WITHIN, MemoryLedger, Purpose, reserve

T = TypeVar("T")
UNANSWERED = 22.0
"""Seconds for which a request without an answer may still arrive; beside the window, what a slot is first taken for."""


class Planner(Protocol):
    """What decides which task to poll next; Schedule is one."""

    def serve(self, tasks: Iterable[str]) -> None:
        """Plan for these tasks."""

    def next(self, now: float, capacity: Callable[[str], int]) -> Plan | None:
        """Give the poll to make next."""

    def promised(self, now: float, capacity: Callable[[str], int]) -> list[float]:
        """Give the seconds from now at which polls will need a slot that the next one must leave."""

    def gives_way(self, now: float, capacity: Callable[[str], int]) -> float:
        """Give the seconds for which the next poll lets others go first when it has found no slot."""

    def started(self, task: str, now: float) -> None:
        """A poll is in the air."""

    def observed(self, task: str, now: float, outcome: Literal["hit", "empty", "failed"]) -> None:
        """The poll is over."""


@dataclass
class Execution:
    """One execution: when it was there to be claimed, when the worker had it, when its report was answered."""

    task: str
    arrived: float
    claimed: float = 0.0
    reported: float | None = None

    @property
    def pickup(self) -> float:
        """Seconds from its arrival until the worker had it."""
        return self.claimed - self.arrived


@dataclass
class Record:
    """What happened."""

    limit: int
    window: float
    claimed: list[Execution] = field(default_factory=list)
    polls: list[tuple[float, str, bool]] = field(default_factory=list)
    """Each poll: its arrival at the platform, its task, whether it was a hit."""
    requests: list[float] = field(default_factory=list)
    """The arrival of every request at the platform."""
    looks: int = 0
    """How often a worker has looked for a slot."""

    def pickups(self, *tasks: str) -> list[float]:
        """Give the pickup delays in ascending order, of all tasks or of these."""
        return sorted(one.pickup for one in self.claimed if not tasks or one.task in tasks)

    def empty_polls(self, since: float, until: float) -> int:
        """Count the polls in a span of time that found nothing."""
        return sum(1 for at, _, hit in self.polls if since <= at < until and not hit)

    def completions(self, since: float, until: float) -> int:
        """Count the reports in a span of time."""
        return sum(1 for one in self.claimed if one.reported is not None and since <= one.reported < until)

    def fullest_window(self) -> int:
        """Count the requests in the fullest window that the platform could see."""
        return fullest_window(self.requests, self.window)


def fullest_window(arrivals: Iterable[float], window: float) -> int:
    """Count the arrivals in the fullest half-open window of this length, whatever its alignment."""
    moments = sorted(arrivals)
    return max((bisect_left(moments, at + window - 1e-9) - index for index, at in enumerate(moments)), default=0)


class Simulation:
    """Workers on one database that serve some tasks, with executions arriving at given moments."""

    def __init__(
        self,
        planner: Planner,
        arrivals: Mapping[str, Sequence[float]],
        *,
        others: Iterable[Planner] = (),
        limit: int = 50,
        window: float = 60.0,
        round_trip: float = 0.15,
        handler_seconds: float = 0.01,
        concurrency: int = 100,
    ) -> None:
        """`arrivals` gives for each task the moments at which an execution of it is there to be claimed, ascending.

        Each worker has a planner of its own, and so much concurrency; `others` are those of more workers than one.
        """
        self.now = 0.0
        self.record = Record(limit, window)
        self.queues = {task: deque(moments) for task, moments in arrivals.items()}
        self.limit = limit
        self.window = window
        self.round_trip = round_trip
        self.handler_seconds = handler_seconds
        self.concurrency = concurrency
        self.ledger = MemoryLedger(now=lambda: self.now)
        self._events: list[tuple[float, int, Callable[[], None], _Worker]] = []
        self._order = itertools.count()
        self._wakes: list[tuple[float, int, _Worker]] = []
        self.workers = [_Worker(self, each, arrivals) for each in (planner, *others)]

    def run(self, seconds: float) -> Record:
        """Let so many seconds pass."""
        for worker in self.workers:
            self.wake(worker, self.now)
        while (moment := min(self._next_wake(), self._events[0][0] if self._events else math.inf)) <= seconds:
            self.now = moment
            touched: dict[_Worker, None] = {}
            while self._events and self._events[0][0] <= moment:
                _, _, happen, worker = heapq.heappop(self._events)
                happen()
                touched[worker] = None
            while self._next_wake() <= moment:
                touched[heapq.heappop(self._wakes)[2]] = None
            for worker in touched:
                worker.wakes_at = math.inf
                worker.go_on()
        return self.record

    def at(self, moment: float, worker: _Worker, happen: Callable[[], None]) -> None:
        """Let something happen, after which the worker looks what to do next."""
        heapq.heappush(self._events, (moment, next(self._order), happen, worker))

    def wake(self, worker: _Worker, moment: float) -> None:
        """Let the worker look what to do then, unless it does so sooner."""
        if moment < worker.wakes_at:
            worker.wakes_at = moment
            heapq.heappush(self._wakes, (moment, next(self._order), worker))

    def _next_wake(self) -> float:
        while self._wakes and self._wakes[0][0] != self._wakes[0][2].wakes_at:
            heapq.heappop(self._wakes)
        return self._wakes[0][0] if self._wakes else math.inf


class _Worker:
    """One worker of the simulation."""

    def __init__(self, world: Simulation, planner: Planner, tasks: Iterable[str]) -> None:
        self.wakes_at = math.inf
        self._world = world
        self._planner = planner
        self._in_hand = dict.fromkeys(tasks, 0)
        self._in_the_air = 0
        self._settled: deque[Execution] = deque()
        self._being_reported = 0
        self._wants_to_poll = False
        planner.serve(self._in_hand)

    def go_on(self) -> None:
        while self._settled:
            slot = self._take(Purpose.REPORT)
            if slot is None:
                return
            self._report(slot, self._settled.popleft())
        while True:
            plan = self._plan()
            if not self._wants_to_poll:
                if plan is None:
                    return
                if plan.at > self._world.now:
                    self._world.wake(self, plan.at)
                    return
            self._wants_to_poll = True
            slot = self._take(Purpose.POLL)
            if slot is None:
                return
            self._wants_to_poll = False
            if plan is None or plan.at > self._world.now:
                self._world.ledger.give_back(slot)
            else:
                self._poll(slot, plan.task)

    def _plan(self) -> Plan | None:
        if len(self._settled) + self._being_reported > self._world.limit // 2:
            return None
        return self._planner.next(self._world.now, self._capacity)

    def _capacity(self, task: str) -> int:
        return self._world.concurrency - self._in_hand[task]

    def _take(self, purpose: Purpose) -> int | None:
        world = self._world
        unreported = sum(self._in_hand.values()) + len(self._settled) + self._being_reported + self._in_the_air
        is_poll = purpose is Purpose.POLL
        promised = self._planner.promised(world.now, self._capacity) if is_poll else []
        demand = Demand(
            limit=world.limit,
            hold=UNANSWERED + world.window,
            leave=reserve(purpose, unreported, world.limit),
            last_within=world.window * REPORT_WITHIN if is_poll else 0.0,
            promised=promised,
        )
        taken = at_once(world.ledger.take(demand))
        world.record.looks += 1
        if isinstance(taken, int):
            return taken
        way = self._planner.gives_way(world.now, self._capacity) if is_poll else 0.0
        world.wake(self, world.now + min(taken, *promised[:1], math.inf) + way)
        return None

    def _poll(self, slot: int, task: str) -> None:
        world = self._world
        self._planner.started(task, world.now)
        self._in_the_air += 1
        world.at(world.now + world.round_trip / 2, self, lambda: self._poll_arrives(slot, task))

    def _poll_arrives(self, slot: int, task: str) -> None:
        world = self._world
        queue = world.queues[task]
        found = Execution(task, queue.popleft()) if queue and queue[0] <= world.now else None
        world.record.requests.append(world.now)
        world.record.polls.append((world.now, task, found is not None))
        world.at(world.now + world.round_trip / 2, self, lambda: self._poll_answered(slot, task, found))

    def _poll_answered(self, slot: int, task: str, found: Execution | None) -> None:
        world = self._world
        world.ledger.answered(slot, world.window)
        self._in_the_air -= 1
        if found is not None:
            found.claimed = world.now
            world.record.claimed.append(found)
            self._in_hand[task] += 1
            world.at(world.now + world.handler_seconds, self, lambda: self._settle(found))
        self._planner.observed(task, world.now, "empty" if found is None else "hit")

    def _settle(self, execution: Execution) -> None:
        self._in_hand[execution.task] -= 1
        self._settled.append(execution)

    def _report(self, slot: int, execution: Execution) -> None:
        world = self._world
        self._being_reported += 1
        world.at(world.now + world.round_trip / 2, self, lambda: world.record.requests.append(world.now))
        world.at(world.now + world.round_trip, self, lambda: self._reported(slot, execution))

    def _reported(self, slot: int, execution: Execution) -> None:
        self._world.ledger.answered(slot, self._world.window)
        self._being_reported -= 1
        execution.reported = self._world.now


class RoundRobin:
    """The plain alternative to Schedule: polls evenly spaced, each task in its turn, a task with work again at once."""

    def __init__(self, spacing: float) -> None:
        """`spacing` is in seconds, between two polls of any tasks."""
        self._spacing = spacing
        self._tasks: deque[str] = deque()
        self._due = 0.0
        self._hot: str | None = None
        self._busy = False

    def serve(self, tasks: Iterable[str]) -> None:
        """See Planner."""
        self._tasks = deque(tasks)

    def next(self, now: float, capacity: Callable[[str], int]) -> Plan | None:
        """See Planner."""
        if self._busy:
            return None
        if self._hot is not None:
            return Plan(self._hot, now, "it just had work")
        return Plan(self._tasks[0], self._due, "its turn in the idle round")

    def promised(self, now: float, capacity: Callable[[str], int]) -> list[float]:
        """See Planner: by turns, nothing is kept for anybody."""
        return []

    def gives_way(self, now: float, capacity: Callable[[str], int]) -> float:
        """See Planner: it knows of nobody else."""
        return 0.0

    def started(self, task: str, now: float) -> None:
        """See Planner."""
        self._busy = True
        if self._hot is None:
            self._due = max(now, self._due) + self._spacing if now - self._due > 1 else self._due + self._spacing
            self._tasks.rotate(-1)

    def observed(self, task: str, now: float, outcome: Literal["hit", "empty", "failed"]) -> None:
        """See Planner."""
        self._busy = False
        self._hot = task if outcome == "hit" else None


def schedule(
    seed: int, *, limit: int = 50, window: float = 60.0, idle_share: float = 0.5, max_staleness: float = 60.0
) -> Schedule:
    """Give the real schedule with the default settings and seeded chance."""
    chance = random.Random(seed).random
    return Schedule(limit=limit, window=window, idle_share=idle_share, max_staleness=max_staleness, chance=chance)


def fleet(workers: int, *, limit: int = 50, window: float = 60.0, **more: float) -> list[Schedule]:
    """Give the schedules of so many workers on one database, each of which knows of the others."""
    made = [schedule(seed, limit=limit, window=window, **more) for seed in range(1, workers + 1)]
    for turn, each in enumerate(made):
        each.divide(workers, turn)
    return made


def at_random(seed: int, every: float, until: float) -> list[float]:
    """Give the moments of independent arrivals, one every so many seconds on average."""
    chance, moments, now = random.Random(seed), [], 0.0
    while (now := now + chance.expovariate(1 / every)) < until:
        moments.append(now)
    return moments


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Give the result of an async function that never waits, without a loop."""
    try:
        work.send(None)
    except StopIteration as ended:
        value: T = ended.value
        return value
    work.close()
    raise AssertionError("it waited")


def percentile(ascending: Sequence[float], share: float) -> float:
    """Give the value that so large a share of the values does not exceed."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]

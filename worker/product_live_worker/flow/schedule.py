"""Which task to poll next, and when. Pure: the clock and chance are arguments.

One poll claims at most one execution of one task, so polls must be shared out. Idle polls are spaced over `idle_share`
of the budget, the rest is kept for bursts; a task's share goes with the square root of how often it has work, which
makes the mean wait least; a task that had work is asked again at once; and none waits longer than `max_staleness`.

Workers on one database share one round. Idle polls of all of them together are as far apart as one worker's would be:
time is cut into cells of that length by the clock that they share, and each worker has every so many-th cell for its
own. Which task it polls there is its own choice; that it begins with another one than its neighbours spreads the polls
of a task.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

HALF_LIFE = 900.0
"""Seconds after which an observation counts half in the estimate of a task's arrivals."""
UNLIMITED_INTERVAL = 0.2
"""Seconds between the idle polls of a task where no limit holds."""
JITTER = 0.1
"""The part of an interval that is left to chance, so that workers that know nothing of each other never keep step."""
LEAST = 1e-6
"""The weight of a task that fails, beside those of the others."""
JUMP = 0.25
"""The part of a cell by which the shared clock may seem to move before the round is laid anew."""
LATE = 1 / 60
"""The part of a window by which a poll may come later than `max_staleness`: by then its last slot is free again. It is
planned half of that earlier than it must."""
PACE = 0.99
"""How far apart the polls of a task are that has had work for longer than a window: at least so much of the seconds
between two executions that the budget can carry."""
WAY = 1 / 4, 1 / 12
"""How long a poll that has found no slot lets others go first, at most: the part of the seconds in which as many slots
come free as there are workers; and the part of a window that is the longest."""
MOST_AT_ONCE = 8
"""Polls of one task in the air together where no limit holds."""
SCARCE_AT_ONCE = 4
"""The same where requests are scarce, from the second hit in a row on: at the end of a burst as many were in vain.
Where that is a hundredth of the window or less, it may be as many as without a limit."""

Why = Literal["it has been waiting longest", "its last poll failed", "it just had work", "its turn in the idle round"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Poll `task` at `at`, a moment on the caller's clock, because."""

    task: str
    at: float
    why: Why


@dataclass
class _Seen:
    number: int = 0
    polled_at: float = -math.inf
    next_at: float = -math.inf
    hot: bool = False
    streak: int = 0
    in_the_air: int = 0
    asked_at: float = -math.inf
    not_before: float = -math.inf
    hits: float = 0.0
    watched: float = 0.0
    observed_at: float = field(default=-math.inf)

    def arrival_rate(self) -> float:
        """Estimate the arrivals a second; a task never seen counts as one with an arrival every ten minutes."""
        return (self.hits + 0.1) / (self.watched + 60.0)


class Schedule:
    """The plan for the tasks served, learning from each poll."""

    def __init__(
        self,
        *,
        limit: int,
        window: float,
        idle_share: float,
        max_staleness: float,
        chance: Callable[[], float],
    ) -> None:
        """`limit` requests in `window` seconds (0: no limit); `chance` gives numbers from 0 to 1."""
        self._limit = limit
        self._window = window
        self._all_idle = self._idle_rate = idle_share * limit / window
        self._workers, self._turn, self._ahead = 1, 0, 0.0
        self._placed = True
        self._max_staleness = max_staleness
        self._chance = chance
        self._seen: dict[str, _Seen] = {}
        self._intervals: dict[str, float] = {}

    def serve(self, tasks: Iterable[str]) -> None:
        """Plan for these tasks from now on; what is known of those that stay is kept."""
        self._seen = {task: self._seen.get(task, _Seen()) for task in tasks}
        for number, seen in enumerate(self._seen.values()):
            seen.number = number
        self._placed = False
        self._share_out()

    def divide(self, workers: int, turn: int = 0, ahead: float = 0.0) -> bool:
        """Leave to so many workers an equal part of the idle polls; `turn` is this one's place among them, from 0.

        `ahead` is how far the clock that they share is ahead of the caller's, in seconds. Gives whether that changed
        the plan.
        """
        jumped = abs(ahead - self._ahead) * self._all_idle > JUMP
        if (workers, turn) == (self._workers, self._turn) and not jumped:
            return False
        self._workers, self._turn, self._ahead = workers, turn, ahead
        self._idle_rate = self._all_idle / workers
        self._placed = False
        self._share_out()
        return True

    def next(self, now: float, capacity: Callable[[str], int]) -> Plan | None:
        """Give the poll to make next; None when no task may be polled, whatever the hour."""
        self._place(now)
        pollable = {task: seen for task, seen in self._seen.items() if self._may(task, seen, capacity)}
        busy = self._busy(pollable)
        plans = [self._plan(task, seen, now, busy=busy) for task, seen in pollable.items()]
        return min(plans, key=_urgency(now), default=None)

    def plans(self, now: float) -> dict[str, Plan]:
        """Give for each task its next poll as planned, whether or not it has a free slot."""
        self._place(now)
        busy = self._busy(self._seen)
        return {task: self._plan(task, seen, now, busy=busy) for task, seen in self._seen.items()}

    def promised(self, now: float, capacity: Callable[[str], int]) -> list[float]:
        """Give the seconds from now, ascending, at which tasks will have waited for `max_staleness`, for one window.

        The next poll must leave those a slot each; nothing is promised beside one that has waited so long itself.
        """
        plan = self.next(now, capacity)
        if not self._limit or plan is None or plan.why == "it has been waiting longest":
            return []
        bound, late = self._bound(), LATE * self._window
        moments: list[float] = []
        busy = self.busy(capacity)
        for task, seen in self._seen.items():
            if task != plan.task and self._may(task, seen, capacity):
                first = max(self._stale_at(seen, now, busy=busy), seen.not_before) + late / 2 - now
                moments += [first + late + nth * bound for nth in range(math.ceil((self._window - first) / bound))]
        # Each may find an execution and owe its report; where polls are paced, a slot for it comes free soon.
        return sorted(moments if self._pace(self._seen[plan.task]) else 2 * moments)

    def gives_way(self, now: float, capacity: Callable[[str], int]) -> float:
        """Give the seconds for which the next poll lets others go first when it has found no slot.

        Workers that wait for the same slot would all look for it at the moment it comes free. Spread by chance, few do;
        and what is late, of whichever worker, comes first.
        """
        if not self._shares():
            return 0.0
        plan = self.next(now, capacity)
        if plan is None or plan.why == "it has been waiting longest":
            return 0.0
        of_all, of_window = WAY
        return self._chance() * self._window * min(of_all * self._workers / self._limit, of_window)

    def started(self, task: str, now: float) -> None:
        """A poll of the task is in the air."""
        seen = self._seen[task]
        seen.in_the_air += 1
        seen.asked_at = now
        seen.hot = seen.streak > 0 and seen.in_the_air < self._at_once(seen)
        self._space(task, seen, now)

    def observed(
        self, task: str, now: float, outcome: Literal["hit", "empty", "failed"], *, again_in: float | None = None
    ) -> None:
        """The poll is over; one that failed is repeated after so many seconds, or an interval later."""
        seen = self._seen.get(task)
        if seen is None:
            return
        seen.in_the_air -= 1
        if outcome == "failed":
            # Whether there still is work is not known: it must neither hold its neighbours up nor be asked in a row.
            seen.hot, seen.streak = False, 0
            seen.not_before = seen.next_at if again_in is None else now + again_in
            self._share_out()
            return
        seen.polled_at, seen.not_before = max(seen.polled_at, seen.asked_at), -math.inf
        hit = outcome == "hit"
        seen.hot, seen.streak = hit, seen.streak + 1 if hit else 0
        self._learn(seen, now, hit=hit)
        self._share_out()

    def interval(self, task: str) -> float:
        """Give the seconds between idle polls of the task."""
        return self._intervals[task]

    def expected(self, task: str) -> float:
        """Give the mean seconds from an arrival to its claim as things are, slots being free.

        The polls of other workers are counted in.
        """
        beside_work = self._is_beside_work(self._seen[task], self._streaks())
        apart = self._bound() if beside_work else self._intervals[task]
        return apart / self._sharers() / 2

    def waits(self) -> dict[str, float]:
        """Give for each task the longest wait from an arrival to its claim that the plan allows as things are.

        Slots are free, and the polls of other workers counted in.
        """
        bound, longest, streaks = self._bound(), 1 + JITTER / 2, self._streaks()
        return {
            task: (bound if self._is_beside_work(seen, streaks) else min(self._intervals[task] * longest, bound))
            / self._sharers()
            for task, seen in self._seen.items()
        }

    def busy(self, capacity: Callable[[str], int]) -> bool:
        """Whether a task is known to have work, and has the slots for it."""
        return self._busy({task: seen for task, seen in self._seen.items() if self._may(task, seen, capacity)})

    def _streaks(self) -> int:
        return sum(seen.streak > 0 for seen in self._seen.values())

    def _is_beside_work(self, seen: _Seen, streaks: int) -> bool:
        """Whether another task, of so many that have work, is one: then only `max_staleness` brings this one a poll."""
        return bool(self._limit) and streaks > (seen.streak > 0)

    def _sharers(self) -> int:
        return self._workers if self._limit else 1

    def _bound(self) -> float:
        """Give the seconds for which this worker may leave a task to the others."""
        return max(self._max_staleness * self._sharers(), self._idle_round())

    def _idle_round(self) -> float:
        """Give the longest seconds between two polls of a task where all have an equal part of the idle polls."""
        return len(self._seen) / self._idle_rate * (1 + JITTER / 2) if self._limit else 0.0

    def _early(self) -> float:
        """Give by how much a poll is planned earlier than it must be; not where that would cost more idle polls."""
        staleness = self._max_staleness * self._sharers()
        return max(0.0, min(LATE / 2 * self._window, staleness * JITTER / 2, staleness - self._idle_round()))

    def _stale_at(self, seen: _Seen, now: float, *, busy: bool) -> float:
        """Give when the task will have waited for `max_staleness`, as far as it is this worker's turn to see to it."""
        early, bound = self._early(), self._bound()
        if not self._shares():
            return seen.polled_at + bound - early
        # Each worker has moments of its own for each task. It passes over one after a poll of another kind, which the
        # others make too, as long as all poll in the idle round; and one that is past when the next worker's has come.
        turn = bound / self._workers
        since = max(seen.polled_at + turn / 2, now - turn) if busy else seen.polled_at + bound / 2
        phase = (self._turn + seen.number / len(self._seen)) / self._workers * bound
        nth = math.ceil((since + self._ahead - phase) / bound)
        return phase + nth * bound - self._ahead - early

    def _shares(self) -> bool:
        return self._workers > 1 and self._limit > 0

    def _may(self, task: str, seen: _Seen, capacity: Callable[[str], int]) -> bool:
        return seen.in_the_air < self._at_once(seen) and capacity(task) > seen.in_the_air

    def _at_once(self, seen: _Seen) -> int:
        if not seen.streak:
            return 1
        if not self._limit:
            return MOST_AT_ONCE
        return min(max(SCARCE_AT_ONCE, self._limit // 100), MOST_AT_ONCE) if seen.streak > 1 else 1

    def _busy(self, pollable: dict[str, _Seen]) -> bool:
        # While a task is known to have work, an idle poll of another would cost it a request, even if it only slips in
        # while its own poll is in the air: eight tasks, one saturated, lost a tenth of their completions that way.
        return bool(self._limit) and any(
            seen.streak and (seen.in_the_air or task in pollable) for task, seen in self._seen.items()
        )

    def _plan(self, task: str, seen: _Seen, now: float, *, busy: bool) -> Plan:
        stale_at = self._stale_at(seen, now, busy=busy)
        if max(stale_at, seen.not_before) <= now:
            return Plan(task, stale_at, "it has been waiting longest")
        if seen.hot:
            return Plan(task, seen.asked_at + self._pace(seen), "it just had work")
        if math.isfinite(seen.not_before):
            return Plan(task, seen.not_before, "its last poll failed")
        return Plan(task, stale_at if busy else min(seen.next_at, stale_at), "its turn in the idle round")

    def _pace(self, seen: _Seen) -> float:
        # Slots that were spent in one go come back in one go, and of an odd number of them one buys nothing until then.
        # Not in a fleet: each would keep a pace of its own, and the last that knows of the work, after the others were
        # killed, would let the slots lie that they have left.
        if self._shares() or not 0 < self._limit < seen.streak:
            return 0.0
        others = (len(self._seen) - 1) * self._window / self._bound()
        return PACE * 2 * self._window / (self._limit - others)

    def _space(self, task: str, seen: _Seen, now: float) -> None:
        if not self._shares():
            seen.next_at = now + self._intervals[task] * (1 + JITTER * (self._chance() - 0.5))
            return
        # Rounded by chance, so that the rate is right on average; and one poll in each of this worker's cells.
        turn, apart = self._turn_at(now), self._intervals[task] * self._idle_rate
        others = (other.next_at for name, other in self._seen.items() if name != task)
        taken = {self._turn_at(next_at) for next_at in others if math.isfinite(next_at)}
        wanted = turn + max(1, math.floor(apart + self._chance()))
        near = (wanted + step for distance in itertools.count() for step in (distance, -distance))
        seen.next_at = self._moment_of(next(it for it in near if it > turn and it not in taken))

    def _place(self, now: float) -> None:
        """Begin the round anew: each task in another cell, and in another one than the neighbours have it."""
        if self._placed:
            return
        self._placed = True
        if not self._shares() or not self._seen:
            return
        # The very next cell: where workers come and go all the time, one that skips a cell each time never polls.
        first, tasks = math.floor(self._turns(now)) + 1, list(self._seen.values())
        # One task after the other, cell by cell, whoever's cell it is; but each worker comes to all of them.
        stride = next(it for it in itertools.count(self._workers) if math.gcd(it, len(tasks)) == 1)
        for turn in range(first, first + len(tasks)):
            seen = tasks[(turn * stride + self._turn) % len(tasks)]
            seen.next_at = self._moment_of(turn)
            # The others poll it already: there is no hurry, and nothing to be learned from never having seen it.
            seen.polled_at = max(seen.polled_at, now - self._bound() / 2 + LATE * self._window)
            seen.observed_at = now if math.isinf(seen.observed_at) else seen.observed_at

    def _turn_at(self, moment: float) -> int:
        """Give the number of this worker's own cell that begins next to the moment."""
        return round(self._turns(moment))

    def _turns(self, moment: float) -> float:
        """Count this worker's own cells that have begun by the moment, and the part of the last that is over."""
        return (moment + self._ahead) * self._idle_rate - self._turn / self._workers

    def _moment_of(self, turn: int) -> float:
        return (turn + self._turn / self._workers) / self._idle_rate - self._ahead

    def _learn(self, seen: _Seen, now: float, *, hit: bool) -> None:
        passed = max(0.0, now - seen.observed_at) if math.isfinite(seen.observed_at) else 0.0
        fade = 0.5 ** (passed / HALF_LIFE)
        seen.hits = seen.hits * fade + hit
        seen.watched = seen.watched * fade + passed
        seen.observed_at = now

    def _share_out(self) -> None:
        if not self._seen:
            self._intervals = {}
        elif not self._limit:
            self._intervals = dict.fromkeys(self._seen, UNLIMITED_INTERVAL)
        else:
            # What fails is asked seldom; its part is the others' meanwhile.
            weights = {
                task: math.sqrt(seen.arrival_rate()) if math.isinf(seen.not_before) else LEAST
                for task, seen in self._seen.items()
            }
            rates = share_out(self._idle_rate, weights, at_least=1 / self._max_staleness)
            self._intervals = {task: 1 / rate for task, rate in rates.items()}


def share_out(total: float, weights: dict[str, float], *, at_least: float) -> dict[str, float]:
    """Share `total` out by weight so that nobody has less than `at_least`, or equally where that is too much."""
    if at_least * len(weights) >= total:
        return dict.fromkeys(weights, total / len(weights))
    rates: dict[str, float] = {}
    rest, left = total, dict(weights)
    while left:
        sum_of_weights = sum(left.values())
        poor = [task for task, weight in left.items() if rest * weight / sum_of_weights < at_least]
        if not poor:
            return rates | {task: rest * weight / sum_of_weights for task, weight in left.items()}
        for task in poor:
            rates[task] = at_least
            rest -= at_least
            del left[task]
    return rates


def _urgency(now: float) -> Callable[[Plan], tuple[float, ...]]:
    order: dict[Why, float] = {
        "it has been waiting longest": 0,
        "its last poll failed": 1,
        "it just had work": 1,
        "its turn in the idle round": 2,
    }
    return lambda plan: (0.0, order[plan.why], plan.at) if plan.at <= now else (1.0, plan.at)

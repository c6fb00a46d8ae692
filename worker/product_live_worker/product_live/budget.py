"""The request budget: at most so many requests may arrive at Product-Live in any window of 60 seconds.

A request holds a slot of the window from just before it is sent until 60 s after its answer; without an answer, until
it can no longer arrive, plus 60 s. A slot is so taken no later and freed no earlier than any moment at which the
server could count the request, and no window of the server's, sliding or fixed, is ever exceeded.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol, Self

import anyio

from product_live_worker.model.window import Demand, wait_for_slot
from product_live_worker.product_live.share import Share
from product_live_worker.telemetry.events import BudgetWaited, Emit

Scope = Literal["account", "resource"]
Promised = Callable[[], Sequence[float]]
"""Gives the seconds from now, ascending, at which requests will need a slot that nobody else may have by then."""

UNLIMITED = -1
"""The number of a slot where no limit holds."""
REPORTS = "task_executions"
"""The resource of the platform's API that a report is sent to."""
REPORT_WITHIN = 1 / 20
"""The part of a window within which the slot for the report of a poll's own execution has to come free."""
STALE_AFTER = 1.0
"""Seconds after which a slot not yet used is thought to belong to a process that was stopped (SIGSTOP) meanwhile."""


class Purpose(IntEnum):
    """What a request is for, the most urgent first."""

    REPORT = 0
    RECOVER = 1
    FILES = 2
    POLL = 3
    WATCH = 4
    DEFINE = 5
    LOG = 6


PATIENCE = {Purpose.WATCH: 5, Purpose.DEFINE: 1}
"""Windows after which a request that is less urgent than a poll is as urgent: a task that always has work must not keep
the worker from ever learning of a job that was cancelled, or of new tasks, for which one worker asks for all."""


def reserve(purpose: Purpose, unreported: int, limit: int) -> int:
    """Give how many slots a request of this purpose must leave free.

    A poll is a purchase of two requests: itself, and the report it may oblige us to.
    """
    if purpose < Purpose.POLL:
        return 0
    return min(min(unreported, limit // 2) + 1, limit - 1)


class Ledger(Protocol):
    """Where the window is kept. Times are seconds of the ledger's own clock, which never jumps."""

    def now(self) -> float:
        """Give the ledger's clock."""

    async def take(self, demand: Demand) -> int | float:
        """Take a slot and give its number, or (a float) the seconds until one may be free."""

    def used(self) -> int:
        """Count the slots held, as far as this process knows."""

    def frees_in(self) -> float | None:
        """Give the seconds until the first slot held comes free, as far as this process knows; None: none is held."""

    def answered(self, slot: int, hold: float) -> None:
        """Free the slot `hold` seconds from now: its request was answered."""

    def give_back(self, slot: int) -> None:
        """Free the slot at once: its request was never sent."""


@dataclass
class MemoryLedger:
    """A window that only this object knows."""

    now: Callable[[], float]
    _free_at: dict[str, dict[int, float]] = field(default_factory=dict)
    _lane_of: dict[int, dict[int, float]] = field(default_factory=dict)
    _number: itertools.count[int] = field(default_factory=itertools.count)

    async def take(self, demand: Demand) -> int | float:
        """See Ledger."""
        now = self.now()
        lane = self._free_at.setdefault(demand.lane, {})
        for slot in [slot for slot, moment in lane.items() if moment <= now]:
            del lane[slot], self._lane_of[slot]
        wait = wait_for_slot(demand, {name: tuple(held.values()) for name, held in self._free_at.items()}, now)
        if wait > 0:
            return wait
        slot = next(self._number)
        lane[slot], self._lane_of[slot] = now + demand.hold, lane
        return slot

    def used(self) -> int:
        """See Ledger."""
        return len(self._held())

    def frees_in(self) -> float | None:
        """See Ledger."""
        return min((moment - self.now() for moment in self._held()), default=None)

    def _held(self) -> list[float]:
        now = self.now()
        return [moment for lane in self._free_at.values() for moment in lane.values() if moment > now]

    def answered(self, slot: int, hold: float) -> None:
        """See Ledger."""
        if slot in self._lane_of:
            self._lane_of[slot][slot] = self.now() + hold

    def give_back(self, slot: int) -> None:
        """See Ledger."""
        if slot in self._lane_of:
            del self._lane_of.pop(slot)[slot]


class Slot:
    """The right to send one request."""

    def __init__(self, budget: Budget, resource: str, purpose: Purpose, number: int, taken_at: float) -> None:
        self._budget = budget
        self._resource = resource
        self._purpose = purpose
        self._number = number
        self._taken_at = taken_at
        self._sent = False

    async def use(self, still: Callable[[], Awaitable[None]] | None = None) -> None:
        """Call this right before sending; takes another slot when the process was stopped since this one.

        `still` raises when the request shall not be sent any more; nothing is waited for after it.
        """
        while True:
            while self._budget.is_stale(self._taken_at):
                self._budget.give_back(self._number)
                self._number, self._taken_at = await self._budget.take(self._resource, self._purpose)
            if still is None:
                break
            asked_at = self._budget.now()
            await still()
            if not self._budget.is_stale(self._taken_at):
                break
            if self._budget.now() - asked_at < self._budget.window:
                # The journal was slow, and would be with the next slot: this one is held for longer than that.
                self.prolong()
                self._taken_at = self._budget.now()
                break
        self._sent = True

    def prolong(self) -> None:
        """Call this now and then while the request is still being sent: it may be counted when its end arrives."""
        self._budget.prolong(self._number)

    def unsent(self) -> None:
        """Call this when the request certainly never left: its slot is free again."""
        self._sent = False

    def answered(self) -> None:
        """Call this when the answer has come, and nothing more of the request is under way."""
        self._budget.answered(self._number)

    def give_back(self) -> None:
        """Free the slot at once."""
        self._budget.give_back(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._sent:
            self.give_back()


@dataclass(eq=False)
class _Waiter:
    purpose: Purpose
    order: float
    arrival: int
    since: float
    promised: Promised
    turn: anyio.Event = field(default_factory=anyio.Event)


def _place(waiter: _Waiter) -> tuple[int, float, int]:
    """Give its place in its lane."""
    return waiter.purpose, waiter.order, waiter.arrival


class Budget:
    """Hands out the slots, by purpose; within a purpose by `order` (the oldest first), then by arrival."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        limit: int,
        window: float,
        longest_request: float,
        scope: Scope = "account",
        unreported: Callable[[], int] = lambda: 0,
        emit: Emit = lambda _: None,
    ) -> None:
        """`limit` 0 means no limit at all; `window` and `longest_request` are seconds."""
        self.limit = limit
        self.window = window
        self._share = Share(limit, window)
        self._files: deque[float] = deque()
        self._ledger = ledger
        self._longest_request = longest_request
        self._scope = scope
        self.unreported = unreported
        """Counts the executions that owe a report, or may: those of polls in the air too."""
        self.busy: Callable[[], bool] = lambda: False
        """Whether a task is known to have work: what is less urgent than its polls then waits."""
        self._emit = emit
        self._lanes: dict[str, list[_Waiter]] = {}
        self._arrival = itertools.count()
        self._not_before = -math.inf

    async def slot(
        self,
        purpose: Purpose,
        *,
        resource: str = "",
        order: float = 0.0,
        promised: Promised = tuple,
        gives_way: Callable[[], float] = lambda: 0.0,
    ) -> Slot:
        """Wait for a slot; it is given back at the end of its `with` block unless it was used.

        `promised` is asked at each attempt; `gives_way` after one in vain, for the seconds by which to come later than
        a slot may be free.
        """
        number, taken_at = await self.take(resource, purpose, order=order, promised=promised, gives_way=gives_way)
        return Slot(self, resource, purpose, number, taken_at)

    async def take(
        self,
        resource: str,
        purpose: Purpose,
        *,
        order: float = 0.0,
        promised: Promised = tuple,
        gives_way: Callable[[], float] = lambda: 0.0,
    ) -> tuple[int, float]:
        """Wait for a slot; gives its number and the moment it was taken."""
        if not self.limit:
            return UNLIMITED, self._ledger.now()
        lane_name = self._lane_of(resource)
        lane = self._lanes.setdefault(lane_name, [])
        started = self._ledger.now()
        waiter = _Waiter(purpose, order, next(self._arrival), started, promised)
        insort(lane, waiter, key=_place)
        try:
            while True:
                waiter.turn = anyio.Event()
                wait = self._held_back(waiter)
                first = self._first(lane)
                if first is waiter:
                    taken = await self._try(lane_name, waiter)
                    if isinstance(taken, tuple):
                        return taken
                    wait = taken + gives_way()
                elif first is not None:
                    first.turn.set()
                with anyio.move_on_after(wait or math.inf):
                    await waiter.turn.wait()
        finally:
            lane.remove(waiter)
            self._wake(lane)
            self._emit(BudgetWaited(purpose=purpose.name.lower(), seconds=self._ledger.now() - started))

    def now(self) -> float:
        """Give the clock of the slots."""
        return self._ledger.now()

    def allowed(self) -> int:
        """Give the effective limit: lower than `limit` while somebody else uses the account too."""
        return self._share.allowed(self._ledger.now()) if self.limit else 0

    def used(self) -> int:
        """Count the slots that this process holds."""
        return self._ledger.used() if self.limit else 0

    def reserved(self) -> int:
        """Count the slots that polls leave free now, for the reports that are owed or may come to be."""
        return reserve(Purpose.POLL, self.unreported(), self.allowed()) if self.limit else 0

    def frees_in(self) -> float | None:
        """Give the seconds until the first slot that is held comes free; None where none is."""
        return self._ledger.frees_in() if self.limit else None

    def held_off(self) -> float:
        """Give the seconds for which nothing is sent, because the platform has asked for it (429)."""
        return max(0.0, self._not_before - self._ledger.now())

    def waiting(self) -> Counter[str]:
        """Count the requests that wait for a slot, by purpose."""
        return Counter(waiter.purpose.name.lower() for lane in self._lanes.values() for waiter in lane)

    def _first(self, lane: list[_Waiter]) -> _Waiter | None:
        """Give who is next, of those that nothing holds back."""
        # After an outage thousands of reports wait at once, and nothing goes before the first of them.
        if lane and lane[0].purpose < Purpose.FILES:
            return lane[0]
        return min((waiter for waiter in lane if not self._held_back(waiter)), key=self._rank, default=None)

    def _rank(self, waiter: _Waiter) -> tuple[int, float, int]:
        if self._has_waited_enough(waiter):
            return Purpose.POLL, -math.inf, waiter.arrival
        return _place(waiter)

    def _has_waited_enough(self, waiter: _Waiter) -> bool:
        return self._ledger.now() - waiter.since >= self._patience(waiter)

    def _patience(self, waiter: _Waiter) -> float:
        return PATIENCE.get(waiter.purpose, math.inf) * self.window

    def _held_back(self, waiter: _Waiter) -> float:
        """Give the seconds after which to look again, where others come first although there may be a slot."""
        if waiter.purpose > Purpose.POLL and self.busy() and not self._has_waited_enough(waiter):
            return min(self.window, waiter.since + self._patience(waiter) - self._ledger.now())
        return self._over_its_part() if waiter.purpose is Purpose.FILES else 0.0

    def _over_its_part(self) -> float:
        """Give the seconds for which files have used up their part; a flood of them must leave room for polls."""
        now = self._ledger.now()
        while self._files and self._files[0] <= now - self.window:
            self._files.popleft()
        if len(self._files) < max(1, self.allowed() // 2):
            return 0.0
        return self._files[0] + self.window - now

    def _lane_of(self, resource: str) -> str:
        return resource if self._scope == "resource" else ""

    async def _try(self, lane: str, waiter: _Waiter) -> tuple[int, float] | float:
        now = self._ledger.now()
        if now < self._not_before:
            return self._not_before - now
        allowed = self.allowed()
        promised = waiter.promised()
        demand = Demand(
            limit=allowed,
            hold=self._longest_request + self.window,
            lane=lane,
            leave=reserve(waiter.purpose, self.unreported(), allowed),
            leave_in=self._lane_of(REPORTS),
            last_within=self.window * REPORT_WITHIN if self._rank(waiter)[0] == Purpose.POLL else 0.0,
            promised=promised,
        )
        # Shielded: a slot taken by a cancelled caller would be nobody's to give back.
        with anyio.CancelScope(shield=True):
            taken = await self._ledger.take(demand)
        if not isinstance(taken, int):
            # When the next promise falls due, it is no longer in the way.
            return min(taken, self._share.grows_in(now), *promised[:1])
        if waiter.purpose is Purpose.FILES:
            self._files.append(now)
        took = self._ledger.now() - now
        if STALE_AFTER / 2 < took < self.window:
            # Not this process was stopped, but the ledger was slow (its file is locked, its disk busy): the next slot
            # would take as long. This one is ours for long enough to be held anew, from now on.
            self._ledger.answered(taken, demand.hold)
            now += took
        return taken, now

    def is_stale(self, taken_at: float) -> bool:
        """Whether a slot taken then can no longer be trusted to cover a request sent now."""
        return self._ledger.now() - taken_at > STALE_AFTER

    def answered(self, slot: int) -> None:
        """Free the slot one window from now: sooner than it was first taken for, so the next waiter looks again."""
        if slot != UNLIMITED:
            self._ledger.answered(slot, self.window)
            self.nudge()

    def prolong(self, slot: int) -> None:
        """Hold the slot from now on as if its request were sent now."""
        if slot != UNLIMITED:
            self._ledger.answered(slot, self._longest_request + self.window)

    def give_back(self, slot: int) -> None:
        """Free the slot now, and let the next waiter try."""
        if slot != UNLIMITED:
            self._ledger.give_back(slot)
            self.nudge()

    def refused(self, retry_after: float | None) -> None:
        """Send nothing for so many seconds, and less from then on: somebody else uses the account too (429)."""
        now = self._ledger.now()
        if self.limit:
            self._share.refused(now, self._ledger.used())
        wait = self.window / max(self.limit, 1) if retry_after is None else retry_after
        self._not_before = max(self._not_before, now + wait)

    def nudge(self) -> None:
        """Let the first waiter of each lane look again: what it must leave free has changed."""
        for lane in self._lanes.values():
            self._wake(lane)

    def _wake(self, lane: list[_Waiter]) -> None:
        first = self._first(lane)
        if first is not None:
            first.turn.set()
        # Who is held back has to learn for how long.
        later = lane[bisect_left(lane, Purpose.FILES, key=lambda waiter: waiter.purpose) :]
        if held_back := [waiter for waiter in later if self._held_back(waiter)]:
            min(held_back, key=self._rank).turn.set()

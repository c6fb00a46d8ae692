"""An account in virtual time, served by the real poller, schedule and budget: what the laws of speed are held to.

Only what takes real time is played: the wire (a round trip each) and the handlers (some milliseconds).
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc

from product_live_worker.flow.poller import Poller
from product_live_worker.flow.schedule import Schedule
from product_live_worker.model.errors import PlatformFailing
from product_live_worker.model.execution import Execution
from product_live_worker.model.task import ServedTask
from product_live_worker.product_live.budget import Budget, MemoryLedger, Purpose, Slot
from product_live_worker.product_live.wire import TaskExecution
from support.conforming import HANDLERS
from support.virtual_time import run_virtually

LIMIT, WINDOW = 50, 60.0
SLOTS = 100


@dataclass(frozen=True)
class Pickup:
    """An execution: of which task, when it came, when it was claimed."""

    task: str
    arrived: float
    claimed: float


@dataclass
class Record:
    """What the platform has seen, by its own clock."""

    arrivals: list[float] = field(default_factory=list)
    """Of all requests."""
    pickups: list[Pickup] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)
    owed: list[float] = field(default_factory=list)
    """For each report, the seconds from the claim until it arrived."""
    polls: Counter[str] = field(default_factory=Counter)
    told: dict[str, float] = field(default_factory=dict)
    """The longest pickup delay that was told while it lasted, by task."""

    def waits(self, task: str) -> list[float]:
        """Give the seconds from arrival to claim, ascending."""
        return sorted(one.claimed - one.arrived for one in self.pickups if one.task == task)

    def fullest_window(self) -> int:
        """Give the most requests that arrived in any window."""
        ends = deque[float]()
        fullest = 0
        for moment in sorted(self.arrivals):
            while ends and ends[0] <= moment - WINDOW:
                ends.popleft()
            ends.append(moment)
            fullest = max(fullest, len(ends))
        return fullest

    def completions_a_minute(self, after: float) -> float:
        """Give the rate of reports from a moment on."""
        counted = [moment for moment in self.reported if moment >= after]
        return (len(counted) - 1) / (counted[-1] - counted[0]) * 60


class _Board:
    def paused(self, _: str) -> None:
        return None


class _Journal:
    """Executions in hand, and reports that wait: what the poller asks a journal for."""

    def __init__(self) -> None:
        self.trouble = ""
        self.board = _Board()
        self.in_hand: Counter[str] = Counter()
        self.waiting = 0
        self.claims: list[Execution] = []
        self.claimed = anyio.Event()

    def reports_waiting(self) -> int:
        return self.waiting

    def unreported(self) -> int:
        return self.waiting + self.in_hand.total()

    async def claim(self, execution: Execution) -> tuple[Execution, bool]:
        self.in_hand[execution.task] += 1
        self.claims.append(execution)
        self.claimed.set()
        return execution, True


class Account:
    """Tasks with their arrivals, and a worker that serves them."""

    def __init__(
        self,
        arrivals: Mapping[str, list[float]],
        *,
        seed: int = 1,
        max_staleness: float = 60.0,
        round_trip: float = 0.15,
        fails: Callable[[float], Container[str]] = lambda _: (),
    ) -> None:
        """`fails` gives the tasks whose polls the platform answers with 500 at a moment."""
        self._queues = {task: deque(moments) for task, moments in arrivals.items()}
        self._chance = random.Random(seed)
        self._max_staleness = max_staleness
        self._round_trip = round_trip
        self._fails = fails
        self.record = Record()

    def run(self, seconds: float, beside: Callable[[Budget], Any] | None = None) -> Record:
        """Let so many seconds pass; `beside` is a coroutine function that uses the budget, too."""

        async def main() -> Record:
            await self._open()
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as life:
                    life.start_soon(self.poller.run)
                    life.start_soon(self._handle, life)
                    life.start_soon(self._listen)
                    if beside is not None:
                        life.start_soon(beside, self.budget)
            return self.record

        return run_virtually(main)

    async def _open(self) -> None:
        self.journal = _Journal()
        self.budget = Budget(MemoryLedger(anyio.current_time), limit=LIMIT, window=WINDOW, longest_request=22.0)
        self.schedule = Schedule(
            limit=LIMIT,
            window=WINDOW,
            idle_share=0.5,
            max_staleness=self._max_staleness,
            chance=self._chance.random,
        )
        self.schedule.serve(self._queues)
        handler = HANDLERS["loop", "echo"]
        served = {
            task: ServedTask(id=task, key=task, handler=handler, concurrency=SLOTS, timeout=60.0, on_crash="fail")
            for task in self._queues
        }
        self.poller = Poller(
            self,  # type: ignore[arg-type]  # it polls, which is all that the poller wants of a client
            self.budget,
            self.journal,  # type: ignore[arg-type]  # as said
            self.schedule,
            served,
            capacity=lambda task: SLOTS - self.journal.in_hand[task],
            emit=lambda _: None,
            now=anyio.current_time,
            chance=self._chance.random,
        )
        self.budget.unreported = lambda: self.journal.unreported() + self.poller.in_the_air
        self.budget.busy = self.poller.busy

    async def poll(self, task: str, slot: Slot) -> TaskExecution | None:
        """Be the client."""
        arrived = await self._exchange(slot)
        self.record.polls[task] += 1
        if task in self._fails(arrived):
            raise PlatformFailing("500", status=500)
        queue = self._queues[task]
        if not queue or queue[0] > arrived:
            return None
        self.record.pickups.append(Pickup(task, queue.popleft(), arrived))
        return TaskExecution(id=f"e{len(self.record.pickups)}")

    async def _exchange(self, slot: Slot) -> float:
        await slot.use()
        await anyio.sleep(self._round_trip / 2)
        arrived = anyio.current_time()
        self.record.arrivals.append(arrived)
        await anyio.sleep(self._round_trip / 2)
        slot.answered()
        return arrived

    async def _handle(self, life: anyio.abc.TaskGroup) -> None:
        while True:
            await self.journal.claimed.wait()
            self.journal.claimed = anyio.Event()
            while self.journal.claims:
                life.start_soon(self._work, self.journal.claims.pop(0))

    async def _work(self, execution: Execution) -> None:
        claimed = anyio.current_time()
        await anyio.sleep(0.01)
        self.journal.in_hand[execution.task] -= 1
        self.journal.waiting += 1
        self._changed()
        with await self.budget.slot(Purpose.REPORT, resource="task_executions") as slot:
            self.record.reported.append(await self._exchange(slot))
        self.record.owed.append(self.record.reported[-1] - claimed)
        self.journal.waiting -= 1
        self._changed()

    def _changed(self) -> None:
        self.poller.wake()
        self.budget.nudge()

    async def _listen(self) -> None:
        """Hear every few seconds what is told of the pickup delays, once the tasks have been polled for a while."""
        await anyio.sleep(2 * WINDOW)
        while True:
            for task, wait in self.schedule.waits().items():
                self.record.told[task] = max(wait, self.record.told.get(task, 0.0))
            await anyio.sleep(5.0)


async def asking(budget: Budget, purpose: Purpose, every: float, waits: list[float]) -> None:
    """Ask for a slot of this purpose again and again, and note how long each was waited for."""
    while True:
        await anyio.sleep(every)
        asked = anyio.current_time()
        with await budget.slot(purpose, resource="tasks") as slot:
            await slot.use()
            await anyio.sleep(0.15)
            slot.answered()
        waits.append(anyio.current_time() - asked)

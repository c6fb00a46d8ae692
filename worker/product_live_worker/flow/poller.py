"""The poller: claims executions while there is a slot to run them and a slot of the budget to report them."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping

import anyio

from product_live_worker.flow.backoff import FIRST, Outage, delay
from product_live_worker.flow.schedule import Plan, Schedule
from product_live_worker.journal.journal import Journal
from product_live_worker.model.action import ALL
from product_live_worker.model.errors import KeyRefused, PlatformError, PlatformUnreachable, RateLimited
from product_live_worker.model.execution import Execution, correlation_id, idempotency_key
from product_live_worker.model.task import ServedTask
from product_live_worker.product_live.budget import Budget, Purpose, Slot
from product_live_worker.product_live.client import Client
from product_live_worker.product_live.wire import TaskExecution
from product_live_worker.telemetry.events import (
    ClaimAmbiguous,
    Emit,
    ExecutionClaimed,
    ExecutionRepeated,
    PollOutcome,
    TaskPolled,
    about,
)

OF_ALL_TASKS = (KeyRefused, PlatformUnreachable, RateLimited)
"""Failures that are none of the task's own: no other task fares better for now."""
REFUSED_KEY = 5.0
"""Seconds to wait after the first refusal of the key; it doubles from there."""


class Poller:
    """Asks the schedule which task is next, the budget for a slot, the platform for an execution, in this order."""

    def __init__(
        self,
        client: Client,
        budget: Budget,
        journal: Journal,
        schedule: Schedule,
        tasks: Mapping[str, ServedTask],
        *,
        capacity: Callable[[str], int],
        emit: Emit,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`capacity` gives the free slots of a task; `now` is the clock of the schedule, in seconds.

        `chance` gives numbers from 0 to 1, to spread what is repeated.
        """
        self.outage = Outage("polling", emit, now=now)
        self.succeeded_at: float | None = None
        self._client = client
        self._budget = budget
        self._journal = journal
        self._schedule = schedule
        self._tasks = tasks
        self._free = capacity
        self._emit = emit
        self._now = now
        self._chance = chance
        self.not_before = -math.inf
        self._due_since: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()
        """The failures since the last success, by task."""
        self.waits_for_budget = False
        self._started_at = now()
        self._wakened = anyio.Event()
        self.in_the_air = 0
        """Polls whose claim, if they bring one, is not in the journal yet."""

    async def run(self) -> None:
        """Poll until cancelled; a poll in the air, and the claim it brings, is always ended first."""
        async with anyio.create_task_group() as polls:
            while True:
                await self._until_due()
                self.waits_for_budget = True
                slot = await self._budget.slot(
                    Purpose.POLL, resource="tasks", promised=self._promised, gives_way=self._gives_way
                )
                self.waits_for_budget = False
                plan = self.plan()
                if plan is None or plan.at > self._now():
                    # While the poll waited for its slot, what it was for has gone.
                    slot.give_back()
                    continue
                self._due_since.setdefault(plan.task, self._now())
                self._schedule.started(plan.task, self._now())
                self.in_the_air += 1
                polls.start_soon(self._poll, self._tasks[plan.task], slot)

    def plan(self) -> Plan | None:
        """Give the next poll; None while nothing may be polled, because everything is busy or `paused`."""
        plan = None if self.paused() else self._schedule.next(self._now(), self._capacity)
        if plan is not None and plan.at < self.not_before:
            return Plan(plan.task, self.not_before, plan.why)
        return plan

    def paused(self) -> str:
        """Say why nothing at all is polled just now, or give an empty text."""
        if pause := self._journal.board.paused(ALL):
            return pause.told()
        if self._journal.trouble:
            return f"nothing can be claimed that cannot be written down: {self._journal.trouble}"
        waiting = self._journal.reports_waiting()
        if self._budget.limit and waiting > self._budget.allowed() // 2:
            return f"{waiting} results wait to be reported first"
        return ""

    def overdue(self) -> float:
        """Give the seconds since a poll was due, with capacity and budget, and no poll of its task has succeeded."""
        # What cannot be polled is not late either.
        paused = self.paused()
        self._due_since = {
            task: since
            for task, since in self._due_since.items()
            if not paused and task in self._tasks and self._capacity(task) > 0
        }
        return max([self.stalled(), *(self._now() - since for since in self._due_since.values())])

    def stalled(self) -> float:
        """Give the seconds since a poll could have been sent, and none was: the poller itself does not get on."""
        plan = self.plan()
        if plan is None or self.waits_for_budget:
            return 0.0
        return max(0.0, self._now() - max(plan.at, self._started_at))

    def wake(self) -> None:
        """Look again at what may be polled: capacity or the tasks have changed."""
        self._wakened.set()
        self._wakened = anyio.Event()

    def resume(self) -> None:
        """Look again after a pause; what could not be polled in it is not late by that."""
        self._started_at = self._now()
        self._due_since.clear()
        self.wake()

    def busy(self) -> bool:
        """Whether there is work for the next poll, as far as is known."""
        return not self.paused() and self._schedule.busy(self._capacity)

    def failing(self) -> list[str]:
        """Name the tasks whose last poll has failed."""
        return [task for task in self._failures if task in self._tasks]

    def _capacity(self, task: str) -> int:
        return 0 if self._journal.board.paused(task) else self._free(task)

    def _promised(self) -> list[float]:
        return self._schedule.promised(self._now(), self._capacity)

    def _gives_way(self) -> float:
        return self._schedule.gives_way(self._now(), self._capacity)

    async def _until_due(self) -> None:
        while True:
            plan = self.plan()
            if plan is not None and plan.at <= self._now():
                return
            with anyio.move_on_after(math.inf if plan is None else plan.at - self._now()):
                await self._wakened.wait()

    async def _poll(self, task: ServedTask, slot: Slot) -> None:
        outcome: PollOutcome = "failed"
        again_in: float | None = None
        # Shielded: an answer that nobody reads is an execution that nobody runs. The client's deadline bounds it.
        with anyio.CancelScope(shield=True), slot:
            try:
                polled = await self._client.poll(task.id, slot)
                if polled is not None:
                    await self._claim(task, polled)
                outcome = "empty" if polled is None else "hit"
                self._succeeded(task)
            except PlatformError as error:
                again_in = self._failed(task, error)
            finally:
                self.in_the_air -= 1
                self._schedule.observed(task.key, self._now(), outcome, again_in=again_in)
                self._emit(TaskPolled(task=task.key, outcome=outcome))
                self.wake()

    async def _claim(self, task: ServedTask, polled: TaskExecution) -> None:
        execution = Execution(
            id=polled.id,
            task_id=task.id,
            task=task.key,
            input={} if polled.input is None else polled.input,
            claimed_at=time.time(),
            on_repeat=task.handler.on_repeat,
            correlation_id=correlation_id(polled.input),
            idempotency_key=idempotency_key(task.key, polled.input),
        )
        known, is_new = await self._journal.claim(execution)
        said = about(execution)
        self._emit(ExecutionClaimed(**said) if is_new else ExecutionRepeated(**said, state=known.state.value))

    def _succeeded(self, task: ServedTask) -> None:
        self.succeeded_at = time.time()
        self._due_since.pop(task.key, None)
        self.not_before = -math.inf
        self._failures.pop(task.key, None)
        self._in_a_row.clear()
        if not self.failing():
            self.outage.worked()

    def _failed(self, task: ServedTask, error: PlatformError) -> float:
        """Note it; gives the seconds until the task is asked again."""
        if error.perhaps_done:
            self._emit(ClaimAmbiguous(task=task.key, reason=str(error)))
        self._failures[task.key] += 1
        self._in_a_row[task.key] += 1
        self.outage.failed(error)
        first = REFUSED_KEY if isinstance(error, KeyRefused) else FIRST

        def wait(failures: int) -> float:
            return delay(failures, self._chance(), first=first, at_least=error.retry_after)

        # What one task alone suffers from, as a handler of the platform's that fails for it, holds no other up.
        if isinstance(error, OF_ALL_TASKS) or len(self._in_a_row) > 1:
            self.not_before = self._now() + wait(self._in_a_row.total())
        return wait(self._failures[task.key])

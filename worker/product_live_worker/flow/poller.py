"""The poller: claims executions while there is a slot to run them and a slot of the budget to report them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import anyio

from product_live_worker.flow.backoff import FIRST, Outage
from product_live_worker.flow.schedule import Plan, Schedule
from product_live_worker.journal.journal import Journal
from product_live_worker.model.action import ALL
from product_live_worker.model.errors import KeyRefused, PlatformError
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
    ) -> None:
        """`capacity` gives the free slots of a task; `now` is the clock of the schedule, in seconds."""
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
        self.not_before = -math.inf
        self._due_since: float | None = None
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
                slot = await self._budget.slot(Purpose.POLL, resource="tasks", promised=self._promised)
                self.waits_for_budget = False
                plan = self.plan()
                if plan is None or plan.at > self._now():
                    # While the poll waited for its slot, what it was for has gone.
                    slot.give_back()
                    continue
                self._due_since = self._due_since or self._now()
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
        if self._budget.limit and waiting > self._budget.limit // 2:
            return f"{waiting} results wait to be reported first"
        return ""

    def overdue(self) -> float:
        """Give the seconds since a poll was due, with capacity and budget, and has not succeeded."""
        if self.paused() or not any(self._capacity(task) > 0 for task in self._tasks):
            # What cannot be polled is not late either.
            self._due_since = None
        return self.stalled() if self._due_since is None else self._now() - self._due_since

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
        self._due_since = None
        self.wake()

    def _capacity(self, task: str) -> int:
        return 0 if self._journal.board.paused(task) else self._free(task)

    def _promised(self) -> list[float]:
        return self._schedule.promised(self._now(), self._capacity)

    async def _until_due(self) -> None:
        while True:
            plan = self.plan()
            if plan is not None and plan.at <= self._now():
                return
            with anyio.move_on_after(math.inf if plan is None else plan.at - self._now()):
                await self._wakened.wait()

    async def _poll(self, task: ServedTask, slot: Slot) -> None:
        outcome: PollOutcome = "failed"
        # Shielded: an answer that nobody reads is an execution that nobody runs. The client's deadline bounds it.
        with anyio.CancelScope(shield=True), slot:
            try:
                polled = await self._client.poll(task.id, slot)
                if polled is not None:
                    await self._claim(task, polled)
                outcome = "empty" if polled is None else "hit"
                self._succeeded()
            except PlatformError as error:
                self._failed(task, error)
            finally:
                self.in_the_air -= 1
                self._schedule.observed(task.key, self._now(), outcome)
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

    def _succeeded(self) -> None:
        self.succeeded_at = time.time()
        self._due_since = None
        self.not_before = -math.inf
        self.outage.worked()

    def _failed(self, task: ServedTask, error: PlatformError) -> None:
        if error.perhaps_done:
            self._emit(ClaimAmbiguous(task=task.key, reason=str(error)))
        first = REFUSED_KEY if isinstance(error, KeyRefused) else FIRST
        self.not_before = self._now() + self.outage.failed(error, first=first, at_least=error.retry_after)

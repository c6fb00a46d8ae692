"""Recovery: takes over what dead processes left, and decides what becomes of what they were running."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

import anyio

from product_live_worker.flow.backoff import Outage, delay
from product_live_worker.journal.journal import Journal
from product_live_worker.model.errors import IllegalTransition, JournalUnwritable, PlatformError, RequestRefused
from product_live_worker.model.execution import ENDED_ALREADY, FINAL_ELSEWHERE, Execution, Outcome
from product_live_worker.model.task import ServedTask
from product_live_worker.product_live.budget import Purpose
from product_live_worker.product_live.client import Client
from product_live_worker.telemetry.events import Emit, ExecutionRecovered, about

SOON = 0.1
"""Seconds after the end of a lease at which it is seen to have ended, whatever the rounding."""
RESTARTED = "The worker was restarted while the handler ran; whether it had done its work is not known."
QUARANTINED = "The worker died {crashes} times while this ran; it is not run again."


class Recovery:
    """Takes RUNNING rows of dead processes, leaves REPORTED, SETTLED or CLAIMED ones."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        tasks: Mapping[str, ServedTask],
        *,
        ready: anyio.Event,
        every: float,
        max_crashes: int,
        emit: Emit,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`ready` is set when `tasks` are known; rows are looked for `every` so many seconds.

        `chance` gives numbers from 0 to 1, to spread retries.
        """
        self._client = client
        self._journal = journal
        self._tasks = tasks
        self._ready = ready
        self._every = every
        self._max_crashes = max_crashes
        self._emit = emit
        self._chance = chance
        self._outage = Outage("recovery", emit)
        self._wanted = anyio.Event()

    async def run(self) -> None:
        """Look for rows of dead processes, at once and then regularly, until cancelled."""
        async with anyio.create_task_group() as deciding:
            while True:
                try:
                    left_running = await self._journal.take_over()
                except JournalUnwritable:
                    left_running = []
                for execution in left_running:
                    # Each by itself: one that the platform cannot read just now is not in the way of the others.
                    deciding.start_soon(self._decide, execution)
                # Not later than a lease ends: whoever is gone then is taken over at once.
                with anyio.move_on_after(min(self._every, self._journal.look_again_in + SOON)):
                    await self._wanted.wait()
                self._wanted = anyio.Event()

    def hurry(self) -> None:
        """Look now: a row has just been given up for whoever takes it."""
        self._wanted.set()

    async def _decide(self, execution: Execution) -> None:
        # What to do with it is the handlers' word; reports that were left are under way already.
        await self._ready.wait()
        for attempt in itertools.count(1):
            try:
                decision = await self._recover(execution)
            except (PlatformError, JournalUnwritable) as error:
                self._outage.failed(error)
                await anyio.sleep(delay(attempt, self._chance()))
            except IllegalTransition:
                # Another worker has it by now.
                return
            else:
                self._outage.worked()
                self._emit(ExecutionRecovered(**about(execution), decision=decision, crashes=execution.crashes))
                return

    async def _recover(self, execution: Execution) -> str:
        task = self._tasks.get(execution.task)
        if await self._is_over(execution):
            await self._journal.close(execution, ENDED_ALREADY)
            return "closed"
        if task is None or task.on_crash == "fail":
            await self._journal.settle(execution, Outcome.failed("worker_restarted", RESTARTED))
            return "failed"
        if execution.crashes >= self._max_crashes:
            text = QUARANTINED.format(crashes=execution.crashes)
            await self._journal.settle(execution, Outcome.failed("quarantined", text))
            return "quarantined"
        await self._journal.rerun(execution, crashes=execution.crashes)
        return "rerun"

    async def _is_over(self, execution: Execution) -> bool:
        try:
            found = await self._client.read_execution(execution.id, Purpose.RECOVER, order=execution.claimed_at)
        except RequestRefused:
            # Unknown to the platform: the report will be told so, and kept as undeliverable.
            return False
        return found.status in FINAL_ELSEWHERE

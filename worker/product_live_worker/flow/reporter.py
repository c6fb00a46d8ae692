"""The reporter: sends each settled outcome until the platform has given a final answer."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from functools import partial

import anyio

from product_live_worker.flow.backoff import delay
from product_live_worker.journal.journal import Journal
from product_live_worker.model.errors import (
    AnswerUnreadable,
    IllegalTransition,
    PlatformError,
    RequestRefused,
)
from product_live_worker.model.execution import Execution, Outcome, State
from product_live_worker.product_live.budget import Purpose
from product_live_worker.product_live.client import Client
from product_live_worker.telemetry.events import (
    Emit,
    ExecutionReported,
    ReportConflicted,
    ReportPostponed,
    ReportUndeliverable,
    about,
)

PERHAPS_FINAL = frozenset({400, 404, 409, 410, 413, 422})
"""Refusals of a report that may be for good; the execution itself is read to know."""
STILL_WAITING = frozenset({"SCHEDULED", "IN_PROGRESS"})
"""Statuses in which the platform waits for a result, whatever a report was answered."""


class Reporter:
    """Takes SETTLED rows, leaves REPORTED ones, or UNDELIVERABLE."""

    def __init__(
        self, client: Client, journal: Journal, *, emit: Emit, chance: Callable[[], float] = random.random
    ) -> None:
        """`chance` gives numbers from 0 to 1, to spread retries."""
        self._client = client
        self._journal = journal
        self._emit = emit
        self._chance = chance

    async def run(self) -> None:
        """Report until cancelled; what is not reported by then is in the journal."""
        async with anyio.create_task_group() as reports:
            while True:
                execution = await self._journal.next(State.SETTLED)
                reports.start_soon(self._deliver, execution)

    async def idle(self) -> None:
        """Wait until no report is owed."""
        while self._journal.reports_waiting():
            await self._journal.changed()

    async def _deliver(self, execution: Execution) -> None:
        # Another worker may take it over, and report it; or a person may decide otherwise.
        with contextlib.suppress(IllegalTransition):
            while True:
                try:
                    return await self._send(execution)
                except PlatformError as error:
                    execution = await self._postpone(execution, error)
                    if self._journal.get(execution.id) is None:
                        # While it waited, a person has given it up.
                        return None

    async def _send(self, execution: Execution) -> None:
        outcome = _outcome(execution)
        oldest_first = execution.settled_at or 0.0
        await self._journal.written(execution.id)
        try:
            still = partial(self._journal.must_hold, execution.id)
            found = await self._client.update_execution(execution.id, outcome, order=oldest_first, still=still)
        except RequestRefused as refusal:
            if refusal.status not in PERHAPS_FINAL:
                raise
            found = await self._look(execution, order=oldest_first)
            if found != outcome.status:
                await self._give_up(execution, refusal, found)
                return
        if found is None or found in STILL_WAITING:
            # The success may be that of a page on the way, which the report has never passed: the platform is asked.
            found = await self._look(execution, order=oldest_first)
            if found in STILL_WAITING:
                raise AnswerUnreadable(f"the report was answered with success, and yet the platform has {found}")
        await self._close(execution, outcome, found)

    async def _look(self, execution: Execution, *, order: float) -> str | None:
        try:
            return (await self._client.read_execution(execution.id, Purpose.RECOVER, order=order)).status
        except RequestRefused:
            return None

    async def _close(self, execution: Execution, outcome: Outcome, found: str | None) -> None:
        conflict = found is not None and found != outcome.status
        spent = self._journal.spent(execution)
        closed = await self._journal.close(execution, f"the platform has {found}" if conflict else "")
        if conflict:
            self._emit(ReportConflicted(**about(execution), sent=outcome.status.value, found=str(found)))
        self._emit(
            ExecutionReported(
                **about(execution),
                status=outcome.status.value,
                code=outcome.code,
                message=outcome.message,
                waited_seconds=spent.waited,
                ran_seconds=spent.ran,
                claim_to_report_seconds=spent.in_all,
                attempts=closed.attempts + 1,
            )
        )

    async def _give_up(self, execution: Execution, refusal: RequestRefused, found: str | None) -> None:
        state = f"; the platform has it as {found}" if found else ""
        await self._journal.give_up(execution, f"{refusal}{state}")
        self._emit(ReportUndeliverable(**about(execution), reason=f"{refusal}{state}"))

    async def _postpone(self, execution: Execution, error: PlatformError) -> Execution:
        again_in = delay(execution.attempts + 1, self._chance(), at_least=error.retry_after)
        postponed = await self._journal.postpone(execution, str(error))
        attempts = execution.attempts + 1
        self._emit(ReportPostponed(**about(execution), reason=str(error), attempts=attempts, again_in=again_in))
        await anyio.sleep(again_in)
        return postponed


def _outcome(execution: Execution) -> Outcome:
    assert execution.outcome is not None  # noqa: S101 (a SETTLED row has one; see Journal.settle)
    return execution.outcome

"""Recovery: decides what becomes of executions that were running when their process died."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from product_live_worker.flow.backoff import Outage
from product_live_worker.journal.journal import Journal
from product_live_worker.model.errors import JournalUnwritable, PlatformError, RequestRefused
from product_live_worker.model.execution import FINAL_ELSEWHERE, Execution, Outcome
from product_live_worker.model.task import OnCrash
from product_live_worker.product_live.budget import Purpose
from product_live_worker.product_live.client import Client
from product_live_worker.telemetry.events import Emit

RESTARTED = "The worker was restarted while the handler ran; whether it had done its work is not known."


class Recovery:
    """Takes RUNNING rows of dead processes, leaves REPORTED, SETTLED or CLAIMED ones."""

    def __init__(self, client: Client, journal: Journal, on_crash: Callable[[str], OnCrash], *, emit: Emit) -> None:
        """`on_crash` gives a task's policy."""
        self._client = client
        self._journal = journal
        self._on_crash = on_crash
        self._outage = Outage("recovery", emit)

    async def recover(self, executions: list[Execution]) -> None:
        """Decide for each; patient with a platform that is away."""
        for execution in executions:
            while not await self._decide(execution):
                pass

    async def _decide(self, execution: Execution) -> bool:
        try:
            if await self._is_over(execution):
                await self._journal.close(execution, "the platform had ended it already")
            elif self._on_crash(execution.task) == "rerun":
                await self._journal.rerun(execution)
            else:
                await self._journal.settle(execution, Outcome.failed("worker_restarted", RESTARTED))
        except (PlatformError, JournalUnwritable) as error:
            await anyio.sleep(self._outage.failed(error))
            return False
        self._outage.worked()
        return True

    async def _is_over(self, execution: Execution) -> bool:
        try:
            found = await self._client.read_execution(execution.id, Purpose.RECOVER, order=execution.claimed_at)
        except RequestRefused:
            # Unknown to the platform: the report will be told so, and kept as undeliverable.
            return False
        return found.status in FINAL_ELSEWHERE

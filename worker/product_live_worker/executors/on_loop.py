"""Runs an `async def` handler on the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from product_live_worker.executors.perform import Work
    from product_live_worker.model.execution import Outcome


class OnLoop:
    """The event loop itself; what blocks it blocks everything."""

    async def run(self, work: Work) -> Outcome:
        """Give the handler's Outcome; cancelled when the caller is."""

        async def call(argument: Any) -> Any:
            return await work.handler.call(argument, work.context)

        return await work.outcome(call)

    def overdue(self, task: str) -> int:
        """Nothing stays behind here: a coroutine ends when it is cancelled."""
        return 0

"""Runs an `async def` handler on the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from product_live_worker.executors.perform import Call, Work
    from product_live_worker.executors.resources import Resources
    from product_live_worker.model.execution import Outcome


class OnLoop:
    """The event loop itself; what blocks it blocks everything."""

    def __init__(self, resources: Resources) -> None:
        """`resources` are what handlers share."""
        self._resources = resources

    async def run(self, work: Work) -> Outcome:
        """Give the handler's Outcome; cancelled when the caller is."""

        async def called(call: Call) -> Any:
            return await call(work.context)

        return await work.outcome(called, self._resources)

    def overdue(self, task: str) -> int:
        """Nothing stays behind here: a coroutine ends when it is cancelled."""
        return 0

    def trouble(self) -> str:
        """Nothing stands in the way: the loop is here."""
        return ""

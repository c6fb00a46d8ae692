"""Runs an `async def` handler on the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from product_live_worker.model.handler import Context, Handler


class OnLoop:
    """The event loop itself; what blocks it blocks everything."""

    async def run(self, handler: Handler, argument: Any, context: Context) -> Any:
        """Give the handler's result; cancelled when the caller is."""
        return await (handler(argument, context=context) if handler.takes_context else handler(argument))

    def overdue(self, task: str) -> int:
        """Nothing stays behind here: a coroutine ends when it is cancelled."""
        return 0

"""What the daemon lives by: its stages, each of which it ends with, and a word that asks it to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from product_live_worker.telemetry.events import Emit, StageDied


@dataclass
class Stop:
    """What ends the daemon; whoever hears of a reason to stop asks for it here."""

    reason: str = ""
    requested: anyio.Event = field(default_factory=anyio.Event)

    def request(self, reason: str) -> None:
        """Begin the drain."""
        self.reason = self.reason or reason
        self.requested.set()


class Stage:
    """A part that runs for as long as the daemon does, and whose end by an error is the daemon's."""

    def __init__(
        self, name: str, work: Callable[[], Awaitable[None]], emit: Emit, *, after: anyio.Event | None = None
    ) -> None:
        self._name = name
        self._work = work
        self._emit = emit
        self._after = after
        self._begun = False
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self) -> None:
        """Do the work once its turn has come; an error is said, and raised."""
        try:
            with self._scope:
                if self._after is not None:
                    await self._after.wait()
                self._begun = True
                await self._work()
        except Exception as error:
            self._emit(StageDied(stage=self._name, error=error))
            raise
        finally:
            self._ended.set()

    async def finish(self, grace: float = 0.0) -> None:
        """Give it `grace` seconds to end by itself, then end it."""
        with anyio.move_on_after(grace if self._begun else 0.0):
            await self._ended.wait()
        self._scope.cancel()
        await self._ended.wait()

"""The operators' actions: each worker looks for new ones every second, wherever they were asked for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from product_live_worker.journal.journal import Journal
from product_live_worker.model.action import Action
from product_live_worker.model.errors import JournalUnwritable
from product_live_worker.model.execution import Outcome
from product_live_worker.telemetry.events import ActionTaken, Emit, PauseExpired

LOOK = 1.0
"""Seconds between two looks: how long a pause that another process has asked for may go unnoticed."""
SURVEY = 5.0
"""Seconds between two surveys of what all workers on the journal have."""
REMEMBERED = 1000
"""Cancellations that are remembered, for an execution that another worker has yet to hand over."""


class Actions:
    """Takes actions out of the journal; pauses are read by the poller where the journal keeps them."""

    def __init__(
        self,
        journal: Journal,
        *,
        on_pauses: Callable[[], None],
        on_redeliver: Callable[[], None],
        end: Callable[[str, Outcome], Awaitable[None]],
        emit: Emit,
    ) -> None:
        """`on_pauses` hears that other tasks may be polled, `on_redeliver` that a row waits to be taken over.

        `end` ends an execution that runs here.
        """
        self._journal = journal
        self._on_pauses = on_pauses
        self._on_redeliver = on_redeliver
        self._end = end
        self._emit = emit
        self._begun = False
        self._cancelled: dict[str, Action] = {}
        self._turn = anyio.Lock()

    async def run(self) -> None:
        """Look until cancelled; what cannot be read now is read later."""
        survey_at, undeliverable = 0.0, 0
        while True:
            try:
                await self.look()
                # What somebody has to decide on is shown with the verdict that tells of it.
                if anyio.current_time() >= survey_at or self._journal.undeliverable != undeliverable:
                    undeliverable = self._journal.undeliverable
                    await self._journal.board.survey()
                    survey_at = anyio.current_time() + SURVEY
            except JournalUnwritable:
                # The journal itself has told of it.
                pass
            await anyio.sleep(self._wait())

    async def act(self, action: Action) -> None:
        """Ask for an action here; it has begun when this returns. Raises IllegalTransition, or JournalUnwritable."""
        await self._journal.board.act(action)
        await self.look()
        await self._journal.board.survey()

    async def look(self) -> None:
        """Do what is new; raises JournalUnwritable."""
        board = self._journal.board
        async with self._turn:
            before = board.pauses()
            new = await board.look()
            if board.pauses() != before:
                # At once: a poll that may be made again is not late by all the time that it could not.
                self._on_pauses()
            # What was asked for before this process began is told already, and done, but for cancellations.
            for action in new:
                self._note(action, is_new=self._begun)
            if self._begun:
                self._tell_expired(before, new)
            self._begun = True
            for execution_id, action in tuple(self._cancelled.items()):
                why = f": {action.why}" if action.why else "."
                await self._end(execution_id, Outcome.failed("cancelled", f"Cancelled by {action.who}{why}"))

    def _note(self, action: Action, *, is_new: bool) -> None:
        if action.verb == "cancel":
            self._cancelled[action.subject] = action
            if len(self._cancelled) > REMEMBERED:
                del self._cancelled[next(iter(self._cancelled))]
        if not is_new:
            return
        if action.verb == "discard":
            self._journal.let_go(action.subject)
        elif action.verb == "redeliver":
            self._on_redeliver()
        said = {"verb": action.verb, "subject": action.subject, "who": action.who, "why": action.why}
        self._emit(ActionTaken(**said))

    def _tell_expired(self, before: tuple[Action, ...], new: list[Action]) -> None:
        lifted = {action.subject for action in new if action.verb in ("pause", "resume")}
        for pause in before:
            if pause.subject not in lifted and self._journal.board.paused(pause.subject) is None:
                self._emit(PauseExpired(subject=pause.subject, who=pause.who))

    def _wait(self) -> float:
        ends = [pause.until - time.time() for pause in self._journal.board.pauses() if pause.until is not None]
        return max(0.01, min([LOOK, *ends]))

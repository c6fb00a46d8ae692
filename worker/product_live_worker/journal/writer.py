"""The one writer: steps that wait together share a transaction, so that a commit is paid once for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from product_live_worker.journal.database import BUSY_TIMEOUT, is_damage, is_locked
from product_live_worker.model.errors import JournalError, JournalUnusable, JournalUnwritable

Result = TypeVar("Result")
STILL_LOCKED = 0.2
"""Seconds to wait for a file that was locked the last time already."""
Step = Callable[[Connection], Any]


@dataclass
class _Entry:
    step: Step
    done: bool = False
    result: Any = None
    error: Exception | None = None


class Writer:
    """Runs steps on the database in one thread, in the order of their asking, each in a committed transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locked = False
        self._waiting: list[_Entry] = []
        self._turn = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)

    async def do(self, step: Callable[[Connection], Result]) -> Result:
        """Give the step's result once it is committed; raises what the step raises, JournalUnwritable or -Unusable.

        A step may be run twice (alone, after the group it was in could not be committed): it changes nothing but the
        database.
        """
        entry = _Entry(step)
        self._waiting.append(entry)
        # Shielded: once it is handed over, a step is committed whether or not its caller still waits.
        with anyio.CancelScope(shield=True):
            async with self._turn:
                if not entry.done:
                    group, self._waiting = self._waiting, []
                    await anyio.to_thread.run_sync(self._commit, group, limiter=self._thread)
        if entry.error is not None:
            raise entry.error
        return entry.result  # type: ignore[no-any-return]  # the step gave it

    def later(self, step: Step) -> None:
        """Put a step before the next one that somebody waits for; its failure is nobody's."""
        self._waiting.append(_Entry(step))

    def _commit(self, group: list[_Entry]) -> None:
        try:
            self._run(group)
        except DBAPIError as error:
            self._be_patient(locked=is_locked(error.orig))
            if len(group) > 1 and not is_locked(error.orig):
                for entry in group:
                    self._commit([entry])
            else:
                # Of a file that somebody else has locked, none will get hold: they have waited together.
                for entry in group:
                    entry.error = self._told(error)
        else:
            self._be_patient(locked=False)
        for entry in group:
            entry.done = True

    def _be_patient(self, *, locked: bool) -> None:
        """Wait for long only once: who holds the file for longer is stopped, and reports go on from memory."""
        if locked is self._locked:
            return
        self._locked = locked
        with contextlib.closing(self._engine.raw_connection()) as connection:
            wait = STILL_LOCKED if locked else BUSY_TIMEOUT
            connection.cursor().execute(f"PRAGMA busy_timeout = {wait * 1000:.0f}")

    def _told(self, error: DBAPIError) -> JournalError:
        if is_damage(error.orig):
            return JournalUnusable(
                f"the journal {self._engine.url.database} is damaged ({error.orig}); what can be read of it, "
                f"`executions list` shows. Move it away to start with an empty one"
            )
        return JournalUnwritable(f"the journal cannot be written: {error.orig}")

    def _run(self, group: list[_Entry]) -> None:
        with self._engine.begin() as connection:
            for entry in group:
                entry.error = None
                try:
                    entry.result = entry.step(connection)
                except DBAPIError:
                    raise
                except Exception as error:  # noqa: BLE001 (the step's own refusal, raised before it wrote)
                    entry.error = error

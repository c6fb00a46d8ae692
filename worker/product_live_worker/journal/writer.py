"""The one writer: in a file, steps that wait together share a transaction, so that a commit is paid once for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from product_live_worker.journal.backend import Backend

Result = TypeVar("Result")
Step = Callable[[Connection], Any]


@dataclass
class _Entry:
    step: Step
    at_once: bool = False
    done: bool = False
    result: Any = None
    error: Exception | None = None


class Writer:
    """Runs steps on the database in one thread, in the order of their asking, each committed when it is done."""

    def __init__(self, database: Backend) -> None:
        self._database = database
        self._waiting: list[_Entry] = []
        self._turn = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)

    async def do(self, step: Callable[[Connection], Result], *, at_once: bool = False) -> Result:
        """Give the step's result once it is committed; raises what the step raises, JournalUnwritable or -Unusable.

        A step may be run twice (alone, after the group it was in could not be committed): it changes nothing but the
        database. Its statements may be committed one by one, unless it wants them to be `at_once`.
        """
        entry = _Entry(step, at_once)
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
        if self._database.together:
            self._commit_together(group)
        else:
            self._commit_one_by_one(group)
        for entry in group:
            entry.done = True

    def _commit_together(self, group: list[_Entry]) -> None:
        error = self._run(group)
        if error is not None and len(group) > 1 and self._database.one_by_one(error):
            self._commit_one_by_one(group)

    def _commit_one_by_one(self, group: list[_Entry]) -> None:
        for number, entry in enumerate(group):
            error = self._run([entry])
            if error is not None and self._database.is_race(error):
                error = self._run([entry])
            if error is not None and not self._database.one_by_one(error):
                for other in group[number:]:
                    other.error = self._database.told(error)
                break

    def _run(self, group: list[_Entry]) -> DBAPIError | None:
        """Run steps in one transaction; gives what the database has against it, which is each step's error then."""
        try:
            with self._database.begin(at_once=self._database.together or group[0].at_once) as connection:
                for entry in group:
                    entry.error = None
                    try:
                        entry.result = entry.step(connection)
                    except DBAPIError:
                        raise
                    except Exception as error:  # noqa: BLE001 (the step's own refusal, raised before it wrote)
                        entry.error = error
        except DBAPIError as error:
            self._database.failed(error)
            for entry in group:
                entry.error = self._database.told(error)
            return error
        self._database.worked()
        return None

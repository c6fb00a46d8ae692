"""The noted handlers, in a worker that kills itself at one commit of its journal: the one that KILL_AT names.

KILL_AT is "before X" or "after X"; X is what the transaction writes down of an execution (`verb` below). Of a
checkpoint with a phase, as those of remote jobs, X may be "checkpoint <phase>".
"""

from __future__ import annotations

import os
import re
import signal
from typing import Any

from sqlalchemy import Connection, Engine, Pool, event

from support.noted_handlers import again, slow, steps

__all__ = ["again", "slow", "steps"]

STATES = {"CLAIMED": "rerun", "RUNNING": "start", "SETTLED": "settle", "REPORTED": "close"}


def verb(statement: str, first: Any) -> str | None:
    """Name what a statement, with its first value, writes down of an execution."""
    if statement.startswith("INSERT INTO executions"):
        return "claim"
    if re.match(r"UPDATE executions SET holder=", statement):
        return "take over"
    if not re.match(r"UPDATE executions SET state=", statement):
        return None
    return "checkpoint" if "checkpoint=" in statement and first == "RUNNING" else STATES[first]


def verbs(statement: str, values: Any) -> set[str | None]:
    """Give the verb, and for a checkpoint that has a phase that one too."""
    found = verb(statement, values[0] if values else None)
    texts = (value for value in values if isinstance(value, str)) if found == "checkpoint" else ()
    phases = (re.search(r'"phase": "(\w+)"', text) for text in texts)
    return {found, *(f"checkpoint {phase[1]}" for phase in phases if phase)}


class _Fuse:
    """Follows each transaction from its statements to its end."""

    def __init__(self, when: str, what: str) -> None:
        self.when = when
        self.what = what
        self.written: set[str | None] = set()
        self.committed: set[str | None] = set()

    def execute(self, _connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self.written |= verbs(statement, parameters)

    def commit(self, _connection: Connection) -> None:
        self.burn("before", self.written)
        self.committed, self.written = self.written, set()

    def rollback(self, _connection: Connection) -> None:
        self.written = set()

    def checkin(self, *_: Any) -> None:
        # The connection is given back right after the commit, and before anybody learns of it.
        self.burn("after", self.committed)
        self.committed = set()

    def burn(self, when: str, verbs: set[str | None]) -> None:
        if when == self.when and self.what in verbs:
            os.kill(os.getpid(), signal.SIGKILL)


def _arm(when: str, what: str) -> None:
    fuse = _Fuse(when, what)
    event.listen(Engine, "before_cursor_execute", fuse.execute)
    event.listen(Engine, "commit", fuse.commit)
    event.listen(Engine, "rollback", fuse.rollback)
    event.listen(Pool, "checkin", fuse.checkin)


if "KILL_AT" in os.environ:
    _arm(*os.environ["KILL_AT"].split(" ", 1))

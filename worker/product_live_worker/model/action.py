"""What an operator asks of the workers: to pause, to resume, to send again, to give up, to end what runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

Verb = Literal["pause", "resume", "redeliver", "discard", "cancel"]
VERBS: tuple[Verb, ...] = get_args(Verb)
OF_POLLING = frozenset[Verb]({"pause", "resume"})
"""What is asked of a task, or of all; the others are asked of an execution."""
ALL = ""
"""The subject of a pause that is of all tasks."""
LONGEST = 500
"""Characters of a name or a reason at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One wish of an operator, as the journal keeps it. Moments are Unix seconds: people agree on them."""

    verb: Verb
    subject: str = ALL
    """The key of a task, ALL for all of them, or the id of an execution."""
    who: str
    why: str = ""
    at: float
    until: float | None = None
    """When a pause ends by itself; None is never."""
    number: int = 0
    """Its place among all actions, once it is in the journal."""

    def told(self) -> str:
        """Say it of a pause, as in "paused by anna until 2026-11-26 14:00 UTC: migration"."""
        until = "until it is resumed" if self.until is None else f"until {_minute(self.until)}"
        return f"paused by {self.who} {until}" + (f": {self.why}" if self.why else "")


def one_line(text: str) -> str:
    """Make a name or a reason fit for a line of a log and a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST]


def _minute(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")

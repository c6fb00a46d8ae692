"""What the doctor finds: a line for a person, and the same for a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `text` says what was found, `cure` what to do when it is not `ok`."""

    level: Level
    subject: str
    text: str
    cure: str = ""

    @classmethod
    def ok(cls, subject: str, text: str) -> Self:
        """It is as it should be."""
        return cls("ok", subject, text)

    @classmethod
    def warn(cls, subject: str, text: str, cure: str = "") -> Self:
        """The worker would run, and yet not do what may be wanted."""
        return cls("warn", subject, text, cure)

    @classmethod
    def fail(cls, subject: str, text: str, cure: str = "") -> Self:
        """The worker would not do its work."""
        return cls("fail", subject, text, cure)

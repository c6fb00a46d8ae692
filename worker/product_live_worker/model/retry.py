"""How often a handler is tried again inside one claim."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Retry:
    """When a handler raises one of these errors, call it again with the same input, while its deadline allows.

    As in `@handler("export", retry=Retry(attempts=3, on=(httpx.TransportError,)))`. A TaskFailed is never retried, and
    what is left of the deadline decides: when the next attempt would begin after it, the last error is the outcome.
    Raises TypeError for values that cannot be used.
    """

    attempts: int
    """Calls at most, the first one included."""
    on: Any
    """An exception class, or a tuple of them."""
    wait: float = 1.0
    """Seconds before the second call; doubled before each further one, with up to a quarter of it more by chance."""
    longest_wait: float = 60.0
    """Seconds between two calls at most."""

    def __post_init__(self) -> None:
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise TypeError(f"Retry: on is an exception class or a tuple of them, as (OSError,); found {self.on!r}")
        attempts: Any = self.attempts
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 2:
            raise TypeError(f"Retry: attempts is a whole number from 2, the first call included; found {attempts!r}")
        for name in ("wait", "longest_wait"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
                raise TypeError(f"Retry: {name} is a number of seconds; found {seconds!r}")
        object.__setattr__(self, "on", kinds)

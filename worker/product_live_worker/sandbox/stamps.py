"""Ids and dates as the platform writes them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class Stamps:
    """Makes ids of `random`, and dates of a clock that read zero at Unix time `epoch`."""

    def __init__(self, random: Random, epoch: float) -> None:
        self._random = random
        self._epoch = epoch

    def new_id(self) -> str:
        """Make 24 hex digits, as definitions and executions have."""
        return f"{self._random.getrandbits(96):024x}"

    def new_correlation_id(self) -> str:
        """Make a UUID, as job executions have."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def date(self, now: float) -> str:
        """Write `now` in ISO 8601."""
        moment = datetime.fromtimestamp(self._epoch + now, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""The demonstration: submits executions of `power` as jobs would, and judges what became of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import anyio

from product_live_worker.sandbox.records import FINAL

if TYPE_CHECKING:
    from product_live_worker.sandbox.records import Execution
    from product_live_worker.sandbox.world import World

TASK = "power"
FIRST_BURST = 4
SHORTEST, LONGEST = 2.0, 6.0
"""Seconds between two submissions; together with idle polls they fit the budget."""
LAST_REPORTS = 15.0
"""Seconds that the last executions have to be reported."""


@dataclass
class Demo:
    """What was submitted, and how much of it ended right."""

    world: World
    random: Random
    submitted: list[tuple[Execution, int]] = field(default_factory=list)

    async def run(self, seconds: float | None) -> None:
        """Submit for so many seconds, or for ever; then wait until all is reported."""
        with anyio.move_on_after(seconds):
            for _ in range(FIRST_BURST):
                self._submit()
            while True:
                await anyio.sleep(self.random.uniform(SHORTEST, LONGEST))
                self._submit()
        with anyio.move_on_after(LAST_REPORTS):
            while not all(execution.status in FINAL for execution, _ in self.submitted):  # noqa: ASYNC110 (a world is plain)
                await anyio.sleep(0.05)

    def _submit(self) -> None:
        power = self.random.randint(0, 64)
        self.submitted.append((self.world.submit(TASK, {"power": power}, time.monotonic()), power))

    def right(self) -> int:
        """Count the executions that ended with the right output."""
        return sum(
            execution.status == "COMPLETED" and execution.output == {"result": 2**power}
            for execution, power in self.submitted
        )

    def summary(self) -> list[tuple[str, str]]:
        """Give what happened, line by line."""
        claimed = [execution for execution, _ in self.submitted if execution.claimed_at is not None]
        took = sorted(
            execution.finished_at - execution.claimed_at
            for execution in claimed
            if execution.finished_at is not None and execution.claimed_at is not None
        )
        return [
            ("submitted", str(len(self.submitted))),
            ("claimed", str(len(claimed))),
            ("completed with the right output", str(self.right())),
            ("failed", str(sum(execution.status == "FAILED" for execution, _ in self.submitted))),
            ("requests used", str(len(self.world.arrivals))),
            (
                f"most requests in any {self.world.limiter.window:g} s",
                f"{self.world.limiter.largest_window} of {self.world.limiter.limit}",
            ),
            ("claim to report, median", f"{took[len(took) // 2] * 1000:.0f} ms" if took else "-"),
            ("claim to report, longest", f"{took[-1] * 1000:.0f} ms" if took else "-"),
        ]

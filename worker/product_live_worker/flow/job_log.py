"""The job log: lines for the users of jobs, in the log of their job on the platform. Nothing waits for them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from product_live_worker.flow.backoff import delay
from product_live_worker.model.errors import PlatformError, RequestRefused
from product_live_worker.model.execution import Execution, Status
from product_live_worker.product_live.client import Client
from product_live_worker.telemetry.events import Emit, Event, ExecutionReported, JobLogLine, JobLogOff, JobLogRefused

WAITING = 200
"""Lines that wait at most; of more, the oldest are dropped."""
ATTEMPTS = 3
LONGEST = 4000
"""Characters of a line."""
NOT_THERE = frozenset({404, 405, 410})
"""Answers of a platform that has no Logs API, or has it elsewhere."""


@dataclass(frozen=True, slots=True)
class _Line:
    task: str
    correlation: str
    message: str
    severity: str


class JobLog:
    """Hears of FAILED executions and of what handlers report, and passes it on when the budget has nothing better."""

    def __init__(
        self,
        client: Client,
        *,
        path: str,
        wanted: bool,
        emit: Emit,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`path` is that of the Logs API; `wanted` False keeps silent."""
        self.on = wanted
        self._client = client
        self._path = path
        self._emit = emit
        self._chance = chance
        self._lines: deque[_Line] = deque()
        self._changed = anyio.Event()
        self._refused_before = False

    def read(self, event: Event) -> None:
        """Hear of an event: of an outcome FAILED, once the platform has it, its message is a line."""
        if isinstance(event, ExecutionReported) and event.status == Status.FAILED.value:
            self._add(event.task, event.correlation, event.message, "error")

    async def report(self, execution: Execution, said: dict[str, Any]) -> None:
        """Take what a handler reports."""
        self._add(execution.task, execution.correlation_id, str(said["message"]), str(said["severity"]))

    async def run(self) -> None:
        """Send the lines, one after the other, until cancelled."""
        while True:
            while self._lines and self.on:
                await self._send(self._lines[0])
            self._lines.clear()
            self._change()
            await self._changed.wait()

    async def idle(self) -> None:
        """Wait until no line waits."""
        while self._lines and self.on:
            await self._changed.wait()

    def _add(self, task: str, correlation: str | None, message: str, severity: str) -> None:
        # Without the correlation id of its job nobody could tell where the line belongs.
        if not self.on or correlation is None or not message:
            return
        if len(self._lines) == WAITING:
            self._lines.popleft()
            self._emit(JobLogLine(outcome="dropped"))
        self._lines.append(_Line(task, correlation, message[:LONGEST], severity))
        self._change()

    async def _send(self, line: _Line) -> None:
        outcome = await self._outcome(line)
        # While it was sent, it may have been dropped as the oldest.
        if self._lines and self._lines[0] is line:
            self._lines.popleft()
        self._emit(JobLogLine(outcome=outcome))
        self._change()

    async def _outcome(self, line: _Line) -> str:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._client.write_log(
                    self._path, line.correlation, emitter=line.task, message=line.message, severity=line.severity
                )
            except RequestRefused as refusal:
                self._explain(refusal)
                return "failed"
            except PlatformError as error:
                if attempt < ATTEMPTS:
                    await anyio.sleep(delay(attempt, self._chance(), at_least=error.retry_after))
            except Exception as error:  # noqa: BLE001 (whatever it is, a line is not worth a worker)
                self._explain(error)
                return "failed"
            else:
                return "sent"
        return "failed"

    def _explain(self, refusal: Exception) -> None:
        """Say it once, whichever it is: nobody's work depends on these lines."""
        if isinstance(refusal, RequestRefused) and refusal.status in NOT_THERE:
            self.on = False
            self._emit(JobLogOff(path=self._path, reason=str(refusal)))
        elif not self._refused_before:
            self._refused_before = True
            self._emit(JobLogRefused(reason=f"{type(refusal).__name__}: {refusal}"))

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

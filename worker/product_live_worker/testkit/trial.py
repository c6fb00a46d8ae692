"""One execution of a handler without a daemon: what it is given, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from product_live_worker.executors.alone import run_alone
from product_live_worker.model.context import Context, Log
from product_live_worker.model.execution import Outcome, idempotency_key
from product_live_worker.model.handler import Handler
from product_live_worker.testkit.files import Uploaded, fake_transfers

GLANCE = 0.005
"""Seconds between two looks at whether the execution is to be cancelled."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a handler wrote to `context.log`."""

    level: str
    """"debug", "info", "warning" or "error"."""
    event: str
    """What it says."""
    fields: Mapping[str, Any]
    """The values that go with it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a handler said to the user of the job with `context.report`."""

    severity: str
    """"info", "warning" or "error"."""
    message: str
    """What it says."""


@dataclass
class Trial:
    """An execution that a test makes up. It may be run again, as after a crash: with its last checkpoint.

    `settings`: the section `[tasks.<key>.settings]`. `connections`: the sections `[connections.<name>]`. `checkpoint`:
    what an earlier run has saved. `timeout`: seconds, instead of the handler's own. `cancel_when`: asked again and
    again while the handler runs, with this trial; once it says True, the handler is ended as at the end of a drain, and
    the outcome is FAILED `cancelled`. (In production, a handler with `on_crash="rerun"` is not reported then, but run
    again by the next start.) `files`: what `context.files.download` finds, by the id, the address or the name of a
    file; what is uploaded is added.

    A crash after the first checkpoint, and the next start:

        trial = Trial(cancel_when=lambda trial: bool(trial.checkpoints))
        assert trial.run(export, {"table": "prices"}).code == "cancelled"
        assert trial.checkpoints == [{"run": "r1"}]
        trial.cancel_when = None
        assert trial.run(export, {"table": "prices"}).status == "COMPLETED"
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] | None = None
    timeout: float | None = None
    cancel_when: Callable[[Trial], bool] | None = None
    execution_id: str = "trial"
    files: dict[str, bytes] = field(default_factory=dict)
    connections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    """All that was saved by `context.save_checkpoint`, the latest last."""
    lines: list[Line] = field(default_factory=list)
    """All that was written to `context.log`; pytest shows it too, when the test fails."""

    uploads: list[Uploaded] = field(default_factory=list)
    """All that was uploaded by `context.files.upload`."""
    reports: list[Report] = field(default_factory=list)
    """All that was said by `context.report`."""

    def run(self, handler: Handler, input: Any) -> Outcome:
        """Run the handler and give what would be reported; input and output pass through JSON.

        `input` is what the platform would send. Raises TypeError or ValueError for an input that is no JSON, an error
        that names each setting that the handler cannot use (a worker would not start), and nothing that the handler
        raises: that is an Outcome.
        """
        handler.read_settings(self.settings)
        sent = json.loads(json.dumps(input, allow_nan=False))
        if self.timeout is not None:
            handler = replace(handler, timeout=self.timeout)
        outcome = anyio.run(self._run, handler, sent)
        return Outcome(outcome.status, json.loads(json.dumps(outcome.output, allow_nan=False)))

    async def _run(self, handler: Handler, sent: Any) -> Outcome:
        outcome = Outcome.failed("cancelled", "The worker was stopped before the handler ended.")
        async with anyio.create_task_group() as running:
            if self.cancel_when is not None:
                running.start_soon(self._cancel, self.cancel_when, running.cancel_scope)
            outcome = await run_alone(
                handler,
                sent,
                self.settings,
                connections=self.connections,
                execution_id=self.execution_id,
                adapt=lambda context: self._adapt(context, idempotency_key(handler.name, sent)),
            )
            running.cancel_scope.cancel()
        return outcome

    def _adapt(self, context: Context, key: str) -> Context:
        assert context.directory is not None  # noqa: S101 (run_alone gives one)
        return replace(
            context,
            idempotency_key=key,
            checkpoint=self.checkpoint,
            verbs={
                "save_checkpoint": self._save,
                "report": self._report,
                **fake_transfers(self.files, self.uploads, context.directory),
            },
            log=_Recorder(context.log, self.lines),
        )

    async def _save(self, checkpoint: dict[str, Any]) -> None:
        self.checkpoint = checkpoint
        self.checkpoints.append(checkpoint)

    async def _report(self, said: dict[str, str]) -> None:
        self.reports.append(Report(said["severity"], said["message"]))

    async def _cancel(self, cancel_when: Callable[[Trial], bool], running: anyio.CancelScope) -> None:
        while not cancel_when(self):  # noqa: ASYNC110 (what is waited for is whatever the test can think of)
            await anyio.sleep(GLANCE)
        running.cancel()


class _Recorder:
    def __init__(self, log: Log, lines: list[Line]) -> None:
        self._log = log
        self._lines = lines

    def debug(self, event: str, **fields: Any) -> None:
        self._lines.append(Line("debug", event, fields))
        self._log.debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        self._lines.append(Line("info", event, fields))
        self._log.info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._lines.append(Line("warning", event, fields))
        self._log.warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self._lines.append(Line("error", event, fields))
        self._log.error(event, **fields)

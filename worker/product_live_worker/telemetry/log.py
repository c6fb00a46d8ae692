"""Events as log lines: readable on a terminal, JSON elsewhere. Inputs, outputs and the key are never among them."""

from __future__ import annotations

import dataclasses
import logging
import sys
from typing import Any, Literal, TextIO

import structlog

from product_live_worker.model.context import Log
from product_live_worker.telemetry import events
from product_live_worker.telemetry.events import Event
from product_live_worker.telemetry.redaction import Secrets, redacted

Format = Literal["auto", "text", "json"]
Level = Literal["debug", "info", "warning", "error"]

LINES: dict[type[Event], tuple[Level, str]] = {
    events.WorkerStarted: ("info", "worker started"),
    events.TasksServed: ("info", "serving tasks"),
    events.DrainTooShort: ("warning", "a stop does not wait for as long as these handlers may run"),
    events.TimeoutShortened: (
        "warning",
        "the platform waits less long than the handler's timeout; the handler gets less",
    ),
    events.DrainStarted: ("info", "stopping: nothing more is claimed"),
    events.ActionTaken: ("info", "an operator has acted"),
    events.ActionRefused: ("warning", "what a signal asked for could not be done"),
    events.PauseExpired: ("info", "a pause has ended by itself"),
    events.WorkerStopped: ("info", "worker stopped"),
    events.StageDied: ("error", "a stage of the worker died, the process ends"),
    events.LoopBlocked: (
        "warning",
        "a blocking call holds the event loop; make its handler a def, or give it a thread",
    ),
    events.RequestAnswered: ("debug", "request answered"),
    events.ClaimAmbiguous: ("warning", "a poll may have claimed an execution that never arrived here"),
    events.OutageStarted: ("error", "outage started"),
    events.OutageEnded: ("info", "outage ended"),
    events.ExecutionClaimed: ("debug", "execution claimed"),
    events.ExecutionRepeated: ("warning", "the platform offered an execution again"),
    events.ExecutionRecovered: ("warning", "an execution of a dead worker was recovered"),
    events.HandlerFailed: ("error", "handler failed"),
    events.HandlerProcessEnded: ("warning", "a handler's process has ended in the middle of an execution"),
    events.ExecutionUnwanted: ("warning", "the platform had ended an execution that still ran; its handler is stopped"),
    events.ExecutionSettled: ("debug", "execution settled"),
    events.ReportPostponed: ("debug", "report postponed"),
    events.ReportConflicted: ("warning", "the platform has another status than the one reported"),
    events.ExecutionReported: ("info", "execution reported"),
    events.JobLogOff: (
        "warning",
        "the platform has no Logs API there (log.platform_path); nothing more is written to the logs of jobs",
    ),
    events.JobLogRefused: ("warning", "a line for the log of a job cannot be written; further ones are not told of"),
    events.ReportUndeliverable: ("error", "the platform refuses this result for good; it stays in the journal"),
}
"""What is logged, at which level, in which words; an event that is not here is only counted."""


def configure(
    level: Level,
    format: Format = "auto",
    *,
    secrets: Secrets = tuple,
    stream: TextIO | None = None,
) -> None:
    """Set up the process's logging; `secrets` gives texts that no line may hold, whoever writes it."""
    out = sys.stdout if stream is None else stream
    text = format == "text" or (format == "auto" and out.isatty())
    ending: list[Any] = (
        # Never the rich tracebacks: they print local variables, and with them inputs.
        [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
            *ending,
            _Redactor(secrets),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _adopt_standard_logging(level)


def log_for(**fields: Any) -> Log:
    """Give a log whose lines all carry these fields."""
    log: Log = structlog.get_logger().bind(**{name: value for name, value in fields.items() if value is not None})
    return log


def log_event(event: Event) -> None:
    """Write the event's line, if it has one."""
    if type(event) not in LINES:
        return
    level, words = LINES[type(event)]
    if isinstance(event, events.ReportPostponed) and event.attempts == 1:
        level = "warning"
    said = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    fields = {name: value for name, value in said.items() if value not in (None, "", ())}
    error = fields.pop("error", None)
    if error is not None:
        fields["exc_info"] = error
    structlog.get_logger().log(logging.getLevelNamesMapping()[level.upper()], words, **_readable(fields))


def _readable(fields: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {n: round(value, 3) if isinstance(value, float) else value for n, value in fields.items()}
    if "handlers" in shown:
        shown["handlers"] = "; ".join(shown["handlers"])
    if "tasks" in shown:
        shown["tasks"] = ", ".join(key if key == handler else f"{key} by {handler}" for key, handler in shown["tasks"])
    return shown


class _Redactor:
    """The last step of every line."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def __call__(self, _logger: Any, _method: str, line: Any) -> Any:
        line = redacted(line, self._secrets())
        # Half a character, as in the name of a file that is no UTF-8, could not be written.
        return line.encode("utf-8", "backslashreplace").decode()


class _Adopted(logging.Handler):
    """Lets lines of libraries and plugins that use the standard logging come out like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"logger": record.name, **({"exc_info": record.exc_info} if record.exc_info else {})}
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 (the standard logging forgives values that do not fit; so do we)
            message = str(record.msg)
        # A library's own levels lie between the standard ones.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        structlog.get_logger().log(level, message, **fields)


def _adopt_standard_logging(level: Level) -> None:
    root = logging.getLogger()
    root.handlers = [_Adopted()]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "uvicorn", "asyncio", "alembic", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

"""What a handler may know of the execution it runs, and ask of the worker: `Context`."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from product_live_worker.model.files import SHARE, Files, no_transfers, read_answer

Verb = Callable[[Any], Coroutine[Any, Any, Any]]
"""Something that the worker does for a handler: JSON in, JSON out, so that it can be asked from another process."""


Severity = Literal["info", "warning", "error"]


class NotSaved(RuntimeError):
    """A checkpoint could not be written down: the journal's disk, or its database, takes nothing just now."""


class Log(Protocol):
    """Structured log lines that carry the execution's id and correlation id."""

    def debug(self, event: str, **fields: Any) -> Any:
        """Write a line that is only of use to the handler's author."""

    def info(self, event: str, **fields: Any) -> Any:
        """Write a line of ordinary progress."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Write a line about something odd that did not stop the work."""

    def error(self, event: str, **fields: Any) -> Any:
        """Write a line about something that went wrong."""


async def _keep_nothing(_: Any) -> None:
    return None


async def _nobody_listens(_: Any) -> Any:
    raise RuntimeError("only a worker that runs listens for callbacks; here there is none")


def _on_the_loop(verb: Verb, argument: Any) -> Coroutine[Any, Any, Any]:
    return verb(argument)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a handler may know of the execution it runs, and do beside returning its result."""

    execution_id: str
    """The platform's id of this execution; a retry by the platform has another."""
    task: str
    """The key of the task."""
    deadline: datetime
    """When the handler is stopped and FAILED with code `timeout` is reported (UTC)."""
    log: Log
    """Writes lines that carry the execution's id."""
    settings: Any = field(default_factory=dict)
    """The section `[tasks.<key>.settings]`, as the model that the handler asks for, or as a dict."""
    idempotency_key: str = ""
    """The same for a retry by the platform, whose execution id is new: correlation id + task + hash of the input."""
    checkpoint: Mapping[str, Any] | None = None
    """What was saved last before the worker was killed, or by the execution that this one repeats (on_repeat="adopt");
    None when it runs for the first time."""
    connection: Any = None
    """The section `[connections.<name>]` that the task's settings name, as the model that a resource asks for."""
    directory: Path | None = field(default=None, repr=False)
    verbs: Mapping[str, Verb] = field(default_factory=dict, repr=False)
    call: Callable[[Verb, Any], Any] = field(default=_on_the_loop, repr=False)

    @property
    def workdir(self) -> Path:
        """A directory for this execution alone (0700), made when first asked for, removed afterwards with all in it."""
        if self.directory is None:
            raise RuntimeError("this context was made by hand and has no work directory")
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError as error:
            raise RuntimeError(f"the work directory is not on this machine: {SHARE}") from error
        return self.directory

    @property
    def files(self) -> Files:
        """Downloads into `workdir`, and uploads: see Files."""
        return Files(self._ask)

    def report(self, message: str, *, severity: Severity = "info") -> Any:
        """Tell the user of the job: a line in the job's log on Product-Live, "info", "warning" or "error".

        `await` it in an `async def` handler; in a `def` handler it is an ordinary call. It never waits for the
        platform and never fails: lines go out when the budget has nothing better to do, the oldest of too many are
        dropped, and there are none for an input without `eventCorrelationId` or with `log.platform = false`. Raises
        ValueError for another severity, and TypeError for what is no text.
        """
        if not isinstance(message, str):
            raise TypeError(f"context.report: the message is a text; found {type(message).__name__}")
        if severity not in typing.get_args(Severity):
            raise ValueError(f"context.report: severity is 'info', 'warning' or 'error'; found {severity!r}")
        return self.call(self.verbs.get("report", _keep_nothing), {"message": message, "severity": severity})

    def _ask(self, name: str, argument: Any, read: Callable[[Any], Any]) -> Any:
        verb: Verb = self.verbs.get(name) or no_transfers

        async def ask(argument: Any) -> Any:
            return read_answer(await verb(argument), read)

        return self.call(ask, argument)

    def save_checkpoint(self, checkpoint: Mapping[str, Any]) -> Any:
        """Write down how far the work has come; durable when it returns. JSON values only.

        `await` it in an `async def` handler; in a `def` handler it is an ordinary call. After a crash, a handler with
        `on_crash="rerun"` is called again with it in `context.checkpoint`. Raises TypeError or ValueError for what
        is no JSON, and NotSaved (in a process of its own or on a cluster, a RuntimeError) while the journal cannot be
        written: what a crash would leave is then what was saved before.
        """
        saved = json.loads(json.dumps(dict(checkpoint), allow_nan=False))
        return self.call(self.verbs.get("save_checkpoint", _keep_nothing), saved)

    def remaining(self) -> float:
        """Give the seconds left before the deadline, never less than 0."""
        return max(0.0, (self.deadline - datetime.now(UTC)).total_seconds())

    def lease(self, key: str, *, timeout: float | None = None) -> Lease:
        """Give a named lease: at most one execution has it at a time, among all workers on this journal.

        `async with context.lease("orders"):` waits for it in an `async def` handler, `with` in a `def` handler; after
        `timeout` seconds, if there is one, it raises TimeoutError, which names the execution that has it. The lease
        outlives a crash for as long as the execution is to be run again, and ends with the execution at the latest.
        """
        return Lease(key, self, timeout)

    def callback(self) -> Any:
        """Give this execution's `Callback`, an address for another system to call; `await` it on the loop.

        The address is unguessable, the same after a crash and for a retry by the platform. Raises RuntimeError unless
        the settings have `http.public_url` and `http.callback_port`.
        """

        async def made(_: Any) -> Callback:
            return Callback(await self.verbs.get("callback", _nobody_listens)(None), self)

        return self.call(made, None)

    def ended(self) -> Any:
        """Give the status with which the platform has ended this execution while it ran ("CANCELED"), or None.

        For a handler that is being cancelled; `await` it on the loop, in a scope that is shielded.
        """
        return self.call(self.verbs.get("ended", _keep_nothing), None)


@dataclass(frozen=True, slots=True)
class Callback:
    """An address that another system may call, and what has arrived there."""

    url: str
    """Under `http.public_url`; whoever knows it may call it, so it belongs into no log."""
    context: Context = field(repr=False)

    def received(self, *, after: int = 0, timeout: float = 0.0) -> Any:
        """Give what arrived after the body of this number: `[{"number": 7, "body": "…"}, …]`; `await` it on the loop.

        Waits up to `timeout` seconds for something to arrive, else gives an empty list. Anybody may have sent it, it
        may come twice, or never: a hint, to be confirmed by asking.
        """
        wanted = {"after": after, "timeout": timeout}
        return self.context.call(self.context.verbs.get("received", _nobody_listens), wanted)


@dataclass(frozen=True, slots=True)
class Lease:
    """A named lease, taken while the block runs."""

    key: str
    context: Context = field(repr=False)
    timeout: float | None = None
    """Seconds for which it is waited for."""

    async def __aenter__(self) -> None:
        self._read(await self._take())

    async def __aexit__(self, *_: object) -> None:
        await self._release()

    def __enter__(self) -> None:
        if self.context.call is _on_the_loop:
            raise TypeError("in an `async def` handler a lease is taken by `async with`")
        self._read(self._take())

    def __exit__(self, *_: object) -> None:
        self._release()

    def _take(self) -> Any:
        wanted = {"key": self.key, "timeout": self.timeout}
        return self.context.call(self.context.verbs.get("lease", _keep_nothing), wanted)

    def _read(self, holder: str | None) -> None:
        if holder is not None:
            text = f"the execution {holder} has the lease {self.key!r}, which was waited for {self.timeout:g} s"
            raise TimeoutError(text)

    def _release(self) -> Any:
        return self.context.call(self.context.verbs.get("release", _keep_nothing), self.key)

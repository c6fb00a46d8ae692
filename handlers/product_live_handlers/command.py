"""Runs a program in any language: the input as JSON on its stdin, the output as JSON from its stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import anyio
from anyio.abc import ByteReceiveStream, Process
from pydantic import AfterValidator, Field

from product_live_handlers.settings import HandlerSettings
from product_live_worker import Context, Log, TaskFailed, handler

PASSED_ON = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("SYSTEMROOT", "COMSPEC", "PATHEXT", "USERPROFILE", "TEMP", "TMP"),
)
"""The worker's own variables that a program gets; the API key is in none of them."""
GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL, and those that stdout may stay open after the program's end."""
MOST_LINES = 1000
"""Lines of stderr that are logged; a program that says more is not heard."""
LONGEST_LINE = 2000
"""Characters of a line that are logged."""
LAST_LINE = 500
"""Characters of the last line that a failure's message repeats."""


def _a_program(argv: list[str]) -> list[str]:
    program = argv[0]
    if not program or (program != Path(program).name and not Path(program).is_absolute()):
        raise ValueError('the first text must be an absolute path, or a name found in PATH, as in ["/usr/bin/x", "-y"]')
    return argv


class CommandSettings(HandlerSettings):
    """The section `[tasks.<key>.settings]` of a task that `command` serves."""

    command: Annotated[list[str], Field(min_length=1), AfterValidator(_a_program)]
    """The program and its arguments; no shell reads them, and nothing of the input is among them."""
    cwd: Path | None = None
    """The folder it is started in; the worker's own if left out."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables beside the few that it inherits (`PASSED_ON`)."""
    max_output: int = Field(default=1_000_000, ge=2)
    """Bytes of its stdout at most."""


@handler("command", explicit=True, settings=CommandSettings)
async def command(input: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run the program of the task's settings: input as JSON on stdin, output as JSON from stdout.

    Exit code 0 is COMPLETED; any other is FAILED `command_failed`, with the code and the last line of stderr, which is
    logged line by line. When the execution is late or cancelled, the program and all that it started in its process
    group get SIGTERM, and SIGKILL a second later. It finds PRODUCT_LIVE_EXECUTION_ID, _TASK, _DEADLINE (ISO 8601, UTC)
    and _IDEMPOTENCY_KEY in its environment.
    """
    settings: CommandSettings = context.settings
    name = Path(settings.command[0]).name
    async with _running(settings, context) as process:
        out, errors = _Out(process, settings.max_output), _Errors(context.log)
        async with anyio.create_task_group() as talk:
            talk.start_soon(_feed, process, json.dumps(input).encode())
            talk.start_soon(out.read)
            talk.start_soon(errors.read, process.stderr)
            code = await process.wait()
            # What it left behind in its group may hold the pipes; nobody waits for that.
            _signal_group(process, "SIGKILL")
            with anyio.move_on_after(GRACE):
                await out.ended.wait()
                await errors.ended.wait()
            talk.cancel_scope.cancel()
    if out.too_large:
        text = f"{name} wrote more than {settings.max_output} bytes to stdout (the setting max_output) and was ended."
        raise TaskFailed(text, code="output_too_large")
    if code != 0:
        raise _failure(name, code, errors.last)
    return _result(name, bytes(out.text))


@asynccontextmanager
async def _running(settings: CommandSettings, context: Context) -> AsyncIterator[Process]:
    """Run the program while the block runs; whatever is left of its process group then is killed."""
    try:
        process = await anyio.open_process(
            settings.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=settings.cwd,
            env=_environment(settings.env, context),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise TaskFailed(f"{settings.command[0]} cannot be started: {why}", code="command_failed") from error
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                _signal_group(process, "SIGTERM")
                with anyio.move_on_after(GRACE):
                    await process.wait()
            _signal_group(process, "SIGKILL")
            await process.aclose()


def _signal_group(process: Process, name: str) -> None:
    """Send a signal to the program and all that it has started, as far as they still run."""
    if sys.platform == "win32":
        with suppress(ProcessLookupError, PermissionError):
            process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.Signals[name])


def _environment(more: Mapping[str, str], context: Context) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        **inherited,
        **more,
        "PRODUCT_LIVE_EXECUTION_ID": context.execution_id,
        "PRODUCT_LIVE_TASK": context.task,
        "PRODUCT_LIVE_DEADLINE": context.deadline.isoformat(),
        "PRODUCT_LIVE_IDEMPOTENCY_KEY": context.idempotency_key,
    }


async def _feed(process: Process, given: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 (it was asked for)
    # A program may end without having read its input.
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await process.stdin.send(given)
        await process.stdin.aclose()


class _Out:
    """What a program writes to stdout; more than is allowed ends it."""

    def __init__(self, process: Process, limit: int) -> None:
        self.text = bytearray()
        self.too_large = False
        self.ended = anyio.Event()
        self._process = process
        self._limit = limit

    async def read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 (it was asked for)
        async for chunk in self._process.stdout:
            self.text += chunk
            if len(self.text) > self._limit:
                self.too_large = True
                _signal_group(self._process, "SIGKILL")
                break
        self.ended.set()


class _Errors:
    """What a program writes to stderr: logged line by line, and the last line kept."""

    def __init__(self, log: Log) -> None:
        self.last = ""
        self.ended = anyio.Event()
        self._log = log
        self._lines = 0

    async def read(self, stderr: ByteReceiveStream | None) -> None:
        assert stderr is not None  # noqa: S101 (it was asked for)
        rest = b""
        async for chunk in stderr:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._say(line)
            # A line without an end is not kept for ever.
            rest = rest[:LONGEST_LINE]
        self._say(rest)
        self.ended.set()

    def _say(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()[:LONGEST_LINE]
        if not text:
            return
        self.last = text
        self._lines += 1
        if self._lines <= MOST_LINES:
            self._log.info("stderr", line=text)
        elif self._lines == MOST_LINES + 1:
            self._log.warning("the program writes on to stderr; nothing more of it is logged", lines=MOST_LINES)


def _failure(name: str, code: int, last: str) -> TaskFailed:
    said = f": {last[:LAST_LINE]}" if last else ""
    how = f"ended with exit code {code}" if code > 0 else f"was ended by {_name_of(-code)}"
    return TaskFailed(f"{name} {how}{said}", code="command_failed", output={"exit_code": code, "stderr": last})


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _result(name: str, text: bytes) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise TaskFailed(f"{name} wrote no JSON to stdout", code="invalid_output") from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise TaskFailed(
            f"{name} must write an object with named values to stdout; found {kind}", code="invalid_output"
        )
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")

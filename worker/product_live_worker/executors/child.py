"""What runs in a handler's own process: reads an execution, runs it by the same road, says its Outcome."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.to_thread

from product_live_worker.executors.frames import HEAD, to_json
from product_live_worker.executors.perform import Call, Work
from product_live_worker.executors.resources import CLOSING, Resources
from product_live_worker.model.context import Context, Verb
from product_live_worker.model.execution import Outcome
from product_live_worker.model.handler import Handler

PR_SET_PDEATHSIG = 1
KILL_ME_FIRST = "500"
"""For the kernel that has run out of memory: a handler rather than the worker."""


def main(parent: int) -> None:
    """Serve the worker with the process id `parent` until it closes the pipe, or is gone."""
    _die_with(parent)
    _leave_to_worker()
    pipe = Pipe.take_over()
    anyio.run(_serve, pipe)


async def _serve(pipe: Pipe) -> None:
    # There is nobody here whom an opening could hold up; what wants the main thread, as handlers do, has it.
    async with Resources(in_threads=False) as resources:
        while (execution := await anyio.to_thread.run_sync(pipe.executions.get)) is not None:
            pipe.is_busy = True
            pipe.say(do="begun")
            outcome = await _run(pipe, execution, resources)
            pipe.end_of_output(execution["mark"])
            pipe.is_busy = False
            pipe.say(do="end", status=outcome.status.value, output=outcome.output)
    # At once: threads that handlers have left behind would hold the process.
    os._exit(0)


async def _run(pipe: Pipe, execution: dict[str, Any], resources: Resources) -> Outcome:
    def failed(error: BaseException) -> None:
        pipe.say(do="failed", traceback="".join(traceback.format_exception(error)))

    try:
        handler = find_handler(execution["module"], execution["handler"])
        context = pickle.loads(execution["context"])  # noqa: S301 (from the worker)
    except BaseException as error:  # noqa: BLE001 (importing a plugin may raise anything)
        failed(error)
        why = f"The handler cannot be loaded in its own process: {type(error).__name__}: {error}"
        return Outcome.failed("handler_error", why[:1000])
    is_async = handler.is_async

    async def verb(name: str, argument: Any) -> Any:
        # What runs on this process's loop must not block it; a `def` handler has nobody beside it.
        return await anyio.to_thread.run_sync(pipe.ask, name, argument) if is_async else pipe.ask(name, argument)

    verbs = {name: partial(verb, name) for name in execution["verbs"]}
    more: dict[str, Any] = {} if is_async else {"call": _at_once}
    context = Context(**context, log=_Log(pipe), verbs=verbs, **more)

    async def called(call: Call) -> Any:
        result = call(context)
        return await result if is_async else result

    work = Work(
        handler=handler, raw=execution["raw"], context=context, max_output=execution["max_output"], failed=failed
    )
    return await work.outcome(called, resources)


def find_handler(module: str, name: str) -> Handler:
    """Import a module and give the handler of this name in it; raises LookupError."""
    found = importlib.import_module(module)
    for value in vars(found).values():
        if isinstance(value, Handler) and value.name == name:
            return value
    raise LookupError(f"the module {module} has no handler {name!r} at its top level")


def _at_once(verb: Verb, argument: Any) -> Any:
    """Drive a coroutine that never waits to its end."""
    try:
        verb(argument).send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a verb of the context has waited")


@dataclass(eq=False)
class Pipe:
    """The way from a process to the worker, and back."""

    source: BinaryIO
    sink: BinaryIO
    is_busy: bool = False
    executions: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    _answers: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    _saying: threading.Lock = field(default_factory=threading.Lock)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def take_over(cls) -> Pipe:
        """Keep stdin and stdout for the worker alone: what a handler prints goes the way of its errors."""
        # Duplicates are not inherited by what a handler starts.
        pipe = cls(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        logging.getLogger().addHandler(_Adopted(pipe))
        logging.getLogger().setLevel(logging.INFO)
        threading.Thread(target=pipe.listen, name="from-the-worker", daemon=True).start()
        return pipe

    def listen(self) -> None:
        """Sort what the worker says. When it closes the pipe, what is idle closes its resources and ends.

        What is busy then has no worker any more, and ends at once; so it does where there is no PDEATHSIG.
        """
        with contextlib.suppress(OSError):
            while len(head := self.source.read(HEAD.size)) == HEAD.size:
                said = pickle.loads(self.source.read(HEAD.unpack(head)[0]))  # noqa: S301 (from the worker)
                (self._answers if "answer" in said else self.executions).put(said)
        if not self.is_busy:
            self.executions.put(None)
            time.sleep(CLOSING)
        os._exit(0)

    def say(self, **said: Any) -> None:
        """Tell the worker."""
        frame = to_json(said)
        with self._saying:
            self.sink.write(frame)
            self.sink.flush()

    def ask(self, verb: str, argument: Any) -> Any:
        """Have the worker do something, and wait until it is done; raises RuntimeError when it was not."""
        with self._asking:
            self.say(do="ask", verb=verb, argument=argument)
            said = self._answers.get()
        if said["error"]:
            raise RuntimeError(said["error"])
        return said["answer"]

    def end_of_output(self, mark: str) -> None:
        """Say where the output of this execution ends."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        with contextlib.suppress(OSError):
            os.write(2, f"\n{mark}\n".encode())


@dataclass(frozen=True)
class _Log:
    """The log of a context; its lines are written by the worker."""

    pipe: Pipe

    def debug(self, event: str, **fields: Any) -> None:
        self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._say("error", event, fields)

    def _say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        error = fields.pop("exc_info", None)
        if error:
            raised = error if isinstance(error, BaseException) else sys.exception()
            fields["exception"] = "".join(traceback.format_exception(raised)) if raised else None
        self.pipe.say(do="log", level=level, event=str(event), fields={str(key): fields[key] for key in fields})


class _Adopted(logging.Handler):
    """Sends lines of the standard logging the same way."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._log = _Log(pipe)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 (the standard logging forgives values that do not fit; so do we)
            message = str(record.msg)
        level = {10: "debug", 20: "info", 30: "warning"}.get(record.levelno // 10 * 10, "error")
        error = {"exc_info": record.exc_info[1]} if record.exc_info else {}
        getattr(self._log, level)(message, logger=record.name, **error)


def _leave_to_worker() -> None:
    """Let signals that ask the worker for something, sent to its whole control group, end no handler."""
    if os.name == "posix":
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            # Not SIG_IGN, which the programs that a handler runs would inherit.
            signal.signal(number, lambda *_: None)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(KILL_ME_FIRST, encoding="ascii")
    if os.name == "posix" and os.getppid() != parent:
        # It was gone before the kernel was told.
        os._exit(0)

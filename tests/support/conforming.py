"""What the suite of executors runs: each handler in all four ways; a process of its own finds it here by its name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.lowlevel
from pydantic import BaseModel, PlainSerializer, SecretStr, computed_field, model_validator

from product_live_worker import Context, Handler, Retry, TaskFailed, handler, resource

WAYS = ("loop", "thread", "process", "dask")
GATE = threading.Event()
"""Opened at the end of a test, so that no thread outlives it; what runs in a process of its own never sees it open."""


class Number(BaseModel):
    """An input."""

    power: int


class Total(BaseModel):
    """An output."""

    total: float


class Broken(BaseException):
    """What no `except Exception` catches."""


class Mute(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Careless(TaskFailed):
    """A refusal whose author forgot the base class."""

    def __init__(self) -> None:
        """Forget to call the base class."""


class Defective(BaseModel):
    """An input whose validator breaks."""

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any) -> Any:
        """Break."""
        return value["missing"]


class Sick(BaseModel):
    """An output that cannot be written."""

    value: int = 1

    @computed_field  # type: ignore[prop-decorator]  # as pydantic wants it
    @property
    def half(self) -> int:
        """Fail."""
        return self.value // 0


class Rude(BaseModel):
    """Another one."""

    value: Annotated[int, PlainSerializer(lambda value: {}[value])] = 1


def endless() -> dict[str, Any]:
    """Give an object that holds itself."""
    circle: dict[str, Any] = {}
    circle["self"] = circle
    return circle


def deep() -> dict[str, Any]:
    """Give an object that is nested deeper than anybody reads."""
    outer: dict[str, Any] = {}
    inner = outer
    for _ in range(5000):
        inner["in"] = inner = {}
    return outer


UNWRITABLE: dict[str, Any] = {
    "nan": {"value": float("nan")},
    "infinity": {"value": float("inf")},
    "minus-infinity": {"value": -float("inf")},
    "nan-in-a-model": Total(total=float("nan")),
    "object": {"value": object()},
    "bytes": {"value": b"\xff"},
    "half-a-character": {"value": "caf\udce9"},
    "half-a-character-as-key": {"caf\udce9": 1},
    "endless": endless(),
    "deep": deep(),
    "sick": Sick(),
    "rude": Rude(),
}
"""Results that JSON cannot hold."""

ERRORS: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("no such row"),
    "silent": RuntimeError,
    "timeout": lambda: TimeoutError("the database is slow"),
    "exit": lambda: SystemExit(3),
    "exit-in-words": lambda: SystemExit("enough"),
    "base": lambda: Broken("deep down"),
    "generator-exit": GeneratorExit,
    "stop": StopIteration,
    "group": lambda: ExceptionGroup("several", [ValueError("one"), TaskFailed("two")]),
    "recursion": lambda: RecursionError("too deep"),
    "memory": MemoryError,
    "mute": Mute,
    "long": lambda: ValueError("x" * 5000),
    "half-a-character": lambda: ValueError("caf\udce9"),
    "cancelled": lambda: asyncio.CancelledError("mine"),
}
"""What may escape a handler."""

REFUSALS: dict[str, Callable[[], TaskFailed]] = {
    "closed": lambda: TaskFailed("Closed on Sundays.", code="closed", output={"day": 7}),
    "plain": lambda: TaskFailed("No."),
    "more-too-long": lambda: TaskFailed("No.", code="no", output={"x": "y" * 2_000_000}),
    "more-no-json": lambda: TaskFailed("No.", code="no", output={"x": object()}),
    "more-nan": lambda: TaskFailed("No.", code="no", output={"x": float("nan")}),
    "more-endless": lambda: TaskFailed("No.", code="no", output=endless()),
    "more-deep": lambda: TaskFailed("No.", code="no", output=deep()),
    "long": lambda: TaskFailed("x" * 5000, code="y" * 5000),
    "mute": lambda: TaskFailed(Mute(), code=Mute()),  # type: ignore[arg-type]  # who writes a handler may not check types
    "no-text": lambda: TaskFailed(None, code=7),  # type: ignore[arg-type]  # who writes a handler may not check types
    "half-a-character": lambda: TaskFailed("caf\udce9", code="\ud800"),
    "careless": Careless,
}
"""Refusals, some of them in odd words."""


def power(number: Number) -> Total:
    """Do what a handler usually does."""
    return Total(total=2**number.power)


def echo(given: dict[str, Any]) -> Any:
    """Give back what came."""
    return given


def nothing(_: dict[str, Any]) -> Any:
    """Give nothing."""
    return


def nothing_declared(_: dict[str, Any]) -> None:
    """Give nothing, and say so."""


def result(given: dict[str, Any]) -> Any:
    """Give a result from the input."""
    return given["result"]


def declared(given: dict[str, Any]) -> Total:
    """Give whatever the input says, against what is declared."""
    found: Total = given["result"]
    return found


def unwritable(given: dict[str, Any]) -> Any:
    """Give a result that JSON cannot hold."""
    return UNWRITABLE[given["name"]]


def raising(given: dict[str, Any]) -> Any:
    """Raise."""
    error = ERRORS[given["name"]]()
    raise error


def refusing(given: dict[str, Any]) -> Any:
    """Refuse."""
    refusal = REFUSALS[given["name"]]()
    raise refusal


def invalid_inside(_: dict[str, Any]) -> Any:
    """Meet an invalid value of its own."""
    return Number.model_validate({})


def defective(_: Defective) -> Any:
    """Never be run."""
    raise AssertionError


def lively(given: dict[str, Any], context: Context) -> dict[str, Any]:
    """Use all of the context, in the way of a `def` handler."""
    context.log.info("hello", given=given)
    context.save_checkpoint({"step": 1})
    return {
        "execution": context.execution_id,
        "late": context.deadline < datetime.now(UTC),
        "settings": dict(context.settings),
        "checkpoint": dict(context.checkpoint or {}),
    }


async def lively_on_loop(given: dict[str, Any], context: Context) -> dict[str, Any]:
    """Use all of it, in the way of an `async def` handler."""
    context.log.info("hello", given=given)
    await context.save_checkpoint({"step": 1})
    return {
        "execution": context.execution_id,
        "late": context.deadline < datetime.now(UTC),
        "settings": dict(context.settings),
        "checkpoint": dict(context.checkpoint or {}),
    }


def stubborn(_: dict[str, Any], context: Context) -> None:
    """Never end by itself."""
    context.log.info("started", process=os.getpid())
    GATE.wait()


async def stubborn_on_loop(_: dict[str, Any], context: Context) -> None:
    """Never end by itself."""
    context.log.info("started", process=os.getpid())
    await anyio.sleep_forever()


def brief(given: dict[str, Any]) -> dict[str, Any]:
    """Take a moment."""
    time.sleep(0.01)
    return given


async def brief_on_loop(given: dict[str, Any]) -> dict[str, Any]:
    """Take a moment."""
    await anyio.sleep(0.01)
    return given


TRIED: Counter[str] = Counter()


def shaky(given: dict[str, Any]) -> dict[str, Any]:
    """Fail so many times, by this error, before it works; `key` tells the executions apart."""
    TRIED[given["key"]] += 1
    if TRIED[given["key"]] <= given["failures"]:
        raise {"os": OSError, "value": ValueError, "refusal": Refusal}[given["error"]]("not yet")
    return {"tried": TRIED[given["key"]]}


class Refusal(TaskFailed, OSError):
    """A refusal that is one of the errors that are retried."""


def place(_: dict[str, Any]) -> dict[str, Any]:
    """Say where this runs."""
    return {"process": os.getpid(), "main": threading.current_thread() is threading.main_thread()}


@contextmanager
def open_shelf(settings: Any) -> Iterator[dict[str, Any]]:
    """Open what is shared, in the way of synchronous libraries; says in a file what happens to it."""
    note = Path(settings["notes"])
    if not note.exists():
        raise ConnectionError("nobody is there")
    with note.open("a") as notes:
        notes.write("opened ")
    yield {"process": os.getpid(), "lent": 0, "main": threading.current_thread() is threading.main_thread()}
    with note.open("a") as notes:
        notes.write("closed ")


@asynccontextmanager
async def open_desk() -> AsyncIterator[dict[str, Any]]:
    """Open what is shared, in the way of asynchronous libraries: it lives in a task group of its own."""
    async with anyio.create_task_group() as group:
        yield {"process": os.getpid(), "lent": 0}
        group.cancel_scope.cancel()


async def open_wrongly() -> None:
    """Forget the context manager."""


Shelf = Annotated[dict[str, Any], resource(open_shelf)]
Desk = Annotated[dict[str, Any], resource(open_desk)]
Wrong = Annotated[dict[str, Any], resource(open_wrongly)]


def sharing(_: dict[str, Any], shelf: Shelf, context: Context, *, desk: Desk) -> dict[str, Any]:
    """Use what other executions use."""
    shelf["lent"] += 1
    desk["lent"] += 1
    return {"task": context.task, "shelf": shelf, "desk": desk}


async def sharing_on_loop(_: dict[str, Any], shelf: Shelf, context: Context, *, desk: Desk) -> dict[str, Any]:
    """Use what other executions use."""
    return sharing(_, shelf, context, desk=desk)


def wanting(_: dict[str, Any], wrong: Wrong) -> Any:
    """Never be run."""
    raise AssertionError(wrong)


async def wanting_on_loop(_: dict[str, Any], wrong: Wrong) -> Any:
    """Never be run."""
    raise AssertionError(wrong)


class Own(BaseModel):
    """Settings of a handler."""

    name: str = "nobody"
    password: SecretStr


def configured(_: dict[str, Any], context: Context) -> dict[str, Any]:
    """Show that the settings have arrived as their model."""
    own: Own = context.settings
    return {"name": own.name, "letters": len(own.password.get_secret_value()), "shown": str(own.password)}


async def configured_on_loop(_: dict[str, Any], context: Context) -> dict[str, Any]:
    """Show it."""
    return configured(_, context)


ON_LOOP: dict[str, Any] = {
    "lively": lively_on_loop,
    "stubborn": stubborn_on_loop,
    "brief": brief_on_loop,
    "sharing": sharing_on_loop,
    "wanting": wanting_on_loop,
    "configured": configured_on_loop,
}
BODIES: tuple[Callable[..., Any], ...] = (
    power, echo, nothing, nothing_declared, result, declared, unwritable, raising, refusing, invalid_inside, defective,
    lively, stubborn, brief, place, shaky, sharing, wanting, configured,
)  # fmt: skip


def _on_loop(body: Callable[..., Any]) -> Any:
    async def on_loop(input: Any) -> Any:
        return body(input)

    first = next(iter(body.__annotations__))
    on_loop.__annotations__ = {"input": body.__annotations__[first], "return": body.__annotations__["return"]}
    on_loop.__module__ = body.__module__
    return on_loop


RETRY = Retry(attempts=3, on=OSError, wait=0.001)
OPTIONS: dict[str, dict[str, Any]] = {"shaky": {"retry": RETRY}, "configured": {"settings": Own}}
HANDLERS: dict[tuple[str, str], Handler] = {}
for _body in BODIES:
    _name = _body.__name__
    _options: dict[str, Any] = OPTIONS.get(_name, {})
    HANDLERS["loop", _name] = handler(_name, **_options)(ON_LOOP.get(_name) or _on_loop(_body))
    HANDLERS["thread", _name] = handler(_name, **_options)(_body)
    # At the top of the module, where its process finds it.
    globals()[f"{_name}_apart"] = HANDLERS["process", _name] = handler(_name, isolation="process", **_options)(_body)
    globals()[f"{_name}_far"] = HANDLERS["dask", _name] = handler(_name, isolation="dask", **_options)(_body)


WAITING = Retry(attempts=3, on=OSError, wait=3600.0, longest_wait=3600.0)
waiting_apart = handler("waiting", isolation="process", retry=WAITING)(shaky)
waiting_far = handler("waiting", isolation="dask", retry=WAITING)(shaky)

# What only a process of its own can survive


@handler("async_apart", isolation="process")
async def async_apart(given: dict[str, Any], context: Context) -> dict[str, Any]:
    """Be `async` in a process of its own."""
    await context.save_checkpoint({"step": 1})
    await anyio.lowlevel.checkpoint()
    return {"process": os.getpid(), "execution": context.execution_id, **given}


@handler("dying", isolation="process")
def dying(given: dict[str, Any]) -> dict[str, Any]:
    """Die, or end, as the input says."""
    if "signal" in given:
        os.kill(os.getpid(), signal.Signals[given["signal"]])
    if "exit" in given:
        os._exit(given["exit"])
    if given.get("deaf"):
        # What a library in C may do by mistake: close what it does not own.
        os.closerange(3, 64)
        time.sleep(3600)
    return {"process": os.getpid()}


KEPT: list[bytearray] = []


@handler("hungry", isolation="process", memory_limit="200MB")
def hungry(given: dict[str, Any], context: Context) -> dict[str, Any]:
    """Take so much memory, and keep it for a while."""
    taken = bytearray(given["bytes"])
    if given.get("keep"):
        KEPT.append(taken)
    context.log.info("taken", bytes=len(taken))
    time.sleep(given.get("seconds", 0.0))
    return {"process": os.getpid()}


@handler("spinning", isolation="process")
def spinning(_: dict[str, Any], context: Context) -> Any:
    """Spin inside of C, where no exception and no other thread gets in."""
    context.log.info("started", process=os.getpid())
    return sum(range(10**15))


@handler("parent", isolation="process")
def parent(_: dict[str, Any], context: Context) -> Any:
    """Start a program that would outlive it, and wait."""
    with subprocess.Popen(["sleep", "3600"]) as child:  # noqa: S607 (any that waits)
        context.log.info("started", process=os.getpid(), child=child.pid)


@handler("talkative", isolation="process")
def talkative(given: dict[str, Any]) -> dict[str, Any]:
    """Print in all the ways that there are."""
    print("from print")  # noqa: T201 (printing is what it is for)
    sys.stderr.write("from stderr\n")
    os.write(1, b"from C \xff\n")
    print("x" * given.get("length", 0), end="")  # noqa: T201 (printing is what it is for)
    return {}


@handler("curious", isolation="process")
def curious(_: dict[str, Any]) -> dict[str, Any]:
    """Look at what was inherited."""
    open_files = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            open_files[path.name] = str(path.readlink())
    return {"environment": sorted(os.environ), "files": open_files, "group": os.getpgid(0), "process": os.getpid()}


def lasting(_: dict[str, Any], context: Context) -> dict[str, Any]:
    """Save a checkpoint and never end, unless there is one already."""
    if context.checkpoint is None:
        context.save_checkpoint({"process": os.getpid()})
        GATE.wait()
    return {"first": (context.checkpoint or {})["process"], "process": os.getpid()}


def called(_: dict[str, Any], context: Context) -> dict[str, Any]:
    """Be the only one, ask for an address, and wait for what is sent there."""
    with context.lease("orders"):
        callback = context.callback()
        context.save_checkpoint({"url": callback.url})
        return {"got": [one["body"] for one in callback.received(timeout=60)], "ended": context.ended()}


called_far = handler("called", isolation="dask", concurrency=2)(called)
lasting_far = handler("lasting", isolation="dask", on_crash="rerun")(lasting)
dying_far = handler("dying", isolation="dask")(dying.function)
hungry_far = handler("hungry", isolation="dask", memory_limit="200MB")(hungry.function)
spinning_far = handler("spinning", isolation="dask")(spinning.function)
parent_far = handler("parent", isolation="dask")(parent.function)
async_far = handler("async_apart", isolation="dask")(async_apart.function)

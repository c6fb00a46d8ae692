"""Handlers that note each of their runs in a file, so that runs can be counted whatever the worker believes.

The file is named by NOTES; a line is `<word> <execution> <process>`, appended in one write.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from pydantic import BaseModel

from product_live_worker import Context, TaskFailed, handler

STEPS = 3
"""How many checkpoints `steps` saves."""
Told = tuple[str, dict[str, Any]]
"""A status and an output, as the platform is told them."""


class Work(BaseModel):
    """What each of these handlers is given."""

    number: int
    seconds: float = 0.0


class Note(NamedTuple):
    """A line of the file."""

    word: str
    execution: str
    process: int


def note(word: str, context: Context) -> None:
    """Append a line; it is there once this returns, whatever becomes of the process."""
    line = f"{word} {context.execution_id} {os.getpid()}\n".encode()
    descriptor = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def notes(path: Path) -> list[Note]:
    """Read all lines."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Note(word, execution, int(process)) for word, execution, process in map(str.split, lines)]


@contextmanager
def noted(context: Context) -> Iterator[None]:
    """Note the start, and the end unless the handler was cancelled."""
    note("start", context)
    try:
        yield
    except Exception:
        note("end", context)
        raise
    note("end", context)


@handler("quick", concurrency=2)
async def quick(input: Work, context: Context) -> dict[str, int]:
    """Answer at once, on the loop."""
    with noted(context):
        return {"square": input.number**2}


@handler("thread", concurrency=2)
def thread(input: Work, context: Context) -> dict[str, int]:
    """Take its time in a thread."""
    with noted(context):
        time.sleep(input.seconds)
        return {"cube": input.number**3}


@handler("slow", concurrency=2)
async def slow(input: Work, context: Context) -> dict[str, int]:
    """Take its time, and never be run twice."""
    with noted(context):
        await anyio.sleep(input.seconds)
        return {"double": input.number * 2}


@handler("again", concurrency=2, on_crash="rerun")
async def again(input: Work, context: Context) -> dict[str, int]:
    """Take its time, and begin anew after a crash."""
    with noted(context):
        await anyio.sleep(input.seconds)
        return {"triple": input.number * 3}


@handler("steps", concurrency=2, on_crash="rerun")
async def steps(input: Work, context: Context) -> dict[str, int]:
    """Go on after a crash where the last checkpoint was saved."""
    with noted(context):
        done = dict(context.checkpoint or {"done": 0, "sum": 0})
        while done["done"] < STEPS:
            await anyio.sleep(input.seconds / STEPS)
            done = {"done": done["done"] + 1, "sum": done["sum"] + input.number}
            await context.save_checkpoint(done)
            note(f"saved-{done['done']}", context)
        return {"sum": done["sum"]}


@handler("refusing", concurrency=2)
async def refusing(input: Work, context: Context) -> None:
    """Refuse whatever comes."""
    with noted(context):
        raise TaskFailed("This is refused.", code="refused", output={"number": input.number})


@handler("raising", concurrency=2)
async def raising(input: Work, context: Context) -> None:
    """Fail by a defect."""
    with noted(context):
        raise RuntimeError(f"defect {input.number}")


@dataclass(frozen=True)
class Kind:
    """What a handler makes of a number, and whether a crash lets it run again."""

    told: Told
    reruns: bool = False


def kind(task: str, number: int) -> Kind:
    """Give the one right end of an execution, by the handlers' words above."""
    refused = {"number": number, "message": "This is refused.", "code": "refused"}
    failed = {"message": f"The handler failed: RuntimeError: defect {number}", "code": "handler_error"}
    return {
        "quick": Kind(("COMPLETED", {"square": number**2})),
        "thread": Kind(("COMPLETED", {"cube": number**3})),
        "slow": Kind(("COMPLETED", {"double": number * 2})),
        "again": Kind(("COMPLETED", {"triple": number * 3}), reruns=True),
        "steps": Kind(("COMPLETED", {"sum": number * STEPS}), reruns=True),
        "refusing": Kind(("FAILED", refused)),
        "raising": Kind(("FAILED", failed)),
    }[task]


TASKS = ("quick", "thread", "slow", "again", "steps", "refusing", "raising")

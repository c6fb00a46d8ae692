"""Handlers that wait, hang, take memory, or tell what they can reach from where they run."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import anyio
from deploy_probes.probing import probe
from pydantic import BaseModel

from product_live_worker import Context, handler


class Work(BaseModel):
    """What these handlers are given."""

    seconds: float = 0.0
    megabytes: int = 0


def note(context: Context) -> None:
    """Note a run in the file that NOTES names, if it does: a line is `<execution> <machine>`, appended in one write."""
    if path := os.environ.get("NOTES"):
        with Path(path).open("a", encoding="utf-8") as notes:
            notes.write(f"{context.execution_id} {socket.gethostname()}\n")


@handler("waits", concurrency=4)
async def waits(input: Work, context: Context) -> dict[str, Any]:
    """Wait on the event loop."""
    note(context)
    await anyio.sleep(input.seconds)
    return {"waited": input.seconds}


@handler("waits_in_thread", concurrency=2)
def waits_in_thread(input: Work) -> dict[str, Any]:
    """Wait in a thread, which nobody can end."""
    time.sleep(input.seconds)
    return {"waited": input.seconds}


@handler("begins_anew", on_crash="rerun", concurrency=2)
async def begins_anew(input: Work, context: Context) -> dict[str, Any]:
    """Wait, and be run again after a crash."""
    note(context)
    await anyio.sleep(input.seconds)
    return {"pid": os.getpid()}


@handler("holds_the_loop")
async def holds_the_loop(input: Work) -> dict[str, Any]:
    """Let nothing else get on."""
    time.sleep(input.seconds)  # noqa: ASYNC251 (that is what it is for)
    return {}


@handler("takes_memory", isolation="process")
def takes_memory(input: Work) -> dict[str, Any]:
    """Take more memory than there is."""
    return {"taken": len(bytes(1) * (input.megabytes * 1_000_000))}


@handler("probes", concurrency=2)
def probes(_: dict[str, Any]) -> dict[str, Any]:
    """Tell what can be reached from a thread of the worker."""
    return probe()


@handler("probes_in_process", isolation="process", memory_limit="500MB")
def probes_in_process(_: dict[str, Any]) -> dict[str, Any]:
    """Tell what can be reached from a process of its own."""
    return probe()

"""How the scenarios of the connectors are told, and what happens to an execution in several of them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from structlog.testing import capture_logs

from product_live_worker import Handler
from product_live_worker import sandbox as platform
from product_live_worker.model.execution import State, idempotency_key
from product_live_worker.sandbox.records import FINAL, Execution
from product_live_worker.telemetry.events import ExecutionClaimed
from support import leaks
from support.journals import an_execution, in_state, opened
from support.remotes import Asked, Fault, Remote, Reply
from support.workers import RunningWorker, running_worker, until

LONG = 60.0
"""Seconds after which a wait is in vain."""


def timeless(fake: Remote) -> None:
    """Let a system say no time that can be read."""
    answer = fake.answer

    def without(asked: Asked) -> Reply:
        reply = answer(asked)
        reply.headers["date"] = "-"
        return reply

    fake.answer = without  # type: ignore[method-assign]  # of this one


@dataclass(kw_only=True)
class Scenario:
    """What happens to one execution, and how it must end."""

    name: str
    given: dict[str, Any]
    """Beside what names the job."""
    faults: tuple[Fault, ...] = ()
    code: str = ""
    """Empty is COMPLETED."""
    outcome: str = "succeeded"
    starts: int = 1
    """Starts that had their effect."""
    posts: int | None = None
    """Requests to start; None is whatever came of it."""
    plan: Any = None
    more: dict[str, Any] | None = None
    """Values that the output must have."""
    says: str = ""
    """A part of the message."""

    def problems(self, execution: Execution, starts: int, posts: int) -> Iterator[str]:
        """Say which law is broken."""
        status = "FAILED" if self.code else "COMPLETED"
        output = execution.output
        found = (execution.status, output.get("code", ""), output.get("outcome", "-"), starts)
        if found != (status, self.code, self.outcome, self.starts):
            yield f"{self.name}: {found}, wanted {(status, self.code, self.outcome, self.starts)}: {output}"
        if self.posts is not None and posts != self.posts:
            yield f"{self.name}: {posts} posts, wanted {self.posts}"
        if self.says not in output.get("message", ""):
            yield f"{self.name}: the message is {output.get('message')!r}, wanted {self.says!r} in it"
        for key, value in (self.more or {}).items():
            if output.get(key) != value:
                yield f"{self.name}: {key} is {output.get(key)!r}, wanted {value!r}"


@contextmanager
def logged() -> Iterator[Sequence[Mapping[str, Any]]]:
    """Give what is logged while the block runs, instead of printing it."""
    with capture_logs() as lines:
        yield lines
    leaks.tell("log", json.dumps(lines, default=repr))


def phase_of(worker: RunningWorker, execution: Execution) -> str:
    """Give the phase of the last checkpoint of an execution; empty where there is none, or no execution."""
    row = worker.daemon.journal.get(execution.id)
    return str(((row and row.checkpoint) or {}).get("phase", ""))


def is_waiting(worker: RunningWorker, execution: Execution) -> bool:
    """Whether its job has been started, and looked at."""
    row = worker.daemon.journal.get(execution.id)
    return "raw" in ((row and row.checkpoint) or {}) and phase_of(worker, execution) == "started"


async def soon(true: Callable[[], bool]) -> None:
    """Wait until something has come true; raises TimeoutError when it has not for long.

    On a clock that leaps a handler never rests, and the test's own timeout could hit the handler instead.
    """
    with anyio.fail_after(LONG):
        await until(true)


async def is_over(worker: RunningWorker, execution: Execution) -> None:
    """Wait until nothing is left to do for an execution."""
    await soon(lambda: worker.daemon.journal.get(execution.id) is None)


async def retried(
    worker: RunningWorker, given: Mapping[str, Any], finish: Callable[[], None], *, task: str = "run"
) -> tuple[Execution, Execution]:
    """Let the platform give an execution up while its job runs, and retry it under a new id; then let the job end.

    Gives the first one and the retry.
    """
    input = {**given, "eventCorrelationId": "job-1"}
    (first,) = worker.submit(task, input)
    await soon(lambda: phase_of(worker, first) == "started")
    first.status = "TIMED_OUT"
    (again,) = worker.submit(task, input)
    await is_over(worker, first)
    await soon(lambda: phase_of(worker, again) == "started")
    finish()
    await soon(lambda: again.status in FINAL)
    return first, again


async def cancelled(
    worker: RunningWorker, given: Mapping[str, Any], *, task: str = "run", phase: str = "started"
) -> list[str]:
    """Cancel the job of an execution at the platform once it is in this phase, and let the worker end.

    Gives what was logged.
    """
    with logged() as lines:
        (unwanted,) = worker.submit(task, dict(given))
        await soon(lambda: phase_of(worker, unwanted) == phase)
        unwanted.status = "CANCELED"  # type: ignore[assignment]  # the sandbox has no verb for it
        await is_over(worker, unwanted)
        # What a handler does in its last moments, the end of the worker waits for.
        await worker.drain()
    assert unwanted.patches == []
    return [str(line["event"]) for line in lines]


async def left_behind(
    state: Path, world: platform.World, url: str, given: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> Execution:
    """Let an execution of the task `run` be what a dead worker has left, with its last checkpoint."""
    execution = world.submit("run", dict(given), time.monotonic())
    identity = world.task_called("run").id
    world.poll(identity, time.monotonic())
    async with opened(state / "worker.db", platform=url) as journal:
        key = idempotency_key("run", execution.input)
        row = an_execution(
            execution.id, task="run", task_id=identity, input=execution.input, idempotency_key=key,
            on_repeat="adopt", checkpoint={"execution": execution.id, **checkpoint}, claimed_at=time.time(),
        )  # fmt: skip
        await in_state(journal, State.RUNNING, row)
    return execution


@asynccontextmanager
async def two_workers(
    handlers: Iterable[Handler], state: Path, world: platform.World, sections: Mapping[str, Any]
) -> AsyncIterator[tuple[RunningWorker, RunningWorker]]:
    """Run two workers on one journal, neither of which can do everything."""
    shared = {**sections, "tasks": {name: {**task, "concurrency": 3} for name, task in sections["tasks"].items()}}
    async with (
        platform.serve(world) as url,
        running_worker(handlers, state, world=world, url=url, **shared) as one,
        running_worker(handlers, state, world=world, url=url, **shared) as other,
    ):
        yield one, other


async def both_have(workers: Iterable[RunningWorker], claims: int) -> None:
    """Wait until each worker has claimed so many."""
    await soon(lambda: all(len(worker.heard(ExecutionClaimed)) >= claims for worker in workers))

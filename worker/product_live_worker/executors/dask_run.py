"""What runs on a Dask worker: holds a slot of the cluster while a handler runs beside it, in a process of its own.

A task of Dask's cannot be stopped; a process can. So the task `run` only waits: for the execution, which the client
hands over once it has heard where the task has begun, and then for the process. `converse` and `stop` are called
beside the tasks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import anyio
from distributed import Worker, WorkerPlugin, get_worker

from product_live_worker.executors.in_process import InProcess
from product_live_worker.executors.parcel import Listener, Parcel, VerbRefused

NAME = "product-live-worker"
HELLO = 30.0
"""Seconds that the client has to hand the execution over."""
HOLD = 1 / 6
"""The part of a run's lease that a call of the client waits at most for something to be said."""
IDLE = 300.0
"""Seconds that a process waits for the next execution of its task: the cluster's memory is not ours alone."""


@dataclass(eq=False)
class _Run:
    execution: str
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    lease: float = HELLO
    """Seconds of the client's silence after which it is ended."""
    parcel: Parcel | None = None
    given: anyio.Event = field(default_factory=anyio.Event)
    """Set when the execution has been handed over."""
    said: list[dict[str, Any]] = field(default_factory=list)
    rung: anyio.Event = field(default_factory=anyio.Event)
    """Set when there is something to take away."""
    answer: dict[str, Any] | None = None
    answered: anyio.Event = field(default_factory=anyio.Event)
    over: anyio.Event = field(default_factory=anyio.Event)
    heard_at: float = field(default_factory=time.monotonic)

    def say(self, **said: Any) -> None:
        self.said.append(said)
        self.rung.set()

    async def ask(self, verb: str, argument: Any) -> Any:
        self.answered = anyio.Event()
        self.say(do="ask", verb=verb, argument=argument)
        await self.answered.wait()
        assert self.answer is not None  # noqa: S101 (it is what was waited for)
        if self.answer["error"]:
            raise VerbRefused(self.answer["error"])
        return self.answer["answer"]

    def hear(self, given: dict[str, Any]) -> None:
        if "parcel" in given:
            self.parcel, self.lease = given["parcel"], given["lease"]
            self.scope.deadline = anyio.current_time() + given["seconds"]
            self.given.set()
        else:
            self.answer = given
            self.answered.set()

    async def taken(self) -> None:
        """Wait until all that was said has been taken away."""
        while self.said:  # noqa: ASYNC110 (it is the end, and a moment)
            await anyio.sleep(0.01)

    async def watch(self) -> None:
        while time.monotonic() - self.heard_at < self.lease:  # noqa: ASYNC110 (it is for silence that it waits)
            await anyio.sleep(min(1.0, self.lease / 10))
        self.scope.cancel()

    def listener(self, parcel: Parcel) -> Listener:
        return Listener(
            log=_Relay(self),
            verbs={verb: partial(self.ask, verb) for verb in parcel["verbs"]},
            failed=lambda error: self.say(do="failed", traceback=error.args[0]),
        )


@dataclass(frozen=True)
class _Relay:
    """The log of the handler; its lines are written by the worker that claimed the execution."""

    run: _Run

    def debug(self, event: str, **fields: Any) -> None:
        self.run.say(do="log", level="debug", event=event, fields=fields)

    def info(self, event: str, **fields: Any) -> None:
        self.run.say(do="log", level="info", event=event, fields=fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.run.say(do="log", level="warning", event=event, fields=fields)

    def error(self, event: str, **fields: Any) -> None:
        self.run.say(do="log", level="error", event=event, fields=fields)


class Station(WorkerPlugin):
    """What a Dask worker keeps of ours, from the first handler to its end."""

    def __init__(self) -> None:
        self.processes = InProcess()
        self.runs: dict[str, _Run] = {}
        self._trimming: set[asyncio.Task[None]] = set()

    async def teardown(self, worker: Worker) -> None:
        """Let handlers' processes close what they have opened."""
        await self.processes.close()

    def trim(self) -> None:
        """Let the processes end that have waited for long."""
        trimming = asyncio.ensure_future(self.processes.dismiss_idle(IDLE))
        self._trimming.add(trimming)
        trimming.add_done_callback(self._trimming.discard)


async def run(client: str, token: str, execution: str) -> None:
    """Hold a slot for an execution: say where, be given it, run it, and wait until its outcome has been taken away."""
    worker = get_worker()
    if NAME not in worker.plugins:
        await worker.plugin_add(Station(), name=NAME)
    station = cast("Station", worker.plugins[NAME])
    this = station.runs[token] = _Run(execution)
    # Under the client's own id, the scheduler forgets it some time after the client has gone.
    worker.log_event(client, {"token": token, "execution": execution, "address": worker.address})
    try:
        with this.scope:
            async with anyio.create_task_group() as beside:
                beside.start_soon(this.watch)
                await this.given.wait()
                assert this.parcel is not None  # noqa: S101 (it is what was waited for)
                outcome = await station.processes.carry(
                    this.parcel, this.listener(this.parcel), lambda why: this.say(do="ended", why=why)
                )
                this.say(do="end", status=outcome.status.value, output=outcome.output)
                await this.taken()
                beside.cancel_scope.cancel()
    finally:
        del station.runs[token]
        this.over.set()
        this.rung.set()
        asyncio.get_running_loop().call_later(IDLE, station.trim)


async def converse(token: str, given: dict[str, Any] | None, dask_worker: Worker) -> list[dict[str, Any]] | None:
    """Hand over an execution or an answer, if any, and take away what is said next; None when the run is over."""
    this = _runs(dask_worker).get(token)
    if this is None:
        return None
    this.heard_at = time.monotonic()
    if given is not None:
        this.hear(given)
    with anyio.move_on_after(this.lease * HOLD):
        await this.rung.wait()
    if this.over.is_set():
        return None
    said, this.said, this.rung = this.said, [], anyio.Event()
    return said


async def stop(execution: str, dask_worker: Worker) -> int:
    """End what runs for this execution, and wait until its process is gone; gives how many there were."""
    found = [run for run in _runs(dask_worker).values() if run.execution == execution]
    for each in found:
        each.scope.cancel()
    for each in found:
        await each.over.wait()
    return len(found)


def _runs(worker: Worker) -> dict[str, _Run]:
    station = worker.plugins.get(NAME)
    return station.runs if isinstance(station, Station) else {}

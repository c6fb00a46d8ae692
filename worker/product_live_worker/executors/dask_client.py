"""The worker's client of a Dask cluster, in a process of its own: what is unpickled here is passed on as JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from distributed import Client, Future

from product_live_worker.executors import dask_run
from product_live_worker.executors.child import Pipe
from product_live_worker.executors.dask_run import NAME

CONNECT = 5.0
"""Seconds that the scheduler has to answer."""
AGAIN = (1.0, 5.0)
"""Seconds between two attempts to reach it: the first, doubled up to the last."""
GLANCE = 0.2
PING = 15.0
"""Seconds between two looks whether a scheduler that is connected answers too."""
SILENCE = 1.5
"""The part of a run's lease after which a Dask worker that is silent is given up: it has ended the run by then."""
ANSWER = 30.0
"""Seconds that a scheduler has to answer before it is given up."""
EVICTION = 5.0
LOST = "The Dask worker {} died, or does not answer, while the handler ran."
STOPPING = 4.0
"""Seconds at the end in which what still runs is stopped."""


def main(_: int) -> None:
    """Serve the worker until it closes the pipe, or is gone; then stop what runs on the cluster."""
    anyio.run(_serve, Pipe.take_over())


async def _serve(pipe: Pipe) -> None:
    first = await anyio.to_thread.run_sync(pipe.executions.get)
    if first is not None:
        async with anyio.create_task_group() as group:
            cluster = _Cluster(pipe, first["scheduler"], group)
            group.start_soon(cluster.keep)
            while (said := await anyio.to_thread.run_sync(pipe.executions.get)) is not None:
                cluster.hear(said)
            await cluster.stop_all()
            os._exit(0)


@dataclass(eq=False)
class _Run:
    token: str
    execution: str
    lease: float
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    future: Future[Any] | None = None
    address: str = ""
    """The Dask worker that it runs on."""
    dead: bool = False
    """Whether that one is gone."""
    placed: anyio.Event = field(default_factory=anyio.Event)
    reply: dict[str, Any] | None = None
    replied: anyio.Event = field(default_factory=anyio.Event)


@dataclass(eq=False)
class _Cluster:
    pipe: Pipe
    scheduler: str
    group: TaskGroup
    client: Client | None = None
    connection: int = 0
    lost: anyio.Event = field(default_factory=anyio.Event)
    why: str = ""
    runs: dict[str, _Run] = field(default_factory=dict)

    async def keep(self) -> None:
        """Keep a connection to the scheduler; what runs when it is lost, is lost."""
        wait, longest = AGAIN
        while True:
            try:
                client = await Client(  # type: ignore[no-untyped-call]  # Dask is typed in parts
                    self.scheduler, asynchronous=True, timeout=CONNECT, set_as_default=False, name=NAME
                )
            except Exception as error:  # noqa: BLE001 (addresses, names, TLS, versions: it is all the same)
                self.pipe.say(do="away", why=f"the Dask scheduler {self.scheduler} cannot be reached: {_words(error)}")
                await anyio.sleep(wait)
                wait = min(longest, wait * 2)
                continue
            wait = AGAIN[0]
            self.client, self.lost, self.why = client, anyio.Event(), "it has closed the connection"
            self.connection += 1
            client.subscribe_topic(client.id, self.place)
            client.subscribe_topic("all", self.notice)
            self.pipe.say(do="up", connection=self.connection)
            await self._watch(client)
            self.client = None
            self.pipe.say(do="away", why=f"the Dask scheduler {self.scheduler} is gone: {self.why}")
            for run in self.runs.values():
                run.scope.cancel()
            with anyio.move_on_after(CONNECT):
                await client.close()

    async def _watch(self, client: Client) -> None:
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._ping, client)
            while client.status == "running" and not self.lost.is_set():
                with anyio.move_on_after(GLANCE):
                    await self.lost.wait()
            beside.cancel_scope.cancel()

    async def _ping(self, client: Client) -> None:
        while True:
            await anyio.sleep(PING)
            await self.answers(client, ANSWER)

    async def answers(self, client: Client, seconds: float) -> bool:
        """Tell whether the scheduler answers; if not, it is lost."""
        try:
            with anyio.fail_after(seconds):
                await client.scheduler.identity(n_workers=0)  # type: ignore[union-attr]  # it is there once connected
        except Exception as error:  # noqa: BLE001 (whatever it is, there is no answer)
            self.why = f"it does not answer: {_words(error)}"
            self.lost.set()
            return False
        return True

    def hear(self, said: dict[str, Any]) -> None:
        """Do what the worker says."""
        run = self.runs.get(said["id"])
        match said["do"]:
            case "run" if said["connection"] == self.connection and self.client is not None:
                run = self.runs[said["id"]] = _Run(said["id"], said["parcel"]["execution"], said["lease"])
                self.group.start_soon(self.run, self.client, run, said)
            case "reply" if run is not None:
                run.reply = said["reply"]
                run.replied.set()
            case "cancel" if run is not None:
                run.scope.cancel()
            case "cancel":
                self.pipe.say(id=said["id"], do="gone")

    async def place(self, event: tuple[float, Any]) -> None:
        """Hear where a task has begun. A second time is after the death of a Dask worker: that one is not to run."""
        said = event[1]
        if not isinstance(said, dict) or "token" not in said:
            return
        run = self.runs.get(said["token"])
        if run is None or run.placed.is_set():
            self.group.start_soon(self.end, said["execution"], [said["address"]])
            return
        run.address = said["address"]
        run.placed.set()

    async def notice(self, event: tuple[float, Any]) -> None:
        """Hear of the end of a Dask worker: asking it would take as long as a connection may."""
        said = event[1]
        if isinstance(said, dict) and said.get("action") == "remove-worker":
            for run in self.runs.values():
                if run.address == said["worker"]:
                    run.dead = True
                    run.replied.set()

    async def run(self, client: Client, run: _Run, said: dict[str, Any]) -> None:
        """Run an execution on the cluster, and stop it there when it is cancelled."""
        try:
            with run.scope:
                await self._carry(client, run, said["parcel"], time.monotonic() + said["seconds"])
        finally:
            with anyio.CancelScope(shield=True):
                if client is self.client:
                    if run.future is not None:
                        await run.future.cancel()  # type: ignore[no-untyped-call]  # the same
                    if run.placed.is_set() and not run.dead:
                        await self.end(run.execution, [run.address])
            del self.runs[run.token]
            self.pipe.say(id=run.token, do="gone")

    async def _carry(self, client: Client, run: _Run, parcel: dict[str, Any], deadline: float) -> None:
        # Whoever ran it before, and was lost to us, must not run it beside.
        with anyio.move_on_after(EVICTION):
            await self.end(run.execution, None)
        key = f"{NAME}-{parcel['task']}-{run.token}"
        run.future = client.submit(_by_value(), client.id, run.token, run.execution, key=key, pure=False, retries=0)
        while not run.placed.is_set():
            with anyio.move_on_after(GLANCE):
                await run.placed.wait()
            if run.future.status == "error":
                error = await run.future.exception()  # type: ignore[no-untyped-call]  # the same
                self.pipe.say(id=run.token, do="refused", why=_words(error))
                return
        self.pipe.say(id=run.token, do="begun")
        seconds = deadline - time.monotonic()
        given: dict[str, Any] | None = {"parcel": parcel, "seconds": seconds, "lease": run.lease}
        while isinstance(heard := await self._converse(client, run, given), list):
            for each in heard:
                self.pipe.say(id=run.token, **each)
            if heard and heard[-1]["do"] == "end":
                return
            given = await self._reply(run, is_awaited=any(each["do"] == "ask" for each in heard))
        self.pipe.say(id=run.token, do="crashed", why=heard)

    async def _converse(self, client: Client, run: _Run, given: dict[str, Any] | None) -> list[dict[str, Any]] | str:
        """Take away what the handler says; when its Dask worker is gone, say so."""
        if run.dead:
            return LOST.format(run.address)
        try:
            with anyio.fail_after(run.lease * SILENCE):
                heard = await client.run(dask_run.converse, run.token, given, workers=[run.address])
        except Exception as error:  # noqa: BLE001 (each transport has its own)
            if not await self.answers(client, CONNECT):
                # `keep` ends it.
                await anyio.sleep_forever()
            fields = {"dask_worker": run.address, "error": _words(error)}
            self.pipe.say(
                id=run.token, do="log", level="warning", event="the Dask worker does not answer", fields=fields
            )
            return LOST.format(run.address)
        said: list[dict[str, Any]] | None = heard[run.address]
        return f"The handler was stopped on the Dask worker {run.address}." if said is None else said

    async def _reply(self, run: _Run, *, is_awaited: bool) -> dict[str, Any] | None:
        if is_awaited:
            # A verb may take its time; the run is to hear of us all the same.
            with anyio.move_on_after(run.lease / 6):
                await run.replied.wait()
        reply, run.reply = run.reply, None
        run.replied = anyio.Event()
        return reply

    async def end(self, execution: str, workers: list[str] | None) -> None:
        """Stop what runs for an execution on these Dask workers, or on all."""
        if self.client is not None:
            with anyio.move_on_after(ANSWER):
                await self.client.run(dask_run.stop, execution, workers=workers, on_error="ignore")

    async def stop_all(self) -> None:
        """Stop everything, when the worker ends."""
        with anyio.move_on_after(STOPPING):
            for run in self.runs.values():
                run.scope.cancel()
            while self.runs:  # noqa: ASYNC110 (it is the end)
                await anyio.sleep(0.01)


def _by_value() -> Callable[..., Coroutine[Any, Any, None]]:
    """Give the task as a function that Dask sends as it is: one sent by its name ends each Dask worker without it."""

    async def run_here(*arguments: str) -> None:
        from importlib import import_module  # noqa: PLC0415 (what stands outside does not go along)

        await import_module("product_live_worker.executors.dask_run").run(*arguments)

    return run_here


def _words(error: BaseException | None) -> str:
    # Dask wraps what happened into the story of the connection that it happened to.
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"[:500]

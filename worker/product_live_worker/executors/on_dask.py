"""Runs a handler on a Dask cluster, in a process of its own beside a Dask worker, which is killed when it is late.

The Dask client lives in a process of its own here too: whatever a cluster says is unpickled there, and the worker reads
JSON. While the scheduler is away, nothing is claimed for these handlers; what had not begun waits for it.
"""

from __future__ import annotations

import importlib.util
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from product_live_worker.executors.apart import BROKEN, REAPED, Apart
from product_live_worker.executors.parcel import Listener, Parcel, listener_of, not_packed, outcome_of, packed
from product_live_worker.executors.perform import HandlerLost
from product_live_worker.model.execution import Outcome
from product_live_worker.telemetry.log import log_for

if TYPE_CHECKING:
    from product_live_worker.executors.perform import Work

CLIENT = "product_live_worker.executors.dask_client"
LIBRARY = "distributed"
INSTALL = "pip install 'product-live-worker[dask]'"
MARGIN = 5.0
"""Seconds after the deadline in which the cluster ends a handler by itself, should the worker not be heard."""
LEASE = 30.0
"""Seconds of the client's silence after which the cluster ends a handler: nobody would hear of its result."""
NOTICE = 0.5
"""Seconds before the deadline at which what has not begun is given up, in words of its own."""
CLOSING = 5.0
"""Seconds that the client has at the end to stop what still runs on the cluster."""
ENDS = {why: why for why in ("crash", "memory", "cancelled")}
LOST = (
    "The connection to the Dask scheduler was lost while the handler ran ({why}); whether it had done its work is not "
    "known."
)
NOT_STARTED = "The handler was not started within its time: {why}."


class ClusterAway(Exception):
    """The cluster cannot be reached; the text is why."""


class Outage(Protocol):
    """Who is told whether the cluster can be reached."""

    def failed(self, error: Exception) -> float:
        """Hear of a failure; gives the seconds to wait before the next attempt."""

    def worked(self) -> None:
        """Hear of a success."""


@dataclass(eq=False)
class _Run:
    task: str
    say: MemoryObjectSendStream[Mapping[str, Any]]
    begun: bool = False
    """Whether the cluster may have called the handler."""
    given_up: bool = False
    over: bool = False
    """Whether it has ended, or is lost: nobody waits for an answer any more."""
    asking: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """In which it is answered: a verb may take any time."""
    gone: anyio.Event = field(default_factory=anyio.Event)

    def end(self) -> None:
        """Let nobody wait for what it has asked."""
        self.over = True
        self.asking.cancel()


class OnDask:
    """An existing Dask cluster; `serve` keeps the way to it."""

    def __init__(
        self,
        scheduler: str | None,
        outage: Outage,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_end: Callable[[Work, str], None] = lambda _work, _why: None,
        lease: float = LEASE,
    ) -> None:
        """`on_change` is called when slots may have come free; `on_end` is that of InProcess."""
        self.wanted = anyio.Event()
        """Set once a handler asks for the cluster; Dask is loaded no sooner."""
        self._scheduler = scheduler
        self._outage = outage
        self._on_change = on_change
        self._on_end = on_end
        self._lease = lease
        self._log = log_for(scheduler=scheduler)
        self._client: Apart | None = None
        self._connection = 0
        self._up = anyio.Event()
        self._why = "the Dask scheduler has not answered yet"
        self._runs: dict[str, _Run] = {}

    def trouble(self) -> str:
        """Say why the cluster cannot be used just now."""
        return lacking(self._scheduler) or ("" if self._up.is_set() else self._why)

    async def ready(self) -> None:
        """Wait until the cluster can be reached."""
        await self._up.wait()

    def overdue(self, task: str) -> int:
        """Count the task's handlers that were given up, and of which the cluster has not said yet that they ended."""
        return sum(run.given_up and run.task == task for run in self._runs.values())

    async def run(self, work: Work) -> Outcome:
        """Give the handler's Outcome; when the caller is cancelled, its process on the cluster is killed.

        Raises HandlerLost when the connection to the scheduler is lost while it runs.
        """
        try:
            parcel = packed(work)
        except Exception as error:  # noqa: BLE001 (pickling asks whatever the settings are made of)
            work.failed(error)
            return not_packed(error)
        seconds = work.context.remaining()
        with anyio.move_on_after(max(seconds - NOTICE, seconds * 0.9)) as unstarted:
            while True:
                await self.ready()
                outcome = await self._attempt(parcel, work, unstarted)
                if outcome is not None:
                    return outcome
        why = self.trouble() or "no Dask worker had a slot for it"
        return Outcome.failed("timeout", NOT_STARTED.format(why=why))

    async def _attempt(self, parcel: Parcel, work: Work, unstarted: anyio.CancelScope) -> Outcome | None:
        """Submit it and do what it asks, until its Outcome; None when it has not begun, and is to be submitted anew."""
        assert self._client is not None  # noqa: S101 (it is there while the cluster is)
        client, token = self._client, secrets.token_hex(8)
        say, says = anyio.create_memory_object_stream[Mapping[str, Any]](math.inf)
        run = self._runs[token] = _Run(work.context.task, say)
        order = {"id": token, "connection": self._connection, "parcel": parcel}
        try:
            seconds = work.context.remaining() + MARGIN
            await client.tell({"do": "run", **order, "seconds": seconds, "lease": self._lease})
            async for said in says:
                if said["do"] == "begun":
                    run.begun, unstarted.deadline = True, math.inf
                elif (outcome := await self._hear(client, token, work, said)) is not None:
                    return outcome
        except BROKEN:
            self._away("the Dask client has ended")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            await self._stop(client, token, run)
            return Outcome.failed("handler_crashed", f"The cluster said what makes no sense ({type(error).__name__}).")
        except anyio.get_cancelled_exc_class():
            await self._stop(client, token, run)
            if run.begun:
                self._on_end(work, "late" if work.context.remaining() <= 0 else "cancelled")
            raise
        finally:
            say.close()
            says.close()
            if not run.given_up:
                self._runs.pop(token, None)
        if not run.begun:
            return None
        self._on_end(work, "lost")
        raise HandlerLost(Outcome.failed("handler_crashed", LOST.format(why=self._why)))

    async def _hear(self, client: Apart, token: str, work: Work, said: Mapping[str, Any]) -> Outcome | None:
        """Do what was said of an execution; gives its Outcome when that is said."""
        match said["do"]:
            case "end":
                return outcome_of(said)
            case "crashed":
                self._on_end(work, "crash")
                return Outcome.failed("handler_crashed", str(said["why"])[:1000])
            case "refused":
                why = f"The Dask cluster cannot run the handler: {said['why']}"
                return Outcome.failed("handler_error", why[:1000])
            case "ended":
                self._on_end(work, ENDS[said["why"]])
            case _:
                run = self._runs[token]
                with anyio.CancelScope() as run.asking:
                    if run.over:
                        run.asking.cancel()
                    if (answer := await listener_of(work).hear(said)) is not None:
                        await client.tell({"do": "reply", "id": token, "reply": answer})
        return None

    async def _stop(self, client: Apart, token: str, run: _Run) -> None:
        """Have it stopped on the cluster; what is not known to be stopped keeps its slot."""
        run.given_up = True
        with anyio.CancelScope(shield=True):
            try:
                await client.tell({"do": "cancel", "id": token})
            except BROKEN:
                run.gone.set()
            if run.begun:
                with anyio.move_on_after(REAPED):
                    await run.gone.wait()
        if run.gone.is_set() or not run.begun:
            self._runs.pop(token, None)

    async def serve(self) -> None:
        """Keep a client of the cluster, from when a handler first asks for it, until cancelled."""
        await self.wanted.wait()
        while True:
            try:
                client = await Apart.start(CLIENT)
            except OSError as error:
                self._why = f"the Dask client cannot be started: {error}"
                await anyio.sleep(self._outage.failed(ClusterAway(self._why)))
                continue
            try:
                async with anyio.create_task_group() as beside:
                    beside.start_soon(client.log_prints, self._log, "the Dask client printed")
                    await self._listen(client)
                    beside.cancel_scope.cancel()
            finally:
                self._away("the Dask client has ended")
                with anyio.move_on_after(CLOSING, shield=True):
                    await client.dismiss()
                await client.end()
            await anyio.sleep(self._outage.failed(ClusterAway(self._why)))

    async def _listen(self, client: Apart) -> None:
        own = Listener(log=self._log, verbs={}, failed=lambda _: None)
        try:
            await client.tell({"scheduler": self._scheduler})
            while True:
                said = await client.hear()
                match said["do"]:
                    case "up":
                        self._client, self._connection = client, int(said["connection"])
                        self._up.set()
                        self._outage.worked()
                        self._on_change()
                    case "away":
                        self._away(str(said["why"]))
                        self._outage.failed(ClusterAway(self._why))
                    case _ if "id" in said:
                        self._pass_on(said)
                    case _:
                        await own.hear(said)
        except BROKEN:
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            client.kill(f"said what makes no sense ({type(error).__name__})")

    def _pass_on(self, said: Mapping[str, Any]) -> None:
        run = self._runs.get(said["id"])
        if run is None:
            return
        if said["do"] != "gone":
            # Of one that was given up, only its end counts.
            if not run.given_up:
                run.say.send_nowait(said)
            if said["do"] == "crashed":
                run.end()
            return
        run.gone.set()
        if run.given_up:
            del self._runs[said["id"]]
            self._on_change()

    def _away(self, why: str) -> None:
        """Let all know that the cluster is lost: it ends by itself what it does for a client that is gone."""
        self._why = why
        if self._up.is_set():
            self._up = anyio.Event()
        for token, run in tuple(self._runs.items()):
            run.say.close()
            run.end()
            if run.given_up:
                run.gone.set()
                del self._runs[token]


def not_installed() -> str:
    """Say how to install Dask where it is not; it is not loaded for that."""
    return "" if importlib.util.find_spec(LIBRARY) else f"Dask is not installed: {INSTALL}"


def lacking(scheduler: str | None) -> str:
    """Say what is missing before a handler can run on Dask, and what to do; nothing where nothing is."""
    return not_installed() or ("" if scheduler else "execution.dask_scheduler is not set: give it as tcp://HOST:PORT")

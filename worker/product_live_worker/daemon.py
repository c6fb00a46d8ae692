"""The daemon: puts the parts together and lives their life: open, ready, drain, close. Start reading here."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple
from pathlib import Path

import anyio

from product_live_worker import __version__
from product_live_worker.executors.in_process import InProcess
from product_live_worker.executors.in_thread import InThread
from product_live_worker.executors.on_dask import OnDask
from product_live_worker.executors.on_loop import OnLoop
from product_live_worker.executors.perform import Executor, Work
from product_live_worker.executors.resources import Resources
from product_live_worker.executors.workdirs import Workdirs
from product_live_worker.flow.actions import Actions
from product_live_worker.flow.backoff import Outage
from product_live_worker.flow.catalogue import Catalogue, cut_short
from product_live_worker.flow.dispatcher import Dispatcher
from product_live_worker.flow.job_log import JobLog
from product_live_worker.flow.poller import Poller
from product_live_worker.flow.recovery import Recovery
from product_live_worker.flow.reporter import Reporter
from product_live_worker.flow.watch import Watch
from product_live_worker.journal.journal import Journal
from product_live_worker.listener import listen
from product_live_worker.model.action import Action
from product_live_worker.model.context import Log, Verb
from product_live_worker.model.errors import JournalError, JournalUnusable, JournalUnwritable
from product_live_worker.model.execution import Execution
from product_live_worker.model.handler import Handler
from product_live_worker.ops.access import Access
from product_live_worker.ops.callbacks import GUARD, create_callback_app
from product_live_worker.ops.health import Health, verdict
from product_live_worker.ops.page.pages import Pages
from product_live_worker.ops.page.routes import Page
from product_live_worker.ops.server import create_app
from product_live_worker.ops.status import Status
from product_live_worker.parts import long_enough, new_schedule, open_account, open_transfers, task_settings
from product_live_worker.product_live.budget import Budget
from product_live_worker.product_live.client import Client
from product_live_worker.product_live.files import Transfers
from product_live_worker.settings import Settings, admin_token, known_secrets
from product_live_worker.stage import Stage, Stop
from product_live_worker.systemd import Notifier
from product_live_worker.telemetry.blocking import LoopWatch
from product_live_worker.telemetry.events import (
    ActionRefused,
    DrainStarted,
    DrainTooShort,
    Emit,
    Event,
    HandlerProcessEnded,
    WorkerStarted,
    WorkerStopped,
    about,
)
from product_live_worker.telemetry.history import Failure, History
from product_live_worker.telemetry.log import log_event, log_for
from product_live_worker.telemetry.metrics import Metrics, Reading

LAST_REPORTS = 5.0
"""Seconds that the reporter has, after the drain's own, for the outcomes that the drain has left it."""
LAST_LINES = 1.0
"""Seconds that lines for the logs of jobs have at the very end."""
DEGRADED = 20.0
"""Seconds after which systemd is told that the start is over although not all is well."""
TICK = 0.5
UNWRITABLE = 2.0
"""Seconds at most between two attempts to write while the disk refuses."""


class Daemon:
    """All parts of an open worker."""

    def __init__(
        self,
        settings: Settings,
        handlers: Mapping[str, Handler],
        *,
        client: Client,
        budget: Budget,
        journal: Journal,
        workdirs: Workdirs,
        transfers: Transfers,
        job_log: JobLog,
        metrics: Metrics,
        history: History,
        emit: Emit,
    ) -> None:
        self.settings = settings
        self.journal = journal
        self._budget = budget
        self._workdirs = workdirs
        self._transfers = transfers
        self._job_log = job_log
        self.emit = emit
        self.loop_lag = 0.0
        self._cut_short: tuple[str, ...] = ()
        self.port = 0
        """Where the ops listener listens."""
        self.callback_port = 0
        """Where callbacks arrive, if there is a listener for them."""
        self.resources = Resources()
        self.threads = InThread(self.resources, on_return=lambda: self.poller.wake())  # noqa: PLW0108 (it comes below)
        self.processes = InProcess(on_end=self._process_ended)
        self.cluster = OnDask(
            settings.execution.dask_scheduler,
            Outage("the Dask cluster", emit),
            on_change=lambda: self.poller.wake(),  # noqa: PLW0108 (it comes below)
            on_end=self._process_ended,
        )
        self.executors: dict[str, Executor] = {
            "loop": OnLoop(self.resources),
            "thread": self.threads,
            "process": self.processes,
            "dask": self.cluster,
        }
        self.schedule = new_schedule(settings, chance=random.random)
        sections = task_settings(settings, handlers)
        self.catalogue = Catalogue(
            client,
            journal.task_list,
            handlers,
            sections,
            settings.connections,
            platform=settings.api.base_url,
            on_change=self._tasks_changed,
            emit=emit,
        )
        tasks = self.catalogue.tasks
        self.dispatcher = Dispatcher(
            journal,
            tasks,
            self.executors,
            workdirs=workdirs,
            max_output=settings.execution.max_output,
            log_for=lambda execution: history.noting(execution.id, _handler_log(execution)),
            verbs=self._verbs,
            emit=emit,
            callback_url=_callback_url(settings),
        )
        self.poller = Poller(client, budget, journal, self.schedule, tasks, capacity=self.dispatcher.free, emit=emit)
        # Polls overlap: what one in the air may bring has to be reportable too.
        budget.unreported = lambda: journal.unreported() + self.poller.in_the_air
        budget.busy = self.poller.busy
        self.reporter = Reporter(client, journal, emit=emit)
        self.recovery = Recovery(
            client,
            journal,
            tasks,
            ready=self.catalogue.loaded,
            every=settings.state.lease / 2,
            max_crashes=settings.state.max_crashes,
            emit=emit,
        )
        self.watch = Watch(
            client, journal, tasks, ready=self.catalogue.loaded, cancel=self.dispatcher.cancel, emit=emit
        )
        self.actions = Actions(
            journal,
            on_pauses=self.poller.resume,
            on_redeliver=self.recovery.hurry,
            end=self.dispatcher.end,
            emit=emit,
        )
        self.history = history
        self.health = Health(
            self.catalogue,
            self.poller,
            self.dispatcher,
            journal,
            self.threads,
            budget,
            history,
            settings.execution.max_stuck_threads,
        )
        self.status = Status(
            self.health,
            self.schedule,
            self.executors,
            self.processes,
            history,
            __version__,
            settings.api.base_url,
            budget,
            time.time(),
        )
        self.page = new_page(self)
        self.metrics = metrics
        metrics.watch(self._gauges(budget))
        ready = "Whether a check of /readyz is passed.", lambda: {check.name: check.ok for check in self.health.ready()}
        metrics.watch({"ready": ready}, by="check")

    async def remember(self) -> None:
        """Learn what the journal knows of the time before this process: the pauses that hold, the last failures."""
        await self.actions.look()
        await self.journal.board.survey()
        for one in await self.journal.board.failures():
            said = (one.correlation_id, one.code or "", one.message or "")
            self.history.fail(Failure(one.settled_at or 0.0, one.task, one.id, *said))

    async def act(self, action: Action) -> None:
        """Do what a signal asks for; where it cannot be done, the log says so."""
        try:
            await self.actions.act(action)
        except JournalError as error:
            self.emit(ActionRefused(verb=action.verb, reason=str(error)))

    async def run(self, stop: Stop, notifier: Notifier) -> None:
        """Work until a stop is asked for, then drain; raises JournalUnusable when a newer worker has asked for it."""
        async with anyio.create_task_group() as life:
            reporting = Stage("reporter", self.reporter.run, self.emit)
            dispatching = Stage("dispatcher", self.dispatcher.run, self.emit, after=self.catalogue.loaded)
            polling = Stage("poller", self.poller.run, self.emit, after=self.catalogue.loaded)
            for stage in (reporting, dispatching, polling):
                life.start_soon(stage.run)
            for name, work in self._helpers(stop, notifier):
                life.start_soon(Stage(name, work, self.emit).run)
            await stop.requested.wait()
            notifier.stopping()
            await self._drain(stop.reason, polling, dispatching)
            life.cancel_scope.cancel()
        if self.journal.outgrown:
            raise JournalUnusable(f"{self.journal.outgrown}. Install the newer version here too")

    async def _drain(self, reason: str, polling: Stage, dispatching: Stage) -> None:
        timeout = self.settings.drain.timeout
        self.health.draining = reason
        self.emit(DrainStarted(reason=reason, seconds=timeout, running=self.journal.total_in_hand()))
        deadline = anyio.current_time() + timeout
        await polling.finish()
        with anyio.CancelScope(deadline=deadline):
            await self.dispatcher.idle()
        self.dispatcher.stop()
        await dispatching.finish(LAST_REPORTS)
        with anyio.CancelScope(deadline=max(deadline, anyio.current_time()) + LAST_REPORTS):
            await self.reporter.idle()
        with anyio.move_on_after(LAST_LINES):
            await self._job_log.idle()
        # Whoever restarts a worker to have it look at the account's tasks shall not be shown what is known by now.
        self.journal.task_list.outdate()
        self.emit(WorkerStopped(unreported=self.journal.reports_waiting(), left_running=self.journal.total_in_hand()))

    def _helpers(self, stop: Stop, notifier: Notifier) -> Iterable[tuple[str, Callable[[], Awaitable[None]]]]:
        yield "catalogue", self.catalogue.run
        yield "lease", lambda: self._keep_lease(stop)
        yield "recovery", self.recovery.run
        yield "watch", self.watch.run
        yield "job log", self._job_log.run
        yield "actions", self.actions.run
        yield "housekeeping", self._keep_house
        yield "cluster", self.cluster.serve
        yield "observer", lambda: self._observe(notifier)
        yield "waker", self._wake_poller

    async def _keep_lease(self, stop: Stop) -> None:
        """Prolong the lease until the very end; a worker that lost it ends what it no longer holds."""
        outage = Outage("writing the journal", self.emit)
        while True:
            try:
                if not await self.journal.renew():
                    self.dispatcher.abandon()
                self.schedule.divide(*astuple(self.journal.fleet))
                if self.journal.outgrown:
                    stop.request(self.journal.outgrown)
                await self.journal.catch_up()
                outage.worked()
                wait = self.settings.state.lease / 3
            except JournalUnwritable as error:
                wait = min(outage.failed(error), UNWRITABLE)
            with anyio.move_on_after(wait):
                await self.journal.troubled()

    async def _keep_house(self) -> None:
        await self._workdirs.sweep()
        while True:
            with contextlib.suppress(JournalUnwritable):
                before = time.time() - self.settings.state.retention
                await self.journal.prune(before)
                await self.journal.board.prune(before)
                await self.journal.callbacks.prune()
            await anyio.sleep(3600)

    async def _wake_poller(self) -> None:
        # A slot that a settled execution frees is a poll that may be made.
        while True:
            await self.journal.changed()
            self.poller.wake()
            self._budget.nudge()

    async def _observe(self, notifier: Notifier) -> None:
        """Measure the loop's lag, and tell systemd only what has been proven."""
        started, told, is_ready = anyio.current_time(), "", False
        fed = started
        with LoopWatch(self.emit) as watch:
            while True:
                before = anyio.current_time()
                await anyio.sleep(TICK)
                watch.beat()
                now = anyio.current_time()
                self.loop_lag = max(0.0, now - before - TICK)
                checks = self.health.ready()
                text = verdict(checks)
                well = all(check.ok for check in checks)
                if not is_ready and (well or now - started > DEGRADED):
                    notifier.ready(text if well else f"degraded: {text}")
                    is_ready = True
                elif text != told:
                    notifier.status(text)
                told = text
                if (
                    notifier.watchdog_interval
                    and now - fed >= notifier.watchdog_interval - TICK
                    and all(c.ok for c in self.health.live())
                ):
                    notifier.alive()
                    fed = now

    def _tasks_changed(self) -> None:
        self.schedule.serve(self.catalogue.tasks)
        if any(task.handler.isolation == "dask" for task in self.catalogue.tasks.values()):
            self.cluster.wanted.set()
        self.poller.wake()
        drain, tasks = self.settings.drain.timeout, self.catalogue.tasks.values()
        if (handlers := cut_short(tasks, drain)) and handlers != self._cut_short:
            self.emit(DrainTooShort(drain_seconds=drain, handlers=handlers, advice=long_enough(tasks)))
        self._cut_short = handlers

    def _verbs(self, execution: Execution, directory: Path, log: Log) -> Mapping[str, Verb]:
        return {
            **self._transfers.verbs(directory, log),
            "report": lambda said: self._job_log.report(execution, said),
        }

    def _process_ended(self, work: Work, reason: str) -> None:
        execution = self.journal.get(work.context.execution_id)
        if execution is not None:
            self.emit(HandlerProcessEnded(**about(execution), reason=reason))

    def _gauges(self, budget: Budget) -> dict[str, tuple[str, Reading]]:
        tasks = self.catalogue.tasks
        return {
            "executions_in_flight": (
                "Executions claimed or running.",
                lambda: {key: self.journal.in_hand(key) for key in tasks},
            ),
            "concurrency": (
                "Executions that may run at once.",
                lambda: {key: task.concurrency for key, task in tasks.items()},
            ),
            "reports_pending": ("Outcomes that wait to be reported.", self.journal.reports_waiting),
            "reports_undeliverable": (
                "Outcomes that the platform refuses for good.",
                lambda: self.journal.undeliverable,
            ),
            "budget_limit": ("Requests in a window that are ours; 0 is no limit.", budget.allowed),
            "budget_limit_configured": ("Requests in a window by the settings; 0 is no limit.", lambda: budget.limit),
            "budget_used": ("Slots of the window that are held.", budget.used),
            "key_refused": ("Whether the platform refuses the API key.", self.health.key_refused),
            "poll_overdue_seconds": ("How long a poll has been due, with capacity and budget.", self.poller.overdue),
            "pickup_delay_bound_seconds": ("The longest wait for a claim by plan.", self.schedule.waits),
            "loop_lag_seconds": ("How late the event loop was last.", lambda: self.loop_lag),
            "handler_processes": ("Processes of handlers, idle ones included.", self.processes.count),
            "stuck_threads": ("Threads that run on after their deadline.", self.threads.stuck),
        }


@asynccontextmanager
async def open_daemon(
    settings: Settings, handlers: Mapping[str, Handler], *, readers: Iterable[Emit] = ()
) -> AsyncIterator[Daemon]:
    """Open everything a worker needs, and close it in the opposite order; `readers` hear of every event too.

    Raises a WorkerError when something cannot be opened.
    """
    metrics, history = Metrics(__version__), History(window=settings.budget.window)
    heard = [log_event, metrics.read, history.read, *readers]

    def emit(event: Event) -> None:
        for reader in heard:
            reader(event)

    async with AsyncExitStack() as opened:
        journal, budget, client = await opened.enter_async_context(open_account(settings, emit=emit))
        job_log = JobLog(client, path=settings.log.platform_path, wanted=settings.log.platform, emit=emit)
        heard.append(job_log.read)
        daemon = Daemon(
            settings,
            handlers,
            client=client,
            budget=budget,
            journal=journal,
            workdirs=await opened.enter_async_context(Workdirs.open(settings.workdir())),
            transfers=await opened.enter_async_context(open_transfers(settings, client, budget, emit=emit)),
            job_log=job_log,
            metrics=metrics,
            history=history,
            emit=emit,
        )
        await daemon.remember()
        await opened.enter_async_context(daemon.resources)
        opened.push_async_callback(daemon.processes.close)
        http = settings.http
        app = create_app(daemon.health, daemon.status, metrics, daemon.page, lambda: known_secrets(settings))
        daemon.port = await opened.enter_async_context(listen(app, http.host, http.port))
        opened.callback(daemon.page.close)
        if http.callback_port is not None:
            outward = create_callback_app(journal.callbacks.store)
            listening = listen(outward, http.host, http.callback_port, guard=GUARD)
            daemon.callback_port = await opened.enter_async_context(listening)
        emit(
            WorkerStarted(
                version=__version__,
                platform=settings.api.base_url,
                address=f"http://{_in_url(settings.http.host)}:{daemon.port}",
                journal=settings.state.shown_url,
            )
        )
        yield daemon


def new_page(daemon: Daemon) -> Page:
    """Make the operator's page of this worker."""
    settings = daemon.settings
    return Page(
        Pages(daemon.status, keep_payloads=settings.state.keep_payloads),
        Access(lambda: admin_token(settings.http)),
        daemon.journal.board,
        daemon.actions.act,
        lambda: known_secrets(settings),
    )


def _handler_log(execution: Execution) -> Log:
    return log_for(task=execution.task, execution=execution.id, correlation=execution.correlation_id)


def _callback_url(settings: Settings) -> str:
    http = settings.http
    return "" if http.public_url is None or http.callback_port is None else http.public_url


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host

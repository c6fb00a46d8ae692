"""The daemon: puts the parts together and lives their life: open, ready, drain, close. Start reading here."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio

from product_live_worker import __version__
from product_live_worker.executors.in_process import InProcess
from product_live_worker.executors.in_thread import InThread
from product_live_worker.executors.on_loop import OnLoop
from product_live_worker.executors.perform import Executor, Work
from product_live_worker.executors.resources import Resources
from product_live_worker.flow.backoff import Outage
from product_live_worker.flow.catalogue import Catalogue, cut_short
from product_live_worker.flow.dispatcher import Dispatcher
from product_live_worker.flow.poller import Poller
from product_live_worker.flow.recovery import Recovery
from product_live_worker.flow.reporter import Reporter
from product_live_worker.flow.schedule import Schedule
from product_live_worker.flow.watch import Watch
from product_live_worker.journal.journal import Journal, open_journal
from product_live_worker.listener import listen
from product_live_worker.model.context import Log
from product_live_worker.model.errors import JournalUnwritable, SettingsError
from product_live_worker.model.execution import Execution
from product_live_worker.model.handler import Handler
from product_live_worker.model.task import ServedTask, TaskSettings
from product_live_worker.ops.health import Health, verdict
from product_live_worker.ops.server import create_app
from product_live_worker.ops.status import Status
from product_live_worker.product_live.budget import Budget
from product_live_worker.product_live.client import MARGIN, Client, open_http
from product_live_worker.registry import settings_problems
from product_live_worker.settings import Settings, api_key
from product_live_worker.systemd import Notifier
from product_live_worker.telemetry.blocking import LoopWatch
from product_live_worker.telemetry.events import (
    DrainStarted,
    DrainTooShort,
    Emit,
    Event,
    HandlerProcessEnded,
    StageDied,
    WorkerStarted,
    WorkerStopped,
    about,
)
from product_live_worker.telemetry.log import log_event, log_for
from product_live_worker.telemetry.metrics import Metrics, Reading

LAST_REPORTS = 5.0
"""Seconds that the reporter has, after the drain's own, for the outcomes that the drain has left it."""
DEGRADED = 20.0
"""Seconds after which systemd is told that the start is over although not all is well."""
TICK = 0.5
UNWRITABLE = 2.0
"""Seconds at most between two attempts to write while the disk refuses."""


@dataclass
class Stop:
    """What ends the daemon; whoever hears of a reason to stop asks for it here."""

    reason: str = ""
    requested: anyio.Event = field(default_factory=anyio.Event)

    def request(self, reason: str) -> None:
        """Begin the drain."""
        self.reason = self.reason or reason
        self.requested.set()


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
        metrics: Metrics,
        emit: Emit,
    ) -> None:
        self.settings = settings
        self.journal = journal
        self._budget = budget
        self.emit = emit
        self.loop_lag = 0.0
        self._cut_short: tuple[str, ...] = ()
        self.port = 0
        """Where the ops listener listens."""
        self.resources = Resources()
        self.threads = InThread(self.resources, on_return=lambda: self.poller.wake())  # noqa: PLW0108 (it comes below)
        self.processes = InProcess(on_end=self._process_ended)
        self.executors: dict[str, Executor] = {
            "loop": OnLoop(self.resources),
            "thread": self.threads,
            "process": self.processes,
        }
        self.schedule = new_schedule(settings, chance=random.random)
        sections = task_settings(settings, handlers)
        self.catalogue = Catalogue(
            client, handlers, sections, platform=settings.api.base_url, on_change=self._tasks_changed, emit=emit
        )
        tasks = self.catalogue.tasks
        self.dispatcher = Dispatcher(
            journal, tasks, self.executors, max_output=settings.execution.max_output, log_for=_handler_log, emit=emit
        )
        self.poller = Poller(client, budget, journal, self.schedule, tasks, capacity=self.dispatcher.free, emit=emit)
        # Polls overlap: what one in the air may bring has to be reportable too.
        budget.unreported = lambda: journal.unreported() + self.poller.in_the_air
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
        self.health = Health(
            self.catalogue, self.poller, self.dispatcher, journal, self.threads, settings.execution.max_stuck_threads
        )
        self.status = Status(
            self.health,
            self.schedule,
            self.executors,
            self.processes,
            __version__,
            settings.api.base_url,
            budget,
            time.time(),
        )
        self.metrics = metrics
        metrics.watch(self._gauges(budget))
        ready = "Whether a check of /readyz is passed.", lambda: {check.name: check.ok for check in self.health.ready()}
        metrics.watch({"ready": ready}, by="check")

    async def run(self, stop: Stop, notifier: Notifier) -> None:
        """Work until a stop is asked for, then drain."""
        async with anyio.create_task_group() as life:
            reporting = _Stage("reporter", self.reporter.run, self.emit)
            dispatching = _Stage("dispatcher", self.dispatcher.run, self.emit, after=self.catalogue.loaded)
            polling = _Stage("poller", self.poller.run, self.emit, after=self.catalogue.loaded)
            for stage in (reporting, dispatching, polling):
                life.start_soon(stage.run)
            for name, work in self._helpers(notifier):
                life.start_soon(_Stage(name, work, self.emit).run)
            await stop.requested.wait()
            notifier.stopping()
            await self._drain(stop.reason, polling, dispatching)
            life.cancel_scope.cancel()

    async def _drain(self, reason: str, polling: _Stage, dispatching: _Stage) -> None:
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
        self.emit(WorkerStopped(unreported=self.journal.reports_waiting(), left_running=self.journal.total_in_hand()))

    def _helpers(self, notifier: Notifier) -> Iterable[tuple[str, Callable[[], Awaitable[None]]]]:
        yield "catalogue", self.catalogue.run
        yield "lease", self._keep_lease
        yield "recovery", self.recovery.run
        yield "watch", self.watch.run
        yield "housekeeping", self._keep_house
        yield "observer", lambda: self._observe(notifier)
        yield "waker", self._wake_poller

    async def _keep_lease(self) -> None:
        """Prolong the lease until the very end; a worker that lost it ends what it no longer holds."""
        outage = Outage("writing the journal", self.emit)
        while True:
            try:
                if not await self.journal.renew():
                    self.dispatcher.abandon()
                self.schedule.divide(self.journal.workers)
                await self.journal.catch_up()
                outage.worked()
                wait = self.settings.state.lease / 3
            except JournalUnwritable as error:
                wait = min(outage.failed(error), UNWRITABLE)
            with anyio.move_on_after(wait):
                await self.journal.troubled()

    async def _keep_house(self) -> None:
        while True:
            with contextlib.suppress(JournalUnwritable):
                await self.journal.prune(time.time() - self.settings.state.retention)
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
                if not is_ready and (text == "ok" or now - started > DEGRADED):
                    notifier.ready(text if text == "ok" else f"degraded: {text}")
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
        self.poller.wake()
        drain, tasks = self.settings.drain.timeout, self.catalogue.tasks.values()
        if (handlers := cut_short(tasks, drain)) and handlers != self._cut_short:
            self.emit(DrainTooShort(drain_seconds=drain, handlers=handlers, advice=long_enough(tasks)))
        self._cut_short = handlers

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


class _Stage:
    """A part that runs for as long as the daemon does, and whose end by an error is the daemon's."""

    def __init__(
        self, name: str, work: Callable[[], Awaitable[None]], emit: Emit, *, after: anyio.Event | None = None
    ) -> None:
        self._name = name
        self._work = work
        self._emit = emit
        self._after = after
        self._begun = False
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self) -> None:
        try:
            with self._scope:
                if self._after is not None:
                    await self._after.wait()
                self._begun = True
                await self._work()
        except Exception as error:
            self._emit(StageDied(stage=self._name, error=error))
            raise
        finally:
            self._ended.set()

    async def finish(self, grace: float = 0.0) -> None:
        """Give it `grace` seconds to end by itself, then end it."""
        with anyio.move_on_after(grace if self._begun else 0.0):
            await self._ended.wait()
        self._scope.cancel()
        await self._ended.wait()


@asynccontextmanager
async def open_account(settings: Settings, *, emit: Emit) -> AsyncIterator[tuple[Journal, Budget, Client]]:
    """Open the journal, and the way to the platform that spends its budget."""
    api, state = settings.api, settings.state
    async with (
        open_journal(
            state.url,
            platform=api.base_url,
            window=settings.budget.window,
            lease=state.lease,
            keep_payloads=state.keep_payloads,
        ) as journal,
        open_http(
            api.base_url,
            connect_timeout=api.connect_timeout,
            total_timeout=api.total_timeout,
            ca_file=api.ca_file,
            user_agent=f"product-live-worker/{__version__}",
        ) as http,
    ):
        budget = Budget(
            journal.ledger,
            limit=settings.budget.requests_per_minute,
            window=settings.budget.window,
            longest_request=api.total_timeout + MARGIN,
            scope=settings.budget.scope,
            unreported=journal.unreported,
            emit=emit,
        )
        client = Client(http, budget, read_key=lambda: api_key(api), total_timeout=api.total_timeout, emit=emit)
        yield journal, budget, client


@asynccontextmanager
async def open_daemon(
    settings: Settings, handlers: Mapping[str, Handler], *, readers: Iterable[Emit] = ()
) -> AsyncIterator[Daemon]:
    """Open everything a worker needs, and close it in the opposite order; `readers` hear of every event too.

    Raises a WorkerError when something cannot be opened.
    """
    metrics = Metrics(__version__)
    heard = (log_event, metrics.read, *readers)

    def emit(event: Event) -> None:
        for reader in heard:
            reader(event)

    async with AsyncExitStack() as opened:
        journal, budget, client = await opened.enter_async_context(open_account(settings, emit=emit))
        daemon = Daemon(settings, handlers, client=client, budget=budget, journal=journal, metrics=metrics, emit=emit)
        await opened.enter_async_context(daemon.resources)
        opened.push_async_callback(daemon.processes.close)
        app = create_app(daemon.health, daemon.status, metrics)
        daemon.port = await opened.enter_async_context(listen(app, settings.http.host, settings.http.port))
        emit(
            WorkerStarted(
                version=__version__,
                platform=settings.api.base_url,
                address=f"http://{_in_url(settings.http.host)}:{daemon.port}",
                journal=settings.state.url,
            )
        )
        yield daemon


def new_schedule(settings: Settings, *, chance: Callable[[], float]) -> Schedule:
    """Make the schedule that these settings ask for; it serves no task yet."""
    budget = settings.budget
    return Schedule(
        limit=budget.requests_per_minute,
        window=budget.window,
        idle_share=budget.idle_share,
        max_staleness=budget.max_staleness,
        chance=chance,
    )


def task_settings(settings: Settings, handlers: Mapping[str, Handler]) -> dict[str, TaskSettings]:
    """Give what the settings say of each task.

    Raises SettingsError for a handler that is not installed, and for settings that a handler cannot use.
    """
    wrong = [
        f"tasks.{name}.handler: no handler named {section.handler!r} is installed; "
        f"installed are {', '.join(sorted(handlers)) or 'none'}"
        for name, section in settings.tasks.items()
        if section.handler is not None and section.handler not in handlers
    ]
    for name, section in settings.tasks.items():
        # A section that bears a task's id alone is matched, and its settings read, when the platform has been asked.
        if (handler := handlers.get(section.handler or name)) is not None:
            try:
                handler.read_settings(section.settings)
            except SettingsError as error:
                wrong += settings_problems(name, error)
    if wrong:
        raise SettingsError(*wrong)
    return settings.task_settings()


def long_enough(tasks: Iterable[ServedTask]) -> str:
    """Say what to set so that a stop can wait for every handler."""
    longest = max(task.timeout for task in tasks)
    return (
        f"Set drain.timeout to {longest:g}s, and let the service manager wait for longer "
        f"(TimeoutStopSec, terminationGracePeriodSeconds); or give the tasks a shorter timeout."
    )


def _handler_log(execution: Execution) -> Log:
    return log_for(task=execution.task, execution=execution.id, correlation=execution.correlation_id)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host

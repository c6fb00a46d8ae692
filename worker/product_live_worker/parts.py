"""The parts that settings ask for, as the worker, its check and its commands open them alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from product_live_worker import __version__
from product_live_worker.executors.on_dask import lacking
from product_live_worker.flow.schedule import Schedule
from product_live_worker.journal.journal import Journal, open_journal
from product_live_worker.model.errors import SettingsError
from product_live_worker.model.handler import Handler
from product_live_worker.model.task import ServedTask, TaskSettings
from product_live_worker.product_live.budget import Budget
from product_live_worker.product_live.client import MARGIN, Client, open_http
from product_live_worker.product_live.files import Transfers
from product_live_worker.product_live.way import Way, open_transfers_http
from product_live_worker.registry import read_for
from product_live_worker.settings import Settings, api_key
from product_live_worker.telemetry.events import Emit

AGENT = f"product-live-worker/{__version__}"


@asynccontextmanager
async def open_account(
    settings: Settings, *, emit: Emit, heard: Callable[[Any], Awaitable[None]] | None = None
) -> AsyncIterator[tuple[Journal, Budget, Client]]:
    """Open the journal, and the way to the platform that spends its budget; `heard` is told of each answer."""
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
            user_agent=AGENT,
            heard=heard,
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
async def open_transfers(settings: Settings, client: Client, budget: Budget, *, emit: Emit) -> AsyncIterator[Transfers]:
    """Open the way of the files that handlers ask for."""
    api, files = settings.api, settings.files
    async with open_transfers_http(
        api.base_url, connect_timeout=api.connect_timeout, ca_file=api.ca_file, user_agent=AGENT
    ) as http:
        way = Way(http, client, budget, base_url=api.base_url, hosts=files.hosts, emit=emit)
        yield Transfers(way, max_download=files.max_download, max_upload=files.max_upload)


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

    Raises SettingsError for a handler that is not installed, for settings that a handler cannot use, and for a handler
    that is to run on a Dask cluster when there is none.
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
                read_for(name, handler, TaskSettings(settings=section.settings), settings.connections)
            except SettingsError as error:
                wrong += [problem for problem in error.problems if problem not in wrong]
    wrong += _without_cluster(settings, handlers)
    if wrong:
        raise SettingsError(*wrong)
    return settings.task_settings()


def _without_cluster(settings: Settings, handlers: Mapping[str, Handler]) -> Iterable[str]:
    why = lacking(settings.execution.dask_scheduler)
    # Without sections, all that is installed may be served.
    named = {section.handler or name for name, section in settings.tasks.items()}
    for name, handler in handlers.items():
        if why and handler.isolation == "dask" and (name in named if named else not handler.explicit):
            yield f"the handler {name!r} runs on a Dask cluster, and {why}"


def long_enough(tasks: Iterable[ServedTask]) -> str:
    """Say what to set so that a stop can wait for every handler that does not go on at the next start."""
    longest = max(task.timeout for task in tasks if not task.resumes)
    return (
        f"Set drain.timeout to {longest:g}s, and let the service manager wait for longer "
        f"(TimeoutStopSec, terminationGracePeriodSeconds); or give the tasks a shorter timeout."
    )

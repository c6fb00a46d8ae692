"""The doctor behind `check`: looks whether a worker with these settings would do its work, and starts none.

Each look gives findings, a line each; what is asked of the platform is asked within the budget, and once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import anyio

from product_live_worker.doctor.account import account, connections, matched
from product_live_worker.doctor.cluster import cluster
from product_live_worker.doctor.finding import Finding
from product_live_worker.doctor.local import journal_trouble, local, state
from product_live_worker.doctor.network import Connected, connection, names, trouble
from product_live_worker.model.errors import JournalError, PlatformError
from product_live_worker.model.handler import Handler
from product_live_worker.parts import open_account
from product_live_worker.product_live.budget import Budget
from product_live_worker.product_live.client import Client
from product_live_worker.product_live.wire import Task
from product_live_worker.settings import Settings

__all__ = ["Finding", "examine"]


async def examine(settings: Settings, handlers: Mapping[str, Handler]) -> AsyncGenerator[Finding, None]:
    """Look at everything, from here to the platform; what depends on something that failed is left out."""
    for finding in local(settings, handlers):
        yield finding
    named = await names(settings)
    for finding in named:
        yield finding
    can_ask = all(finding.level != "fail" for finding in named)
    try:
        async with open_account(settings, emit=lambda _: None, heard=(seen := Connected()).read) as (_, budget, client):
            for finding in state(settings):
                yield finding
            definitions = await _definitions(settings, budget, client) if can_ask else []
    except JournalError as error:
        yield journal_trouble(settings, error)
        return
    for finding in connection(settings, seen):
        yield finding
    if isinstance(definitions, Finding):
        yield definitions
    elif can_ask:
        served, problems = matched(settings, handlers, definitions)
        for finding in (
            *account(settings, definitions, served, problems),
            *await connections(served),
            *await cluster(settings, served),
        ):
            yield finding


async def _definitions(settings: Settings, budget: Budget, client: Client) -> list[Task] | Finding:
    """Ask for the account's tasks; gives what is wrong where they do not come."""
    try:
        # Where a worker on the same journal spends all of the budget, this would wait for as long as it does.
        with anyio.fail_after(settings.budget.window + settings.api.total_timeout):
            return await client.list_tasks()
    except PlatformError as error:
        return trouble(settings, error)
    except TimeoutError:
        return Finding.fail(
            "budget",
            f"no slot was free for one request: {budget.used()} of {budget.allowed()} are taken",
            "Look at a worker that runs on this journal (/status), or try again when it is less busy.",
        )

"""`check`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import anyio
import typer

from product_live_worker import registry
from product_live_worker.cli.told import errors_told
from product_live_worker.daemon import long_enough, open_account, task_settings
from product_live_worker.flow.catalogue import cut_short
from product_live_worker.model.errors import PlatformError
from product_live_worker.model.handler import Handler
from product_live_worker.model.task import ServedTask
from product_live_worker.product_live.wire import Task as Definition
from product_live_worker.settings import Settings, check_admin_token, load

Finding = tuple[bool, str]
"""Whether it is well, and a sentence."""


def check(
    config: Annotated[Path | None, typer.Option(help="The settings file.", show_default="PLW_CONFIG")] = None,
) -> None:
    """Look whether `run` would work, and start nothing; exit 1 if it would not. Spends a request or two."""
    with errors_told():
        settings = load(config, os.environ)
        check_admin_token(settings.http)
        handlers = registry.load()
        task_settings(settings, handlers)
        findings = list(_local(settings, handlers))
        findings += anyio.run(_remote, settings, handlers)
    for ok, text in findings:
        typer.echo(f"{'ok  ' if ok else 'FAIL'}  {text}")
    raise typer.Exit(0 if all(ok for ok, _ in findings) else 1)


def _local(settings: Settings, handlers: dict[str, Handler]) -> Iterator[Finding]:
    yield True, f"settings can be used; the platform is {settings.api.base_url}"
    for warning in settings.warnings():
        yield True, f"note: {warning}"
    yield bool(handlers), f"handlers installed: {', '.join(sorted(handlers)) or 'none; install a plugin'}"


async def _remote(settings: Settings, handlers: dict[str, Handler]) -> list[Finding]:
    async with open_account(settings, emit=lambda _: None) as (_, _, client):
        journal: Finding = (True, f"the journal can be written: {settings.state.shown_url}")
        try:
            definitions = await client.list_tasks()
        except PlatformError as error:
            return [journal, (False, f"the platform does not answer as it should: {error}")]
    sections = task_settings(settings, handlers)
    served, problems = registry.assign(
        {task.key: task.id for task in definitions}, handlers, sections, settings.connections
    )
    return [
        journal,
        (True, f"the key is accepted; the account has {len(definitions)} tasks"),
        *(
            (True, f"task {task.key}: handler {task.handler.name}, {task.concurrency} at once")
            for task in served.values()
        ),
        *((False, problem) for problem in problems),
        *_staleness(settings, len(served)),
        *_never_back(definitions, served),
        *_drain(settings, served),
    ]


def _never_back(definitions: Iterable[Definition], served: Mapping[str, ServedTask]) -> Iterator[Finding]:
    """Say which tasks' claims the platform would not bring back, were its answer to a poll lost on the way."""
    for task in definitions:
        if task.key not in served or task.response_timeout_seconds:
            continue
        until = (
            f"until its timeoutSeconds ({task.timeout_seconds:g} s) ends it, or the whole job"
            if task.timeout_seconds
            else "for ever"
        )
        text = (
            f"task {task.key} has no responseTimeoutSeconds on the platform: an execution whose claim is lost on the "
            f"wire blocks its pipeline {until}. Set responseTimeoutSeconds there, above the handler's timeout "
            f"({served[task.key].timeout:g} s)"
        )
        yield True, f"note: {text}"


def _drain(settings: Settings, served: Mapping[str, ServedTask]) -> Iterator[Finding]:
    if lines := cut_short(served.values(), settings.drain.timeout):
        yield True, f"note: drain.timeout: {'; '.join(lines)}. {long_enough(served.values())}"


def _staleness(settings: Settings, tasks: int) -> list[Finding]:
    budget = settings.budget
    if not budget.requests_per_minute or not tasks:
        return []
    needed, allowed = tasks / budget.max_staleness, budget.idle_share * budget.requests_per_minute / budget.window
    if needed <= allowed:
        return []
    text = (
        f"{tasks} tasks cannot each be polled every {budget.max_staleness:g} s within budget.idle_share: "
        f"each will be polled every {tasks / allowed:.0f} s. Serve fewer tasks, or raise idle_share or max_staleness"
    )
    return [(True, f"note: {text}")]

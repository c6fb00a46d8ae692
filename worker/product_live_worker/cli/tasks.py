"""`tasks`."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Column, Table

from product_live_worker import registry
from product_live_worker.cli.running import NoAnswer, address_of, read_status
from product_live_worker.cli.told import errors_told
from product_live_worker.model.handler import Handler
from product_live_worker.ops.document import NextPoll
from product_live_worker.parts import new_schedule, open_account, task_settings
from product_live_worker.product_live.definitions import Change, Difference, Plan, plan
from product_live_worker.product_live.wire import Task
from product_live_worker.settings import Settings, load

Config = Annotated[Path | None, typer.Option(help="The settings file.", show_default="PLW_CONFIG")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Only these tasks.", show_default="all")]

app = typer.Typer(help="The account's tasks, and who serves them.", no_args_is_help=True)


@app.callback()
def tasks() -> None:
    """Look at the account's tasks beside the installed handlers, and bring them to what the code says."""


@app.command("list")
def list_tasks(config: Config = None, as_json: AsJson = False) -> None:
    """List the account's tasks, the handler of each, and how soon one is picked up; spends a request or two.

    Where the worker of these settings runs, it says by itself when it polls next, and why then.
    """
    with errors_told():
        settings = load(config, os.environ)
        handlers = registry.load()
        definitions = anyio.run(_definitions, settings)
        rows, problems = _rows(definitions, settings, handlers)
        _as_it_runs(rows, config, settings.api.base_url)
    if as_json:
        typer.echo(json.dumps({"tasks": rows, "problems": problems}, indent=2))
        return
    # An id that is cut is none.
    whole = Column("id", min_width=max((len(row["id"]) for row in rows), default=0))
    table = Table("task", whole, "handler", "at once", "picked up after", "at most", "response timeout", box=None)
    for row in rows:
        served = row["handler"] is not None
        table.add_row(
            row["key"],
            row["id"],
            row["handler"] or "-",
            str(row["concurrency"] or "-"),
            f"{row['pickup_delay_expected_seconds']:.1f} s" if served else "-",
            f"{row['pickup_delay_bound_seconds']:.1f} s" if served else "-",
            _next_poll(row["next_poll"]),
            f"{row['response_timeout_seconds']:g} s" if row["response_timeout_seconds"] else "none",
        )
    Console().print(table)
    for problem in problems:
        typer.echo(f"problem: {problem}")


@app.command("plan")
def plan_tasks(keys: Keys = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show what `apply` would change: what the code says beside what the platform has. Spends a request or two."""
    with errors_told():
        planned = _plan(config, keys)[1]
    if as_json:
        typer.echo(json.dumps(_document(planned), indent=2))
        return
    _show(planned)


@app.command("apply")
def apply_tasks(
    keys: Keys = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create and update the account's tasks as the code says, after showing it; nothing is ever deleted."""
    if as_json and not yes:
        raise typer.BadParameter("with --json nobody is asked; add --yes", param_hint="--json")
    with errors_told():
        settings, planned = _plan(config, keys)
        changes = [change for change in planned.changes if change.action != "none"]
        if not as_json:
            _show(planned)
        if changes and not yes:
            _ask(len(changes), settings.api.base_url)
        applied: list[str] = []
        try:
            anyio.run(_apply, settings, changes, applied)
        finally:
            if not as_json and changes:
                typer.echo(f"applied: {', '.join(applied) or 'nothing'}")
    if as_json:
        typer.echo(json.dumps({**_document(planned), "applied": applied}, indent=2))
    raise typer.Exit(1 if planned.problems else 0)


def _plan(config: Path | None, keys: list[str] | None) -> tuple[Settings, Plan]:
    settings = load(config, os.environ)
    handlers = registry.load()
    planned = plan(anyio.run(_definitions, settings), handlers, task_settings(settings, handlers))
    known = {change.wanted.key: change for change in planned.changes}
    if strangers := sorted(set(keys or ()) - known.keys()):
        found = ", ".join(known) or "none"
        raise typer.BadParameter(f"no handler serves {', '.join(strangers)}; served are {found}", param_hint="KEY")
    if keys:
        planned = replace(planned, changes=tuple(known[key] for key in dict.fromkeys(keys)))
    return settings, planned


def _ask(count: int, platform: str) -> None:
    try:
        typer.confirm(f"Change {count} task{'s' if count > 1 else ''} at {platform}?", abort=True)
    except typer.Abort:
        typer.echo("product-live-worker: nothing was changed; --yes does it without asking", err=True)
        raise typer.Exit(1) from None


async def _apply(settings: Settings, changes: list[Change], applied: list[str]) -> None:
    async with open_account(settings, emit=lambda _: None) as (_, _, client):
        for change in changes:
            if change.task is None:
                await client.create_task(change.wanted.draft(None))
            else:
                # Whatever else was changed at the platform since it was shown stays as it is there.
                now = await client.read_task(change.task.id)
                await client.update_task(now.id, change.wanted.draft(now))
            applied.append(change.wanted.key)


WORDS = {"create": "is created", "update": "is changed", "none": "is as the code says"}


def _show(planned: Plan) -> None:
    for change in planned.changes:
        typer.echo(f"{change.wanted.key} ({change.wanted.handler}) {WORDS[change.action]}")
        for difference in change.differences:
            typer.echo(f"    {_line(difference)}")
    for problem in planned.problems:
        typer.echo(f"problem: {problem}")
    if planned.not_served:
        typer.echo(f"left alone: {', '.join(planned.not_served)}")


def _line(difference: Difference) -> str:
    name, code, platform = difference.field.replace("_", " "), difference.code, difference.platform
    if isinstance(code, dict):
        gone = [f"-{key}" for key in (platform or {}) if key not in code]
        new = [f"+{key}" for key in code if key not in (platform or {})]
        said = [f"{key}: {code[key]!r}" for key in code if key in (platform or {}) and code[key] != platform[key]]
        return f"{name}: {', '.join(gone + new + said)}"
    return f"{name}: {_value(code)}" if platform is None else f"{name}: {_value(platform)} -> {_value(code)}"


def _value(value: Any) -> str:
    return f"{value:g} s" if isinstance(value, float | int) else repr(value)


def _document(planned: Plan) -> dict[str, Any]:
    return {
        "changes": [
            {
                "action": change.action,
                "key": change.wanted.key,
                "id": change.task.id if change.task else None,
                "handler": change.wanted.handler,
                "differences": [asdict(difference) for difference in change.differences],
            }
            for change in planned.changes
        ],
        "problems": planned.problems,
        "not_served": planned.not_served,
    }


async def _definitions(settings: Settings) -> list[Task]:
    async with open_account(settings, emit=lambda _: None) as (_, _, client):
        return await client.list_tasks()


def _rows(
    definitions: list[Task], settings: Settings, handlers: Mapping[str, Handler]
) -> tuple[list[dict[str, Any]], list[str]]:
    ids = {task.key: task.id for task in definitions}
    served, problems = registry.assign(ids, handlers, task_settings(settings, handlers), settings.connections)
    schedule = new_schedule(settings, chance=random.random)
    schedule.serve(served)
    waits = schedule.waits()
    return [
        {
            "key": task.key,
            "id": task.id,
            "handler": served[task.key].handler.name if task.key in served else None,
            "concurrency": served[task.key].concurrency if task.key in served else None,
            "pickup_delay_expected_seconds": schedule.expected(task.key) if task.key in served else None,
            "pickup_delay_bound_seconds": waits.get(task.key),
            "next_poll": None,
            "response_timeout_seconds": task.response_timeout_seconds,
        }
        for task in definitions
    ], list(problems)


def _as_it_runs(rows: list[dict[str, Any]], config: Path | None, platform: str) -> None:
    """Put in what the worker that runs here says of its tasks; of one that does not run, there is nothing."""
    try:
        document = read_status(address_of("", config))
    except NoAnswer:
        return
    if document["platform"] != platform:
        return
    told = {task["key"]: task for task in document["tasks"]}
    for row in rows:
        if (task := told.get(row["key"])) is not None:
            row["next_poll"] = task["next_poll"]
            row["pickup_delay_expected_seconds"] = task["pickup_delay_expected_seconds"]
            row["pickup_delay_bound_seconds"] = task["pickup_delay_bound_seconds"]


def _next_poll(told: NextPoll | None) -> str:
    if told is None:
        return "-"
    return told["why"] if told["in_seconds"] is None else f"in {told['in_seconds']:.1f} s: {told['why']}"

"""`tasks`."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Table

from product_live_worker import registry
from product_live_worker.cli.told import errors_told
from product_live_worker.daemon import new_schedule, open_account, task_settings
from product_live_worker.model.handler import Handler
from product_live_worker.product_live.wire import Task
from product_live_worker.settings import Settings, load

app = typer.Typer(help="The account's tasks, and who serves them.", no_args_is_help=True)


@app.callback()
def tasks() -> None:
    """Look at the account's tasks beside the installed handlers."""


@app.command("list")
def list_tasks(
    config: Annotated[Path | None, typer.Option(help="The settings file.", show_default="PLW_CONFIG")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the account's tasks, the handler of each, and how soon one is picked up; spends a request or two."""
    with errors_told():
        settings = load(config, os.environ)
        handlers = registry.load()
        definitions = anyio.run(_definitions, settings)
        rows, problems = _rows(definitions, settings, handlers)
    if as_json:
        typer.echo(json.dumps({"tasks": rows, "problems": problems}, indent=2))
        return
    table = Table("task", "id", "handler", "at once", "picked up after", "at most", "response timeout", box=None)
    for row in rows:
        served = row["handler"] is not None
        table.add_row(
            row["key"],
            row["id"],
            row["handler"] or "-",
            str(row["concurrency"] or "-"),
            f"{row['pickup_delay_expected_seconds']:.1f} s" if served else "-",
            f"{row['pickup_delay_bound_seconds']:.1f} s" if served else "-",
            f"{row['response_timeout_seconds']:g} s" if row["response_timeout_seconds"] else "none",
        )
    Console().print(table)
    for problem in problems:
        typer.echo(f"problem: {problem}")


async def _definitions(settings: Settings) -> list[Task]:
    async with open_account(settings, emit=lambda _: None) as (_, _, client):
        return await client.list_tasks()


def _rows(
    definitions: list[Task], settings: Settings, handlers: Mapping[str, Handler]
) -> tuple[list[dict[str, Any]], list[str]]:
    ids = {task.key: task.id for task in definitions}
    served, problems = registry.assign(ids, handlers, task_settings(settings, handlers))
    schedule = new_schedule(settings, chance=random.random)
    schedule.serve(served)
    waits = schedule.waits()
    return [
        {
            "key": task.key,
            "id": task.id,
            "handler": served[task.key].handler.name if task.key in served else None,
            "concurrency": served[task.key].concurrency if task.key in served else None,
            "pickup_delay_expected_seconds": schedule.interval(task.key) / 2 if task.key in served else None,
            "pickup_delay_bound_seconds": waits.get(task.key),
            "response_timeout_seconds": task.response_timeout_seconds,
        }
        for task in definitions
    ], list(problems)

"""`executions`: list, show, redeliver, discard, cancel."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Column, Table

from product_live_worker.cli.acting import Config, Who, Why, act
from product_live_worker.cli.told import errors_told
from product_live_worker.journal.records import Record, open_records
from product_live_worker.model.execution import State
from product_live_worker.parts import open_account
from product_live_worker.product_live.budget import Purpose
from product_live_worker.settings import Settings, load

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The execution's id.")]
MOMENTS = ("claimed_at", "started_at", "settled_at", "reported_at")
PAYLOADS = ("input", "output", "checkpoint")

app = typer.Typer(help="Look into the journal, while the worker runs or not.", no_args_is_help=True)


@app.command("list")
def list_executions(
    *,
    state: Annotated[list[State] | None, typer.Option(help="Only of this state; may be repeated.")] = None,
    task: Annotated[str | None, typer.Option(help="Only of this task.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Only of the job with this correlation id.")] = None,
    most: Annotated[int, typer.Option(help="So many at most, the latest first.", min=1)] = 50,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List executions, the latest first."""
    with errors_told():
        settings = _settings(config)
        with open_records(settings.state.url, platform=settings.api.base_url) as records:
            found = records.find(states=tuple(state or ()), task=task, correlation=correlation, most=most)
    if as_json:
        typer.echo(json.dumps([_readable(record) for record in found], indent=2))
        return
    # What is copied into the next command, or searched for, is never cut, however narrow the terminal.
    whole = [Column(name, no_wrap=True) for name in ("execution", "task", "state")]
    table = Table(*whole, "status", "claimed", "job", "trouble", box=None)
    for record in found:
        shown = _readable(record)
        names = ("id", "task", "state", "status", "claimed_at", "correlation_id", "trouble")
        table.add_row(*(str(shown[name] or "") for name in names))
    Console().print(table if found else "The journal has no such execution.")


@app.command()
def show(
    execution: Id,
    remote: Annotated[bool, typer.Option("--remote", help="Ask the platform too; spends one request.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show one execution with what is kept of its payloads."""
    with errors_told():
        settings = _settings(config, require_key=remote)
        with open_records(settings.state.url, platform=settings.api.base_url) as records:
            record = records.get(execution)
        told = None if record is None else _readable(record)
        if remote:
            told = {**(told or {"id": execution}), "platform_has": anyio.run(_ask, settings, execution)}
    if told is None:
        typer.echo(f"product-live-worker: the journal has no execution {execution}", err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
        return
    for name, value in told.items():
        if value not in (None, ""):
            typer.echo(f"{name:<16} {json.dumps(value) if isinstance(value, dict | list) else value}")


@app.command()
def redeliver(execution: Id, why: Why = "", who: Who = "", config: Config = None) -> None:
    """Send an UNDELIVERABLE result again."""
    with errors_told():
        act("redeliver", execution, who=who, why=why, config=config)
    typer.echo(f"{execution} is SETTLED again; a running worker takes it up within a second")


@app.command()
def discard(execution: Id, why: Why = "", who: Who = "", config: Config = None) -> None:
    """Give up on a result that is UNDELIVERABLE or still to be reported; nothing is sent."""
    with errors_told():
        act("discard", execution, who=who, why=why, config=config)
    typer.echo(f"{execution} is closed; its result is sent no more")


@app.command()
def cancel(execution: Id, why: Why = "", who: Who = "", config: Config = None) -> None:
    """End one that is claimed or runs: its handler is cancelled, and FAILED with code `cancelled` is reported."""
    with errors_told():
        act("cancel", execution, who=who, why=why, config=config)
    typer.echo(f"{execution} is ended by the worker that runs it, within a second")


def _settings(config: Path | None, *, require_key: bool = False) -> Settings:
    return load(config, os.environ, require_key=require_key)


async def _ask(settings: Settings, execution: str) -> dict[str, Any]:
    async with open_account(settings, emit=lambda _: None) as (_, _, client):
        found = await client.read_execution(execution, Purpose.RECOVER)
    return {"status": found.status, "task_id": found.task_id}


def _readable(record: Record) -> Record:
    readable = dict(record)
    for name in MOMENTS:
        if readable.get(name) is not None:
            readable[name] = datetime.fromtimestamp(readable[name], UTC).isoformat(timespec="milliseconds")
    for name in PAYLOADS:
        if readable.get(name) is not None:
            readable[name] = json.loads(readable[name])
    return readable

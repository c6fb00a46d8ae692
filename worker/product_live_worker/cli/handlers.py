"""`handlers`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from product_live_worker import registry
from product_live_worker.cli.told import errors_told
from product_live_worker.model.handler import Handler


def handlers(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the schemas of inputs and outputs.")
    ] = False,
) -> None:
    """List the installed handlers."""
    with errors_told():
        installed = registry.load()
    if as_json:
        typer.echo(json.dumps([_document(handler) for handler in installed.values()], indent=2))
        return
    table = Table("handler", "runs", "at once", "timeout", "matched by key", "what it does", box=None)
    for handler in installed.values():
        runs = "on the loop" if handler.isolation == "loop" else "in a thread"
        by_key = "no" if handler.explicit else "yes"
        table.add_row(handler.name, runs, str(handler.concurrency), f"{handler.timeout:g} s", by_key, handler.summary)
    Console().print(table)


def _document(handler: Handler) -> dict[str, object]:
    return {
        "name": handler.name,
        "summary": handler.summary,
        "isolation": handler.isolation,
        "concurrency": handler.concurrency,
        "timeout_seconds": handler.timeout,
        "explicit": handler.explicit,
        "on_crash": handler.on_crash,
        "input": handler.input_schema(),
        "output": handler.output_schema(),
    }

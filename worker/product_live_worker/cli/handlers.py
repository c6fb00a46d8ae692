"""`handlers`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from product_live_worker import registry
from product_live_worker.cli.told import errors_told

RUNS = {"loop": "on the loop", "thread": "in a thread", "process": "in a process"}


def handlers(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the schemas of inputs and outputs.")
    ] = False,
) -> None:
    """List the installed handlers, and which package each comes from."""
    with errors_told():
        installed = registry.load_installed()
    if as_json:
        typer.echo(json.dumps([_document(found) for found in installed.values()], indent=2))
        return
    table = Table("handler", "from", "runs", "at once", "timeout", "matched by key", "what it does", box=None)
    for found in installed.values():
        handler = found.handler
        table.add_row(
            handler.name,
            " ".join(found.distribution or "-"),
            RUNS[handler.isolation],
            str(handler.concurrency),
            f"{handler.timeout:g} s",
            "no" if handler.explicit else "yes",
            handler.summary,
        )
    Console().print(table)


def _document(found: registry.Installed) -> dict[str, object]:
    handler = found.handler
    return {
        "name": handler.name,
        "distribution": dict(zip(("name", "version"), found.distribution, strict=True)) if found.distribution else None,
        "entry_point": found.plugin.value,
        "summary": handler.summary,
        "isolation": handler.isolation,
        "concurrency": handler.concurrency,
        "timeout_seconds": handler.timeout,
        "explicit": handler.explicit,
        "on_crash": handler.on_crash,
        "on_repeat": handler.on_repeat,
        "input": handler.input_schema(),
        "output": handler.output_schema(),
    }

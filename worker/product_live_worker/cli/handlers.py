"""`handlers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer
from pydantic import PydanticUserError

from product_live_worker import registry
from product_live_worker.cli.told import errors_told
from product_live_worker.executors.on_dask import not_installed

RUNS = {"loop": "on the loop", "thread": "in a thread", "process": "in a process", "dask": "on a Dask cluster"}


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
    for found in installed.values():
        typer.echo(_told(found))


def _told(found: registry.Installed) -> str:
    handler = found.handler
    return (
        f"{handler.name}  ({' '.join(found.distribution) if found.distribution else found.plugin.value})\n"
        f"    {handler.summary or 'says nothing of itself'}\n"
        f"    {RUNS[handler.isolation]}, {handler.concurrency} at once, {handler.timeout:g} s each"
        + (f"; {why}" if handler.isolation == "dask" and (why := not_installed()) else "")
        + ('; for tasks whose section names it: handler = "' + handler.name + '"' if handler.explicit else "")
    )


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
        "input": _schema(handler.input_schema),
        "output": _schema(handler.output_schema),
    }


def _schema(write: Callable[[], dict[str, object]]) -> dict[str, object] | None:
    try:
        return write()
    except PydanticUserError:
        # A type of the author's own need not have a schema.
        return None

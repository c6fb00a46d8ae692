"""`invoke`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from product_live_worker import registry
from product_live_worker.cli.told import errors_told
from product_live_worker.executors.alone import run_alone
from product_live_worker.model.execution import Status
from product_live_worker.model.task import TaskSettings
from product_live_worker.settings import load
from product_live_worker.telemetry import log


def invoke(
    handler: Annotated[str, typer.Argument(metavar="HANDLER", help="The handler's name; see `handlers`.")],
    source: Annotated[str, typer.Option("--input", metavar="FILE|-", help="The input as JSON; - is standard input.")],
    task: Annotated[
        str | None, typer.Option(help="The task whose section of the settings counts.", show_default="HANDLER")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The settings file.", show_default="PLW_CONFIG")] = None,
) -> None:
    """Run one handler once, as the worker would, and print its outcome as JSON; exit 1 if it FAILED."""
    log.configure("info", stream=sys.stderr)
    raw = _read(source)
    with errors_told():
        installed = registry.load()
        settings = load(config, os.environ, require_key=False)
        sections = settings.task_settings()
    if task is not None and task not in sections:
        known = ", ".join(sorted(sections)) or "none"
        raise typer.BadParameter(f"the settings have no section [tasks.{task}]; found: {known}", param_hint="--task")
    if handler not in installed:
        names = ", ".join(sorted(installed)) or "none"
        raise typer.BadParameter(f"{handler} is not installed; installed are: {names}", param_hint="HANDLER")
    section = sections.get(task or handler, TaskSettings())
    chosen = installed[handler]
    chosen = replace(chosen, timeout=section.timeout or chosen.timeout)
    with errors_told():
        run = partial(run_alone, chosen, raw, section.settings, connections=settings.connections)
        outcome = anyio.run(run)
    typer.echo(json.dumps({"status": outcome.status.value, "output": outcome.output}, indent=2))
    raise typer.Exit(0 if outcome.status is Status.COMPLETED else 1)


def _read(source: str) -> Any:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise typer.BadParameter(f"{source} cannot be read: {error.strerror}", param_hint="--input") from None
    except ValueError as error:
        raise typer.BadParameter(f"{source} holds no JSON: {error}", param_hint="--input") from None

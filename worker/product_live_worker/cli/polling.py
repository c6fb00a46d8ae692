"""`pause` and `resume`."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from product_live_worker import registry
from product_live_worker.cli.acting import Config, Who, Why, act
from product_live_worker.cli.told import errors_told
from product_live_worker.journal.records import open_records
from product_live_worker.model.action import ALL
from product_live_worker.model.errors import SettingsError
from product_live_worker.settings import load
from product_live_worker.settings.values import DURATION, seconds

Task = Annotated[str, typer.Option(help="The key of one task; left out, all polling.", show_default="all")]


def pause(
    *,
    task: Task = ALL,
    lasts: Annotated[str, typer.Option("--for", help=f"How long: {DURATION}.", show_default="until resumed")] = "",
    why: Why = "",
    who: Who = "",
    config: Config = None,
) -> None:
    """Claim nothing more, of one task or at all; what runs goes on, and is reported. It lasts over restarts."""
    with errors_told():
        act("pause", task, who=who, why=why, config=config, lasts=_seconds(lasts))
        _print_pauses(config)
    if task and (known := _known(config)) and task not in known:
        typer.echo(
            f"note: the settings and handlers here name no task {task!r}; they name {', '.join(known)}", err=True
        )


def resume(*, task: Task = ALL, why: Why = "", who: Who = "", config: Config = None) -> None:
    """End the pause of one task, or the pause of all; a task that is paused by itself stays so."""
    with errors_told():
        act("resume", task, who=who, why=why, config=config)
        _print_pauses(config)


def _print_pauses(config: Path | None) -> None:
    settings = load(config, os.environ, require_key=False)
    with open_records(settings.state.url, platform=settings.api.base_url) as records:
        pauses = records.pauses()
    for one in pauses:
        until = (
            "it is resumed" if one.until is None else datetime.fromtimestamp(one.until, UTC).isoformat(" ", "seconds")
        )
        typer.echo(f"{one.subject or 'all tasks'}: paused by {one.who} until {until}{one.why and f': {one.why}'}")
    if not pauses:
        typer.echo("nothing is paused")
    typer.echo("The workers on this journal know within a second.")


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        found = seconds(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 3650 * 86400:
        raise SettingsError(f"--for: found {text!r}; allowed is {DURATION}, above 0 and of ten years at most")
    return found


def _known(config: Path | None) -> list[str]:
    """Name the tasks that the settings name, or else those that the handlers do."""
    settings = load(config, os.environ, require_key=False)
    return sorted(settings.tasks or [name for name, one in registry.load().items() if not one.explicit])

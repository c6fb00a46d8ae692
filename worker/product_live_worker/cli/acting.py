"""How a command asks for an action: in the journal, with who, when and why; the workers see it within a second."""

from __future__ import annotations

import getpass
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from product_live_worker.journal.records import open_records
from product_live_worker.model.action import ALL, Action, Verb, one_line
from product_live_worker.settings import Settings, load

Config = Annotated[Path | None, typer.Option(help="The settings file.", show_default="PLW_CONFIG")]
Why = Annotated[str, typer.Option(help="The reason, kept with the action.")]
Who = Annotated[str, typer.Option(help="Who asks for it, kept with the action.", show_default="your user name")]


def act(verb: Verb, subject: str, *, who: str, why: str, config: Path | None, lasts: float | None = None) -> Settings:
    """Do it; gives the settings that it was done by. Raises a WorkerError."""
    settings = load(config, os.environ, require_key=False)
    now = time.time()
    until = None if lasts is None else now + lasts
    action = Action(
        verb=verb, subject=subject or ALL, who=one_line(who) or _user(), why=one_line(why), at=now, until=until
    )
    with open_records(settings.state.url, platform=settings.api.base_url, to_write=True) as records:
        records.act(action)
    return settings


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"

"""`check`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import anyio
import typer

from product_live_worker import registry
from product_live_worker.cli.told import errors_told, exit_code
from product_live_worker.doctor import Finding, examine
from product_live_worker.model.errors import WorkerError
from product_live_worker.model.handler import Handler
from product_live_worker.parts import task_settings
from product_live_worker.settings import Settings, check_admin_token, load

WORDS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def check(
    config: Annotated[Path | None, typer.Option(help="The settings file.", show_default="PLW_CONFIG")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look whether `run` would work, and start nothing; exit 1 if it would not.

    Spends a request or two, and logs in to each system that a connection of the tasks leads to.
    """
    with errors_told():
        try:
            settings = load(config, os.environ)
            check_admin_token(settings.http)
            handlers = registry.load()
            task_settings(settings, handlers)
        except WorkerError as error:
            if not as_json:
                raise
            _print_json([Finding.fail("settings", line) for line in str(error).splitlines()])
            raise typer.Exit(exit_code(error)) from None
        findings = anyio.run(_examined, settings, handlers, not as_json)
    if as_json:
        _print_json(findings)
    raise typer.Exit(1 if any(finding.level == "fail" for finding in findings) else 0)


async def _examined(settings: Settings, handlers: Mapping[str, Handler], said: bool) -> list[Finding]:
    findings = []
    async with aclosing(examine(settings, handlers)) as found:
        async for finding in found:
            findings.append(finding)
            # At once: what comes next may take its time.
            if said:
                typer.echo(f"{WORDS[finding.level]}  {finding.subject}: {finding.text}")
                if finding.cure:
                    typer.echo(f"      {finding.cure}")
    return findings


def _print_json(findings: list[Finding]) -> None:
    good = all(finding.level != "fail" for finding in findings)
    typer.echo(json.dumps({"ok": good, "findings": [asdict(finding) for finding in findings]}, indent=2))

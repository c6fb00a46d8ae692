"""The command line: one file per noun; each parses, calls and prints."""

from __future__ import annotations

import typer

from product_live_worker.cli import check, executions, handlers, invoke, new, polling, run, sandbox, tasks, top, version

app = typer.Typer(
    name="product-live-worker",
    help="Runs the custom tasks of a Product-Live Data Factory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    run.run,
    check.check,
    handlers.handlers,
    invoke.invoke,
    new.new,
    sandbox.sandbox,
    polling.pause,
    polling.resume,
    top.top,
    version.version,
):
    app.command()(command)
app.add_typer(executions.app, name="executions")
app.add_typer(tasks.app, name="tasks")


def main() -> None:
    """Run the command line; exit codes: 0 clean, 1 crash or failure, 2 usage, 78 settings (EX_CONFIG)."""
    app()

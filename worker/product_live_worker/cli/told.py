"""How an error reaches the person at the terminal: a line for each problem, an exit code, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from product_live_worker.model.errors import JournalUnusable, RegistryError, SettingsError, WorkerError

EX_CONFIG = 78
"""sysexits.h: systemd is told not to restart on it, because a restart would be in vain."""


@contextmanager
def errors_told() -> Iterator[None]:
    """End the command with the fitting exit code when a WorkerError comes out of the block."""
    try:
        yield
    except WorkerError as error:
        tell(error)
        raise typer.Exit(exit_code(error)) from None
    except BaseExceptionGroup as group:
        if not is_told(group):
            raise
        for leaf in _leaves(group):
            tell(leaf)
        raise typer.Exit(max(exit_code(leaf) for leaf in _leaves(group))) from None


def is_told(error: BaseException) -> bool:
    """Whether an error is one whose text is all that a person needs."""
    return all(isinstance(leaf, WorkerError) for leaf in _leaves(error))


def tell(error: BaseException) -> None:
    """Print an error, a line for each of its problems."""
    for line in str(error).splitlines():
        typer.echo(f"product-live-worker: {line}", err=True)


def exit_code(error: BaseException) -> int:
    """Give 78 where only other settings help, 1 otherwise."""
    return EX_CONFIG if isinstance(error, SettingsError | RegistryError | JournalUnusable) else 1


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]

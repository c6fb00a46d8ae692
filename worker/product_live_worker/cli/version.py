"""`version`."""

import typer

from product_live_worker import __version__


def version() -> None:
    """Print the version."""
    typer.echo(__version__)

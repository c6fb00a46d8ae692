"""`sandbox`."""

from __future__ import annotations

import time
from typing import Annotated

import anyio
import typer

from product_live_worker import registry
from product_live_worker import sandbox as platform
from product_live_worker.cli.told import errors_told

HINT = """\
A Product-Live of your own is at {url}
  point the worker at it   PLW_API__BASE_URL={url} PLW_API__KEY={key} product-live-worker run
  submit an execution      curl {url}/sandbox/executions -d '{{"task": "power", "input": {{"power": 10}}}}'
  see what became of it    curl {url}/sandbox/executions
  see every request        curl {url}/sandbox/requests
Tasks: {tasks}. Ctrl-C ends it.\
"""


def sandbox(
    port: Annotated[int, typer.Option(help="The port to listen on; 0 asks for a free one.", min=0, max=65535)] = 8090,
) -> None:
    """Run an independent Product-Live on this machine, with a task for each installed handler."""
    with errors_told():
        names = list(registry.load())
        try:
            anyio.run(_serve, names, port)
        except KeyboardInterrupt:
            return


async def _serve(names: list[str], port: int) -> None:
    world = new_world(names)
    async with platform.serve(world, port=port) as url:
        typer.echo(HINT.format(url=url, key=world.settings.key, tasks=", ".join(names) or "none"))
        await anyio.sleep_forever()


def new_world(names: list[str]) -> platform.World:
    """Make an account with a task of each of these names."""
    world = platform.World(epoch=time.time() - time.monotonic())
    for name in names:
        task = {"key": name, "description": f"Served by the handler {name}", "retryCount": 0}
        world.create_task({**task, "inputKeys": [], "outputKeys": []}, time.monotonic())
    return world

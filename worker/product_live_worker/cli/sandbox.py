"""`sandbox`."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from product_live_worker import registry
from product_live_worker import sandbox as platform
from product_live_worker.cli.told import errors_told
from product_live_worker.model.errors import SettingsError

FILE = Path("config/sandbox.toml")
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
    config: Annotated[Path | None, typer.Option(help="Its settings.", show_default=str(FILE))] = None,
) -> None:
    """Run an independent Product-Live on this machine, with a task for each installed handler."""
    with errors_told():
        settings, tasks = _read(config or FILE, optional=config is None)
        world = new_world([name for name, handler in registry.load().items() if not handler.explicit], settings, tasks)
        try:
            anyio.run(_serve, world, port)
        except KeyboardInterrupt:
            return


async def _serve(world: platform.World, port: int) -> None:
    async with platform.serve(world, port=port) as url:
        tasks = ", ".join(sorted(task.key for task in world.tasks.values())) or "none"
        typer.echo(HINT.format(url=url, key=world.settings.key, tasks=tasks))
        await anyio.sleep_forever()


def new_world(
    names: Iterable[str],
    settings: platform.Settings | None = None,
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
) -> platform.World:
    """Make an account with a task of each of these names, and with these tasks, by their keys."""
    world = platform.World(settings, epoch=time.time() - time.monotonic())
    defined = {name: {"description": f"Served by the handler {name}"} for name in names}
    for key, fields in {**defined, **(tasks or {})}.items():
        minimum = {"key": key, "description": "", "retryCount": 0, "inputKeys": [], "outputKeys": []}
        world.create_task({**minimum, **fields}, time.monotonic())
    return world


def _read(file: Path, *, optional: bool) -> tuple[platform.Settings, dict[str, Any]]:
    if optional and not file.exists():
        return platform.Settings(), {}
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
        tasks = given.pop("tasks", {})
        return platform.Settings(**given), tasks
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is no TOML: {error}") from None
    except TypeError:
        known = ", ".join(platform.Settings.__dataclass_fields__)
        raise SettingsError(f"{file}: allowed are {known}, and sections [tasks.<key>]") from None

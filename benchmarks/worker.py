"""The real worker command in a process of its own, with settings of the environment and a file of tasks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx

from benchmarks.platform import KEY
from benchmarks.processes import Process, started
from benchmarks.scale import LIMIT, Scale


@dataclass(frozen=True, slots=True)
class Worker:
    """A running worker, and where it answers its operators."""

    process: Process
    address: str

    async def metric(self, name: str) -> float:
        """Read a metric by its name without the prefix; labels, if it has any, as they are written."""
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"{self.address}/metrics")).text
        lines = (line.split() for line in text.splitlines() if line.startswith(f"product_live_worker_{name} "))
        return float(next(lines)[1])


@asynccontextmanager
async def open_worker(
    folder: Path,
    url: str,
    scale: Scale,
    tasks: Iterable[str],
    *,
    handler: str = "power",
    limit: int = LIMIT,
    concurrency: int | None = None,
    max_staleness: float = 60.0,
    variables: dict[str, str] | None = None,
    module: tuple[str, ...] = ("product_live_worker",),
) -> AsyncIterator[Worker]:
    """Run the worker on the platform at `url` while the block runs; its journal is in `folder`, and stays there.

    `max_staleness` is on the real scale; without `concurrency`, the handler's own holds.
    """
    place = folder / "worker"
    await anyio.Path(place).mkdir(exist_ok=True)
    slots = "" if concurrency is None else f"concurrency = {concurrency}\n"
    sections = [f'[tasks.{task}]\nhandler = "{handler}"\n{slots}' for task in tasks]
    await anyio.Path(place / "worker.toml").write_text("\n".join(sections))
    settings = {
        "PLW_API__BASE_URL": url,
        "PLW_API__KEY": KEY,
        "PLW_BUDGET__REQUESTS_PER_MINUTE": str(limit),
        "PLW_BUDGET__WINDOW": str(scale.window),
        "PLW_BUDGET__MAX_STALENESS": str(scale.here(max_staleness)),
        "PLW_HTTP__PORT": "0",
        **(variables or {}),
    }
    command = (*module, "run", "--config", "worker.toml")
    async with started(*command, folder=place, variables=settings) as process:
        first = json.loads(await process.says("worker started"))
        yield Worker(process, first["address"])

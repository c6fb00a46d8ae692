"""The sandbox in a process of its own: work is given to it, and what arrived at it is read from its own record."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anyio
import httpx

from benchmarks.processes import Process, started
from benchmarks.scale import LIMIT, ROUND_TRIP, Scale

KEY = "benchmark-key"


@dataclass(frozen=True)
class Record:
    """What the platform saw: executions, and every request with its moment (seconds of the monotonic clock)."""

    executions: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    largest_window: int
    refused: int

    def pickups(self, *tasks: str) -> list[float]:
        """Give the delays from submission to claim in ascending order, of these tasks or of all."""
        found = [one for one in self.executions if one["claimedAt"] is not None and (not tasks or one["task"] in tasks)]
        return sorted(one["claimedAt"] - one["submittedAt"] for one in found)

    @cached_property
    def finished(self) -> list[float]:
        """Give the moments at which executions were reported, ascending."""
        return sorted(one["finishedAt"] for one in self.executions if one["finishedAt"] is not None)

    def completions(self, since: float, until: float) -> int:
        """Count the executions reported in a span of time."""
        return sum(since <= moment < until for moment in self.finished)

    def asked(self, since: float = -math.inf, until: float = math.inf, status: int | None = None) -> int:
        """Count the requests in a span of time, all or those answered so."""
        return sum(since <= one["at"] < until for one in self.requests if status in (None, one["status"]))

    def empty_polls(self, since: float, until: float) -> int:
        """Count the polls in a span of time that found nothing."""
        polls = (one for one in self.requests if one["operation"] == "poll" and one["status"] == 404)
        return sum(since <= one["at"] < until for one in polls)


class Platform:
    """A running sandbox."""

    def __init__(self, url: str, process: Process, control: httpx.AsyncClient) -> None:
        self.url = url
        self.process = process
        self._control = control
        self._reports_seen = self._requests_seen = 0

    async def submit(self, task: str, count: int = 1) -> list[str]:
        """Schedule executions, all in one moment; gives their ids."""
        inputs = [{"power": number % 64} for number in range(count)]
        answer = await self._control.post("/sandbox/executions", json={"task": task, "inputs": inputs})
        ids: list[str] = answer.raise_for_status().json()["ids"]
        return ids

    async def submit_input(self, task: str, inputs: list[dict[str, Any]]) -> None:
        """Schedule executions with these inputs."""
        answer = await self._control.post("/sandbox/executions", json={"task": task, "inputs": inputs})
        answer.raise_for_status()

    async def now(self) -> float:
        """Give the sandbox's clock."""
        answer = await self._control.get("/sandbox/requests", params={"since": self._requests_seen})
        return float(answer.json()["now"])

    async def reports(self) -> int:
        """Count the reports that have arrived so far; reads only what is new."""
        answer = await self._control.get("/sandbox/requests", params={"since": self._requests_seen})
        new = answer.json()["requests"]
        self._requests_seen += len(new)
        self._reports_seen += sum(one["operation"] == "update_execution" for one in new)
        return self._reports_seen

    async def polls(self) -> list[float]:
        """Give the moments of all polls so far."""
        requests = (await self._control.get("/sandbox/requests")).json()["requests"]
        return [one["at"] for one in requests if one["operation"] == "poll"]

    async def record(self) -> Record:
        """Read everything."""
        executions = (await self._control.get("/sandbox/executions")).json()["executions"]
        seen = (await self._control.get("/sandbox/requests")).json()
        return Record(executions, seen["requests"], seen["largest_window"], seen["refused"])


@asynccontextmanager
async def open_platform(
    folder: Path, scale: Scale, tasks: Iterable[str] = (), *, limit: int = LIMIT, round_trip: float = ROUND_TRIP
) -> AsyncIterator[Platform]:
    """Run a sandbox with these tasks while the block runs; `round_trip` is on the real scale."""
    place = await anyio.Path(folder / "platform").mkdir() or folder / "platform"
    latency = scale.here(round_trip)
    lines = [f'key = "{KEY}"', f"limit = {limit}", f"window = {scale.window}", f"latency = {latency}"]
    lines += [f"[tasks.{task}]" for task in tasks]
    await anyio.Path(place / "sandbox.toml").write_text("\n".join(lines))
    command = ("product_live_worker", "sandbox", "--port", "0", "--config", "sandbox.toml")
    async with started(*command, folder=place) as process:
        url = (await process.says("of your own is at")).split()[-1]
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as control:
            yield Platform(url, process, control)

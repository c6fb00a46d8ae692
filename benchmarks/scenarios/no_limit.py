"""No limit at all: what an execution costs, beside a bare httpx loop that makes the same two requests."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from benchmarks.figures import Report, Row, median
from benchmarks.machine import load
from benchmarks.platform import KEY, Platform, open_platform
from benchmarks.processes import started
from benchmarks.scale import Scale
from benchmarks.worker import open_worker

EXECUTIONS = 2000
AT_ONCE = 4
"""Submissions that go to the platform side by side."""
ROUNDS = 3


async def run(scale: Scale) -> Report:
    """Measure both, in turns, so that a noisy neighbour meets both."""
    worker: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        worker.append(await worker_costs(scale))
        bare.append(await bare_costs(scale))
    rate, cost = (median([one[index] for one in worker]) for index in (0, 1))
    bare_rate, bare_cost = (median([one[index] for one in bare]) for index in (0, 1))
    ratio = cost / bare_cost
    rates = ", ".join(f"{one[0]:.0f}" for one in worker)
    return Report(
        "no-limit: 2000 executions at once, no limit",
        [
            Row(
                "executions a second",
                f"{rate:.0f}",
                "≥ 150",
                "",
                f"{bare_rate:.0f}",
                met=rate >= 150,
                reason=f"at {cost:.1f} ms each, {1000 / cost:.0f} a second would fill a core; the load average was {load():.1f}.",
            ),
            Row("CPU ms an execution", f"{cost:.2f}", "", "", f"{bare_cost:.2f}"),
            Row("CPU beside the bare loop", f"{ratio:.1f} ×", "≤ 3 ×", "1 ×", "1 ×", met=ratio <= 3),
        ],
        f"Medians of {ROUNDS} rounds (the worker's were {rates} a second). The bare loop polls and reports one execution "
        "after the other and keeps nothing; the worker's figures include journal, ledger, validation, log and metrics.",
        beside="bare httpx loop",
        appendix=await _profile(scale, cost),
    )


async def worker_costs(
    scale: Scale, *, executions: int = EXECUTIONS, profile: Path | None = None
) -> tuple[float, float]:
    """Give the executions a second of the real worker, and the CPU milliseconds of each."""
    how: dict[str, Any] = {}
    if profile is not None:
        how = {"module": ("benchmarks.profiled",), "variables": {"BENCHMARK_PROFILE": str(profile)}}
    with TemporaryDirectory() as name:
        async with (
            open_platform(Path(name), scale, limit=0, round_trip=0) as platform,
            open_worker(Path(name), platform.url, scale, ["power"], limit=0, concurrency=64, **how) as worker,
        ):
            await anyio.sleep(1)
            used, since = worker.process.cpu(), time.monotonic()
            await _submit(platform, executions)
            while await platform.reports() < executions:
                await anyio.sleep(0.1)
            await anyio.sleep(0.3)
            spent = worker.process.cpu() - used
            finished = (await platform.record()).finished
            if profile is not None:
                worker.process.running.terminate()
                await worker.process.running.wait()
            return executions / (finished[-1] - since), spent / executions * 1000


async def bare_costs(scale: Scale, *, executions: int = EXECUTIONS) -> tuple[float, float]:
    """Give the same of the bare loop."""
    with TemporaryDirectory() as name:
        async with open_platform(Path(name), scale, limit=0, round_trip=0) as platform:
            await _submit(platform, executions)
            peer = ("benchmarks.peers.bare_loop", platform.url, KEY, "power")
            async with started(*peer, folder=Path(name)) as loop:
                spent = json.loads(await loop.says("executions"))
            return spent["executions"] / spent["seconds"], spent["cpu"] / spent["executions"] * 1000


async def _submit(platform: Platform, executions: int) -> None:
    async with anyio.create_task_group() as submitting:
        for _ in range(AT_ONCE):
            submitting.start_soon(platform.submit, "power", executions // AT_ONCE)


async def _profile(scale: Scale, cost: float) -> str:
    """Say where the milliseconds go, from one more run with a sample of the stacks every 4 ms of processor time."""
    with TemporaryDirectory() as name:
        written = Path(name) / "profile.json"
        await worker_costs(scale, profile=written)
        counts = json.loads(written.read_text(encoding="utf-8"))
    each = cost / sum(counts["parts"].values())
    parts = [f"| {part} | {count * each:.2f} |" for part, count in _largest(counts["parts"], 14)]
    functions = [f"| `{where}` | {count * each:.2f} |" for where, count in _largest(counts["functions"], 24)]
    return "\n".join(
        [
            "Where the milliseconds of an execution go, by the code that was running (from a separate run, sampled):\n",
            "| part | ms |\n|---|---|",
            *parts,
            "\nand by the worker's own functions, with all that they call:\n",
            "| function | ms |\n|---|---|",
            *functions,
        ]
    )


def _largest(counts: dict[str, int], most: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])[:most]

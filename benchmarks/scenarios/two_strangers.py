"""Two workers with a database each and one key: neither knows of the other, and the platform lets 50 in together."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.figures import Report, Row
from benchmarks.platform import Record, open_platform
from benchmarks.scale import LIMIT, Scale
from benchmarks.watch import PLAIN_LOOP, Serve, peer, the_worker

WINDOWS = 15
SETTLED_AFTER = 5
"""Windows that the two are given to find their shares."""
SLOWEST = 12.0
"""The shortest window in seconds: a Retry-After has whole seconds, which no time-scaling shortens."""
TASKS = ["first", "second"]


async def run(scale: Scale) -> Report:
    """Saturate both, each with a task of its own so that the platform's record tells them apart."""
    scale = scale.no_faster_than(SLOWEST)
    found: dict[str, tuple[Record, float]] = {}

    async def one(name: str, serve: Serve) -> None:
        found[name] = await _record(scale, serve)

    async with anyio.create_task_group() as both:
        both.start_soon(one, "worker", the_worker())
        both.start_soon(one, "plain", peer("plain_loop", PLAIN_LOOP / 4))
    worker, plain = found["worker"], found["plain"]
    share, refused, done = _figures(*worker, scale)
    plain_share, plain_refused, plain_done = _figures(*plain, scale)
    return Report(
        "two-strangers: two workers, two databases, one key, both saturated",
        [
            Row("share of the smaller one", f"{share:.0%}", "near 50 % (≥ 40 %)", "50 %", f"{plain_share:.0%}", met=share >= 0.4),
            Row("answers 429", f"{refused:.1%}", "≤ 2 %", "0 %", f"{plain_refused:.1%}", met=refused <= 0.02,
                reason="each probes for room by one request more in every window, and learns of the other by a 429 alone."),
            Row("completions a minute, together", f"{done:.1f}", "", "25", f"{plain_done:.1f}"),
        ],
        f"Windows {SETTLED_AFTER + 1} to {WINDOWS}, of {scale.window:g} s. The plain loops poll every 1.25 s here, so that "
        "they too ask for more than there is.",
    )  # fmt: skip


async def _record(scale: Scale, serve: Serve) -> tuple[Record, float]:
    with TemporaryDirectory() as name:
        folders = [Path(name) / task for task in TASKS]
        async with open_platform(Path(name), scale, TASKS) as platform:
            for folder, task in zip(folders, TASKS, strict=True):
                folder.mkdir()
                await platform.submit(task, WINDOWS * LIMIT)
            async with serve(folders[0], platform, scale, TASKS[:1]), serve(folders[1], platform, scale, TASKS[1:]):
                while not await platform.polls():
                    await anyio.sleep(0.05)
                started = await platform.now()
                await anyio.sleep(WINDOWS * scale.window)
            return await platform.record(), started + SETTLED_AFTER * scale.window


def _figures(record: Record, since: float, scale: Scale) -> tuple[float, float, float]:
    """Give the smaller one's share of the requests let in, the share of requests refused, completions a minute."""
    until = since + (WINDOWS - SETTLED_AFTER) * scale.window
    owner = {name: one["task"] for one in record.executions for name in (one["id"], one["taskId"])}
    sent = [one for one in record.requests if since <= one["at"] < until and one["id"] in owner]
    let_in = [owner[one["id"]] for one in sent if one["status"] != 429]
    smaller = min(let_in.count(task) for task in TASKS) / len(let_in)
    refused = sum(one["status"] == 429 for one in sent) / len(sent)
    return smaller, refused, record.completions(since, until) / (WINDOWS - SETTLED_AFTER)

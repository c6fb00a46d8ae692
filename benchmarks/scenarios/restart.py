"""Five times SIGKILL and restart within a minute under saturation: the window outlives the process."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.figures import Report, Row
from benchmarks.platform import Platform, open_platform
from benchmarks.scale import LIMIT, MINUTE, Scale
from benchmarks.watch import PLAIN_LOOP, Serve, peer, the_worker

KILLS = 5
SLOWEST_START = 20.0
"""The shortest window, in seconds, in which a process can be started six times and still work in between."""


async def run(scale: Scale) -> Report:
    """Count at the platform, over the minute of the kills and the two after it."""
    scale = scale.no_faster_than(SLOWEST_START)
    worker_window, worker_refused, done, lost = await _killed(scale, the_worker())
    plain_window, plain_refused, plain_done, plain_lost = await _killed(scale, peer("plain_loop", PLAIN_LOOP))
    return Report(
        "restart: killed and started again five times within a minute, saturated",
        [
            Row("requests in the fullest window", str(worker_window), "≤ 50", "50", str(plain_window), met=worker_window <= LIMIT),
            Row("answers 429", str(worker_refused), "0", "0", str(plain_refused), met=worker_refused == 0),
            Row("executions reported", str(done), "", "75", str(plain_done)),
            Row("claimed and never reported", str(lost), "0", "0", str(plain_lost), met=lost == 0,
                reason="killed between the platform's claim and the journal's commit; nothing on the worker's side can know of it."),
        ],
        f"The window was {scale.window:g} s, so that a start fits in. The slots are rows of the journal: a new process counts "
        "what the killed ones have sent.",
    )  # fmt: skip


async def _killed(scale: Scale, serve: Serve) -> tuple[int, int, int, int]:
    with TemporaryDirectory() as name:
        async with open_platform(Path(name), scale, ["power"]) as platform:
            await platform.submit("power", 10 * LIMIT)
            for _ in range(KILLS):
                await _lives(platform, serve, Path(name), scale, scale.here(MINUTE / (KILLS + 1)))
            await _lives(platform, serve, Path(name), scale, scale.here(2 * MINUTE))
            # What is in hand now may still be reported: the last life is ended in the middle of its work, too.
            record = await platform.record()
            ended = (await platform.now()) - scale.window / 2
    held = [one for one in record.executions if one["claimedAt"] is not None]
    lost = sum(one["finishedAt"] is None and one["claimedAt"] < ended for one in held)
    return record.largest_window, record.refused, len(record.finished), lost


async def _lives(platform: Platform, serve: Serve, folder: Path, scale: Scale, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        async with serve(folder, platform, scale, ["power"]):
            await anyio.sleep_forever()

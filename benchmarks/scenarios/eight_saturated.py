"""Eight tasks, one that always has work, seven rare ones: the busy one gets what arithmetic leaves, the rare are seen."""

from __future__ import annotations

from functools import partial

from benchmarks.demand import Arrival, at_random, demand
from benchmarks.figures import Report, Row
from benchmarks.scale import LIMIT, MINUTE, Scale
from benchmarks.watch import PLAIN_LOOP, Watched, peer, side_by_side, the_worker, watch

WINDOWS = 20
RARE = [f"rare_{number}" for number in range(1, 8)]
EVERY = 900.0
"""Seconds between two arrivals of a rare task."""


async def run(scale: Scale) -> Report:
    """Measure with a staleness of a minute and of half a minute."""
    seconds = WINDOWS * MINUTE
    rare = [arrival for task in RARE for arrival in at_random(task, EVERY, seconds - 70, seed=2)]
    work = demand(seconds, [Arrival(0, "busy", WINDOWS * LIMIT)], rare)
    minute, half, plain = await side_by_side(
        partial(watch, scale, work, the_worker(max_staleness=60)),
        partial(watch, scale, work, the_worker(max_staleness=30)),
        partial(watch, scale, work, peer("plain_loop", PLAIN_LOOP)),
    )
    return Report(
        "eight-saturated: one saturated task beside seven rare ones",
        [*_rows(minute, 60, plain), *_rows(half, 30, plain), _refused(minute, plain)],
        f"Over {WINDOWS - 1} windows after the first; {len(rare)} rare executions. 50 = 2 × completions + idle polls, and "
        "seven rare tasks cost seven idle polls in every max_staleness. All completions count, the rare ones too.",
    )


def _rows(worker: Watched, staleness: int, plain: Watched) -> list[Row]:
    allowed = (LIMIT - len(RARE) * MINUTE / staleness) / 2
    rate, longest = _rate(worker), worker.pickups(*RARE)[-1]
    unclaimed = sum(one["claimedAt"] is None for one in worker.record.executions if one["task"] in RARE)
    return [
        Row(
            f"completions a minute, max_staleness {staleness} s",
            f"{rate:.2f}",
            f"≥ {0.98 * allowed:.2f}",
            f"{allowed:.1f}",
            f"{_rate(plain):.1f}",
            met=rate >= 0.98 * allowed,
            reason="slots stayed unused: a poll waited for its task's pace, or for what was promised to others.",
        ),
        Row(
            f"longest pickup of a rare one, max_staleness {staleness} s",
            f"{longest:.1f} s" + (f" ({unclaimed} never)" if unclaimed else ""),
            f"≤ {staleness + 1} s",
            f"{staleness} s",
            f"{plain.pickups(*RARE)[-1]:.1f} s",
            met=longest <= staleness + 1 and not unclaimed,
            reason="hits of rare tasks took the slots that were kept for the next ones.",
        ),
    ]


def _rate(watched: Watched) -> float:
    since = watched.since + watched.scale.window
    return watched.record.completions(since, watched.until) / (watched.scale.there(watched.until - since) / MINUTE)


def _refused(worker: Watched, plain: Watched) -> Row:
    refused = worker.record.refused
    return Row("answers 429", str(refused), "0", "0", str(plain.record.refused), met=refused == 0)

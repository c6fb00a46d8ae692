"""Ten executions at once, every two minutes: how long until all ten are reported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.demand import Arrival, Demand, demand
from benchmarks.figures import Report, Row, mean
from benchmarks.scale import LIMIT, Scale
from benchmarks.watch import PLAIN_LOOP, Watched, peer, side_by_side, the_worker, watch

BURSTS = 5
WORKERS = 4
"""Each has a platform of its own and a fourth of the twenty bursts: so there is time for a window that distorts less."""
TOGETHER = 10
EVERY = 120.0
GOAL = 3.0
NEAR = 0.02
"""Seconds in which a platform near by answers, beside the 0.15 s of the other scenarios."""
SLOWEST = 24.0
"""The shortest window in seconds: ten claims in a row are ten times this machine's own delays."""


async def run(scale: Scale) -> Report:
    """Measure from the submission of a burst to its last report, as the platform saw both."""
    scale = scale.no_faster_than(SLOWEST)
    found = await side_by_side(
        *(partial(watch, scale, _bursts(number), the_worker(), round_trip=NEAR) for number in range(WORKERS)),
        *(partial(watch, scale, _bursts(number), the_worker()) for number in range(WORKERS)),
        partial(watch, scale, _bursts(0), peer("plain_loop", PLAIN_LOOP)),
    )
    near, far, plain = found[:WORKERS], found[WORKERS:-1], found[-1:]
    theirs = durations(plain)
    largest = max(watched.record.largest_window for watched in near + far)
    return Report(
        "bursts: ten executions at once, every two minutes",
        [
            *_rows("answers in 0.02 s", durations(near), theirs, "1.2 s (2.5 s)"),
            *_rows("answers in 0.15 s", durations(far), theirs, "1.4 s (2.7 s)"),
            Row(
                "requests in the fullest window",
                str(largest),
                "≤ 50",
                "50",
                str(plain[0].record.largest_window),
                met=largest <= LIMIT,
            ),
        ],
        f"{BURSTS * WORKERS} bursts, {BURSTS} on each of {WORKERS} workers with platforms of their own; the window was "
        f"{scale.window:g} s. The limit is that of an idle poll every 2.4 s that finds the first, and all the rest at once.",
    )


def _bursts(number: int) -> Demand:
    # Each at another place between two idle polls.
    first, shift = 20 + 0.12 * number, 0.48
    return demand(
        BURSTS * EVERY, [Arrival(first + n * (EVERY + shift) - BURSTS, "power", TOGETHER) for n in range(BURSTS)]
    )


def _rows(when: str, ours: list[float], theirs: list[float], limit: str) -> Iterator[Row]:
    count = sum(one <= GOAL for one in ours)
    yield Row(
        f"all ten reported within 3 s, {when}",
        f"{count} of {len(ours)}",
        "≥ 19 of 20",
        "",
        f"{sum(one <= GOAL for one in theirs)} of {len(theirs)}",
        met=count >= len(ours) * 0.95,
        reason="up to 2.4 s pass until the first is found, and its ten claims are made a few at a time.",
    )
    yield Row("the same, mean (longest)", _spread(ours), "", limit, _spread(theirs))


def durations(watched: Sequence[Watched]) -> list[float]:
    """Give the seconds of each burst, ascending; one that was not all reported lasts for ever."""
    bursts: dict[tuple[int, float], float] = {}
    for number, one in ((number, one) for number, each in enumerate(watched) for one in each.record.executions):
        finished = math.inf if one["finishedAt"] is None else one["finishedAt"]
        seconds = watched[number].scale.there(finished - one["submittedAt"])
        bursts[number, one["submittedAt"]] = max(seconds, bursts.get((number, one["submittedAt"]), 0.0))
    return sorted(bursts.values())


def _spread(seconds: list[float]) -> str:
    return f"{mean(seconds):.2f} s ({seconds[-1]:.2f} s)"

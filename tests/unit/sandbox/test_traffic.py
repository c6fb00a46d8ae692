"""The limiter is an exact sliding window."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_live_worker.sandbox import Settings, World
from product_live_worker.sandbox.refusals import TooManyError
from product_live_worker.sandbox.traffic import Limiter

WINDOW = 10
arrivals = st.lists(st.integers(0, 4), max_size=60).map(lambda gaps: list(accumulate(gaps)))


def wait_of(limiter: Limiter, now: float, resource: str = "tasks") -> float | None:
    """Give the seconds that the limiter asks to wait; None when the request was let in."""
    try:
        limiter.admit(resource, now)
    except TooManyError as refusal:
        return refusal.wait
    return None


def within(times: list[int], end: int) -> int:
    """Count the times of the window that ends at `end`."""
    return sum(end - WINDOW < time <= end for time in times)


@given(arrivals, st.integers(1, 5))
def test_no_window_holds_more_than_the_limit_and_none_is_refused_before(times: list[int], limit: int) -> None:
    """A request is let in if, and only if, fewer than `limit` were let in during the window that it ends."""
    limiter = Limiter(limit, WINDOW, "account")
    let_in: list[int] = []
    for now in times:
        free = within(let_in, now) < limit
        assert (wait_of(limiter, now) is None) == free
        if free:
            let_in.append(now)
    assert all(within(let_in, end) <= limit for end in range(100))
    assert limiter.refused == len(times) - len(let_in)


@given(arrivals, st.integers(0, 5))
def test_the_largest_window_counts_every_arrival(times: list[int], limit: int) -> None:
    """It is the greatest number of requests that arrived within one window, refused or not, limit or none."""
    limiter = Limiter(limit, WINDOW, "account")
    for now in times:
        wait_of(limiter, now)
    assert limiter.largest_window == max((within(times, end) for end in times), default=0)


@given(arrivals.filter(bool), st.integers(1, 3))
def test_the_wait_is_exact(times: list[int], limit: int) -> None:
    """Who comes again after the wait is let in; who comes any earlier is not."""
    limiter = Limiter(limit, WINDOW, "account")
    waits = [wait_of(limiter, now) for now in times]
    if waits[-1] is not None:
        assert wait_of(limiter, times[-1] + waits[-1] - 0.5) is not None
        assert wait_of(limiter, times[-1] + waits[-1]) is None


def test_zero_is_no_limit() -> None:
    """Limit 0 lets everything in."""
    limiter = Limiter(0, WINDOW, "account")
    assert {wait_of(limiter, 0) for _ in range(1000)} == {None}


@pytest.mark.parametrize(("scope", "let_in"), [("account", False), ("resource", True)])
def test_the_scope_says_what_shares_a_window(scope: str, let_in: bool) -> None:
    """With "resource" each page of the API has a window of its own, with "account" they share one."""
    world = World(Settings(limit=1))
    world.configure(Settings(limit=1, scope="resource" if scope == "resource" else "account"))
    assert wait_of(world.limiter, 0, "tasks") is None
    assert (wait_of(world.limiter, 0, "files") is None) == let_in


def test_a_lowered_limit_counts_what_was_let_in_before() -> None:
    """The limit may change while the sandbox runs, without forgetting the window."""
    world = World(Settings(limit=3, window=WINDOW))
    for now in (0, 1, 2):
        world.limiter.admit("tasks", now)
    world.configure(Settings(limit=1, window=WINDOW))
    assert wait_of(world.limiter, 3) == WINDOW - 1

"""How much of the account's limit a worker takes when it is not alone."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_live_worker.product_live.share import SMALLEST, Share

WINDOW = 60.0


def test_alone_all_of_the_limit_is_ours() -> None:
    """Without a refusal nothing is held back, at any time."""
    share = Share(50, WINDOW)
    assert [share.allowed(now) for now in (0.0, 1e9)] == [50, 50]
    assert share.grows_in(0.0) == math.inf


@given(st.integers(4, 5000), st.lists(st.tuples(st.floats(0, 200), st.integers(0, 6000)), max_size=30))
def test_a_share_stays_between_what_is_needed_and_what_is_allowed(
    limit: int, refusals: list[tuple[float, int]]
) -> None:
    """Whatever is refused, a worker keeps enough to claim and report, and never takes more than its settings say."""
    share, now = Share(limit, WINDOW), 0.0
    for passed, used in refusals:
        now += passed
        before = share.allowed(now)
        share.refused(now, used)
        assert min(SMALLEST, limit) <= share.allowed(now) <= before <= limit


def test_it_grows_back_by_one_a_window() -> None:
    """What the others leave is taken up again, slowly."""
    share = Share(50, WINDOW)
    share.refused(0.0, 50)
    start = share.allowed(0.0)
    assert start < 50
    assert [share.allowed(k * WINDOW) for k in range(5)] == [start + k for k in range(5)]
    assert share.grows_in(0.25 * WINDOW) == pytest.approx(0.75 * WINDOW)
    assert share.allowed(60 * WINDOW) == 50


def test_refusals_of_requests_that_were_under_way_together_are_one() -> None:
    """A burst that is refused as a whole lowers the share once."""
    once, often = Share(50, WINDOW), Share(50, WINDOW)
    once.refused(0.0, 30)
    for refused in range(5):
        often.refused(refused * 0.1, 30)
    assert once.allowed(1.0) == often.allowed(1.0)


@dataclass
class Platform:
    """A sliding window over the requests that it lets in."""

    limit: int
    let_in: deque[float] = field(default_factory=deque)

    def ask(self, now: float) -> float | None:
        """Let a request in, or give the seconds after which there is room."""
        while self.let_in and self.let_in[0] <= now - WINDOW:
            self.let_in.popleft()
        if len(self.let_in) >= self.limit:
            return self.let_in[0] + WINDOW - now
        self.let_in.append(now)
        return None


@dataclass
class Worker:
    """Asks as often as its share allows, obeys Retry-After, and counts."""

    share: Share
    latency: float
    held: deque[float] = field(default_factory=deque)
    not_before: float = 0.0
    sent: int = 0
    refused: int = 0

    def step(self, now: float, platform: Platform) -> None:
        """Send one request if it may."""
        while self.held and self.held[0] <= now:
            self.held.popleft()
        if now < self.not_before or len(self.held) >= self.share.allowed(now):
            return
        self.sent += 1
        self.held.append(now + self.latency + WINDOW)
        wait = platform.ask(now)
        if wait is not None:
            self.refused += 1
            self.share.refused(now, len(self.held))
            self.not_before = now + wait


@pytest.mark.parametrize("limit", [50, 30])
@pytest.mark.parametrize("head_start", [0.0, 45.0, 600.0])
def test_two_workers_that_know_nothing_of_each_other_settle_near_half(limit: int, head_start: float) -> None:
    """With one key and two journals each gets near half, and at most 2 % of the requests are answered 429."""
    platform = Platform(limit)
    first, second = Worker(Share(50, WINDOW), 0.15), Worker(Share(50, WINDOW), 0.2)
    tick, settle, end = 0.05, 1800.0, 3 * 3600.0
    for number in range(int(end / tick)):
        now = number * tick
        if now == settle:
            first.sent = first.refused = second.sent = second.refused = 0
        first.step(now, platform)
        if now >= head_start:
            second.step(now, platform)
    total, refused = first.sent + second.sent, first.refused + second.refused
    assert 0.4 <= first.sent / total <= 0.6
    assert refused / total <= 0.02
    assert (total - refused) * WINDOW / (end - settle) >= 0.85 * limit

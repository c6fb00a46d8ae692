"""A blocked event loop is noticed while it is blocked, and by name."""

from __future__ import annotations

import threading

import anyio
import pytest

from product_live_worker.telemetry.blocking import DEPTH, LoopWatch
from product_live_worker.telemetry.events import Event, LoopBlocked

pytestmark = pytest.mark.anyio


class Heard:
    """Keeps what is said, and can be waited for without the loop."""

    def __init__(self) -> None:
        self.said: list[LoopBlocked] = []
        self.news = threading.Semaphore(0)

    def __call__(self, event: Event) -> None:
        """Keep it."""
        assert isinstance(event, LoopBlocked)
        self.said.append(event)
        self.news.release()


def hold(heard: Heard) -> None:
    """Block until it was noticed."""
    assert heard.news.acquire(timeout=50)


async def test_what_blocks_the_loop_is_named_while_it_blocks() -> None:
    """The call can only end here because it was noticed; the stack leads to who made it."""
    heard = Heard()
    with LoopWatch(heard, patience=0.02) as watch:
        watch.beat()
        hold(heard)
    (said,) = heard.said
    assert "threading.py:" in said.where
    assert "hold (" in said.stack
    assert "test_what_blocks_the_loop_is_named_while_it_blocks (" in said.stack


async def test_a_loop_that_only_waits_is_not_blocked() -> None:
    """Without a beat, but with nothing that holds it, as after a stop of the whole process, nothing is said."""
    heard = Heard()
    # Patience enough for the watch's own start, at which the loop waits for its thread.
    with LoopWatch(heard, patience=0.3):
        await anyio.sleep(1.0)
    assert heard.said == []


async def test_it_is_said_once_in_a_while() -> None:
    """A handler that blocks again and again does not fill the log; after the quiet time it is said again."""
    heard = Heard()
    with LoopWatch(heard, patience=0.001, quiet=3600):
        hold(heard)
        assert not heard.news.acquire(timeout=0.1)
    with LoopWatch(heard, patience=0.001, quiet=0.001):
        hold(heard)
        hold(heard)
    assert len(heard.said) >= 3


async def test_a_deep_stack_is_cut() -> None:
    """The innermost calls tell enough."""
    heard = Heard()

    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        else:
            hold(heard)

    # Patience enough to be at the bottom.
    with LoopWatch(heard, patience=0.1):
        dive(50)
    assert heard.said[0].stack.count(" < ") == DEPTH - 1

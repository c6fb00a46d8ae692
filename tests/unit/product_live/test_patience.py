"""The deadline of a request, in virtual time: what it counts, and what it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from product_live_worker.product_live.patience import Patience
from support.virtual_time import run_virtually, stop_the_process


async def send(patience: Patience, method: bytes) -> None:
    """Say what httpcore says of a request that it sends."""
    told: dict[str, Any] = {"request": SimpleNamespace(method=method)}
    await patience.trace("http11.send_request_headers.started", told)
    await patience.trace("http11.send_request_body.complete", {"return_value": None})


async def waited(patience: Patience, answer_in: float, *, stopped_at: float, stopped_for: float) -> float:
    """Wait for an answer that comes in so many seconds, being stopped meanwhile; gives when it was there."""
    with patience.limit():
        await anyio.sleep(stopped_at)
        stop_the_process(stopped_for)
        await anyio.sleep(max(0.0, answer_in - stopped_at - stopped_for))
        return anyio.current_time()
    raise AssertionError


def test_what_came_while_the_process_was_stopped_is_read() -> None:
    """A stop of any length costs nothing of the time that a request has."""

    async def work() -> None:
        patience = Patience(20)
        await send(patience, b"GET")
        assert await waited(patience, 45, stopped_at=5, stopped_for=40) == 45
        assert await waited(patience, 59, stopped_at=5, stopped_for=40) == 45 + 59

    run_virtually(work)


def test_the_time_in_which_the_process_runs_is_counted() -> None:
    """Before and after a stop together it is what it was; without one it is exact."""

    async def work() -> None:
        patience = Patience(20)
        await send(patience, b"GET")
        for stopped_for, over in ((0.0, 20), (40.0, 60)):
            began = anyio.current_time()
            with pytest.raises(TimeoutError):
                await waited(patience, 100, stopped_at=5, stopped_for=stopped_for)
            assert anyio.current_time() - began == pytest.approx(over, abs=0.3)

    run_virtually(work)


@pytest.mark.parametrize("sent", [None, b"CONNECT"])
def test_what_was_not_sent_before_a_stop_is_not_waited_for(sent: bytes | None) -> None:
    """On a slot that has run out meanwhile nothing must be sent; a proxy that was asked for its way has nothing yet."""

    async def work() -> None:
        patience = Patience(20)
        if sent is not None:
            await send(patience, sent)
        with pytest.raises(TimeoutError):
            await waited(patience, 45.5, stopped_at=5, stopped_for=40)
        assert anyio.current_time() < 45.5

    run_virtually(work)

"""An operator at the page of a real worker: what they look at, and how soon it has to be true."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser

from product_live_worker import sandbox
from product_live_worker.model.handler import Handler
from support.browser import Looking, looking
from support.workers import RunningWorker, new_world, running_worker, until

QUICK = {"requests_per_minute": 100, "window": 10.0}
RIGHT_WITHIN = 3.0
"""Seconds from what is true of the worker to the page that says it."""
SOON = 20_000
"""Milliseconds that the rest of the page is waited for: it comes with its verdict, and is not timed by itself."""


@asynccontextmanager
async def watched(
    browser: Browser, handlers: list[Handler], home: Path, **more: Any
) -> AsyncIterator[tuple[RunningWorker, Looking]]:
    """Run a worker, look at its page, and see in the end that the browser had nothing to complain of."""
    async with AsyncExitStack() as opened:
        window = more.pop("window", {})
        # So many requests that no test waits for a poll.
        more = {"world": new_world(*(one.name for one in handlers), limit=0), "budget": QUICK, **more}
        worker = await opened.enter_async_context(running_worker(handlers, home, drain={"timeout": 0.1}, **more))
        looks = await opened.enter_async_context(looking(browser, **window))
        await looks.page.goto(address(worker))
        yield worker, looks
        assert looks.complaints == []
        assert await looks.page.title() != "owned"


def address(worker: RunningWorker, path: str = "") -> str:
    """Give the address of a page."""
    return f"http://127.0.0.1:{worker.daemon.port}/{path}"


def faults(**parameters: Any) -> sandbox.Faults:
    """Put a fault in force."""
    made = sandbox.Faults()
    made.add(**parameters)
    return made


async def when(true: Callable[[], bool]) -> float:
    """Wait until something is true of the worker; gives that moment."""
    await until(true)
    return time.time()


async def told(looks: Looking, *words: str, since: float | None = None) -> None:
    """See that the verdict has these words, within three seconds of the moment that made them true (else: of now)."""
    since = since or time.time()
    late = await looks.showed(*words, after=since) - since
    assert late < RIGHT_WITHIN, f"the page said it after {late:.2f} s"

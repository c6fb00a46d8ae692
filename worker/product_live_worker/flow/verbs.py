"""What the worker does for a handler that runs: the verbs behind `Context`, JSON in and JSON out."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

from product_live_worker.journal.journal import Journal
from product_live_worker.model.context import NotSaved, Verb
from product_live_worker.model.errors import IllegalTransition, JournalUnwritable
from product_live_worker.model.execution import Execution

Result = TypeVar("Result")

ASK_AGAIN = 1.0
"""Seconds between two attempts while the journal is in trouble."""
ABOUT_TO_END = 1.0
"""Seconds within which a handler is ended whose execution is not its own any more."""
NO_CALLBACKS = (
    "nobody can call this worker back: the settings need http.public_url, under which others reach it, and "
    "http.callback_port, on which it listens"
)


def verbs_for(
    journal: Journal, execution: Execution, *, ended: Callable[[str], str | None], callback_url: str
) -> dict[str, Verb]:
    """Give the verbs of one execution; `ended` knows how the platform has ended it, `callback_url` may be empty."""

    async def save_checkpoint(checkpoint: dict[str, Any]) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await journal.save_checkpoint(execution, checkpoint)
        except JournalUnwritable as error:
            raise NotSaved(str(error)) from error
        except IllegalTransition:
            # It is over, or another worker's: whoever has found out is about to end the handler.
            await anyio.sleep(ABOUT_TO_END)
            raise

    async def lease(wanted: dict[str, Any]) -> str | None:
        timeout = math.inf if wanted["timeout"] is None else float(wanted["timeout"])
        return await _patiently(lambda: journal.key_leases.take(wanted["key"], execution.id, timeout))

    async def release(key: str) -> None:
        await _patiently(lambda: journal.key_leases.release(key, execution.id))

    async def callback(_: None) -> str:
        if not callback_url:
            raise RuntimeError(NO_CALLBACKS)
        return f"{callback_url}/callbacks/{await _patiently(lambda: journal.callbacks.token(execution))}"

    async def received(wanted: dict[str, Any]) -> list[dict[str, Any]]:
        token = await _patiently(lambda: journal.callbacks.token(execution))
        after, timeout = int(wanted["after"]), float(wanted["timeout"])
        return await _patiently(lambda: journal.callbacks.received(token, after=after, timeout=timeout))

    async def how_ended(_: None) -> str | None:
        return ended(execution.id)

    return {
        "save_checkpoint": save_checkpoint,
        "lease": lease,
        "release": release,
        "callback": callback,
        "received": received,
        "ended": how_ended,
    }


async def _patiently(ask: Callable[[], Awaitable[Result]]) -> Result:
    """Ask until the journal can be read and written: what only waits has a deadline of its own, and need not fail."""
    while True:
        try:
            return await ask()
        except JournalUnwritable:
            await anyio.sleep(ASK_AGAIN)

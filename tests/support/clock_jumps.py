"""A handler that lets the wall clock of its own process jump, as a correction by an hour would; others beside it."""

from __future__ import annotations

import time

from pydantic import BaseModel

from product_live_worker import handler
from support.noted_handlers import quick, slow

__all__ = ["jump", "quick", "slow"]

_true_time = time.time
_offset = 0.0


def _shifted() -> float:
    return _true_time() + _offset


time.time = _shifted


class Jump(BaseModel):
    """Where to."""

    seconds: float


@handler("jump")
async def jump(input: Jump) -> dict[str, float]:
    """Move the wall clock, and nothing else, by so many seconds."""
    global _offset  # noqa: PLW0603 (there is one wall clock)
    _offset += input.seconds
    return {"offset": _offset}

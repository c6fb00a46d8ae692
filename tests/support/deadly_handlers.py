"""A handler that takes its worker along."""

from __future__ import annotations

import os
from typing import Any

from product_live_worker import handler


@handler("deadly")
async def deadly(input: dict[str, Any]) -> None:  # noqa: ARG001 (a handler has one)
    """End the worker's own process."""
    os._exit(3)

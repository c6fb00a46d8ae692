"""A handler that dies with its process, for a dashboard that shall show it."""

from __future__ import annotations

import os
from typing import Any

from product_live_worker import handler


@handler("crashing", isolation="process")
def crashing(input: dict[str, Any]) -> None:  # noqa: ARG001 (a handler has one)
    """Take the process along."""
    os._exit(3)

"""A handler whose import sends its process a signal: as early as a test can be sure to meet the start."""

from __future__ import annotations

import os
import signal
from typing import Any

from product_live_worker import handler

os.kill(os.getpid(), signal.SIGUSR1)


@handler("signalled")
async def signalled(input: dict[str, Any]) -> None:
    """Do nothing."""

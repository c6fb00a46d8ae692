"""The metrics of an open worker, and what refers to them: rules, dashboards, expressions."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import anyio

from product_live_worker.daemon import open_daemon
from product_live_worker.telemetry.metrics import Definition
from support.workers import settings_for


@cache
def definitions() -> tuple[Definition, ...]:
    """Give every metric that a worker has; it is opened for that, and asks nobody anything."""

    async def read() -> tuple[Definition, ...]:
        with tempfile.TemporaryDirectory() as state:
            async with open_daemon(settings_for("http://127.0.0.1:9", Path(state)), {}) as daemon:
                return daemon.metrics.definitions()

    return anyio.run(read)

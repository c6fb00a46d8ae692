"""One handler run on its own, outside a daemon, by the same road."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from product_live_worker.executors.in_process import InProcess
from product_live_worker.executors.in_thread import InThread
from product_live_worker.executors.on_loop import OnLoop
from product_live_worker.executors.perform import Executor, perform
from product_live_worker.executors.resources import Resources
from product_live_worker.executors.workdirs import remove_tree
from product_live_worker.model.context import Context
from product_live_worker.model.execution import Outcome
from product_live_worker.model.handler import Handler
from product_live_worker.telemetry.events import About, HandlerFailed
from product_live_worker.telemetry.log import log_event, log_for

MAX_OUTPUT = 1_000_000
"""Bytes; the default of `execution.max_output`."""


async def run_alone(
    handler: Handler,
    raw: Any,
    settings: Mapping[str, Any] | None = None,
    *,
    connections: Mapping[str, Mapping[str, Any]] | None = None,
    execution_id: str = "alone",
    adapt: Callable[[Context], Context] = lambda context: context,
) -> Outcome:
    """Run the handler on an input as the platform sends it, and give the Outcome that would be reported.

    `settings` is the section of the task's settings, `connections` are those of all connections; raises SettingsError
    when the handler cannot use them.
    """
    processes = InProcess()
    read = handler.read_settings(settings or {})
    base = Path(tempfile.mkdtemp(prefix="product-live-worker-"))
    context = Context(
        execution_id=execution_id,
        task=handler.name,
        deadline=datetime.now(UTC) + timedelta(seconds=handler.timeout),
        log=log_for(task=handler.name, execution=execution_id),
        settings=read,
        directory=base / "work",
        connection=handler.read_connection(read, connections or {}),
    )
    # Whoever runs it may know better where checkpoints and log lines go.
    context = adapt(context)
    said: About = {"task": handler.name, "execution": execution_id, "correlation": None}
    async with Resources() as resources:
        executors: dict[str, Executor] = {
            "loop": OnLoop(resources),
            "thread": InThread(resources),
            "process": processes,
            # No cluster is needed to try a handler: the process is the same, only here.
            "dask": processes,
        }
        try:
            return await perform(
                executors,
                handler,
                raw,
                context,
                timeout=handler.timeout,
                max_output=MAX_OUTPUT,
                failed=lambda error: log_event(HandlerFailed(**said, error=error)),
            )
        finally:
            await processes.close()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove_tree, base)

"""The Dask cluster, where a handler is to run there."""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from product_live_worker.doctor.finding import Finding
from product_live_worker.executors.on_dask import OnDask
from product_live_worker.flow.backoff import Outage
from product_live_worker.model.task import ServedTask
from product_live_worker.settings import Settings

ANSWER = 15.0
"""Seconds that a Dask scheduler has to answer."""


async def cluster(settings: Settings, served: Mapping[str, ServedTask]) -> list[Finding]:
    """Have the scheduler say that it is there."""
    if not any(task.handler.isolation == "dask" for task in served.values()):
        return []
    scheduler = settings.execution.dask_scheduler
    asked = OnDask(scheduler, Outage("the Dask cluster", lambda _: None))
    asked.wanted.set()
    async with anyio.create_task_group() as asking:
        asking.start_soon(asked.serve)
        with anyio.move_on_after(ANSWER):
            await asked.ready()
        asking.cancel_scope.cancel()
        trouble = asked.trouble()
    if trouble:
        cure = "Start the Dask scheduler, or mend execution.dask_scheduler."
        return [Finding.fail("cluster", trouble, cure)]
    return [Finding.ok("cluster", f"the Dask scheduler answers: {scheduler}")]

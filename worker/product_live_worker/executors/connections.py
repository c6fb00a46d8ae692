"""Whether the connections that tasks name can be used: what each says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import anyio

from product_live_worker.executors.resources import Resources, ResourceUnavailable
from product_live_worker.model.context import Context
from product_live_worker.model.explain import shorten
from product_live_worker.model.task import ServedTask
from product_live_worker.telemetry.log import log_for

LONGEST = 30.0
"""Seconds that one may take."""


async def check_connections(tasks: Iterable[ServedTask]) -> list[tuple[bool, str]]:
    """Open each connection once, and have its `check()` say what it finds: whether it is well, and a sentence."""
    named = {task.settings.connection: task for task in tasks if task.connection is not None}
    findings: list[tuple[bool, str]] = []
    async with Resources() as resources:
        for name, task in sorted(named.items()):
            found = await _check(resources, task)
            findings += [(ok, shorten(f"connection {name}: {text}")) for ok, text in found]
    return findings


async def _check(resources: Resources, task: ServedTask) -> list[tuple[bool, str]]:
    context = Context(
        execution_id="check",
        task=task.key,
        deadline=datetime.now(UTC),
        log=log_for(task=task.key),
        settings=task.settings,
        connection=task.connection,
    )
    try:
        with anyio.fail_after(LONGEST):
            opened = (await resources.of(task.handler, context)).values()
            return [(True, line) for one in opened if hasattr(one, "check") for line in await one.check()]
    except TimeoutError:
        return [(False, f"no answer within {LONGEST:g} s")]
    except ResourceUnavailable as error:
        return [(False, f"it cannot be opened: {error.__cause__}")]
    except Exception as error:  # noqa: BLE001 (whatever the other side and the handler's author can think of)
        return [(False, str(error) or type(error).__name__)]

"""The metrics of an open worker, and what refers to them: rules, dashboards, expressions."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

import anyio

from product_live_worker.daemon import open_daemon
from product_live_worker.telemetry.metrics import PREFIX, Definition
from support.workers import settings_for


@cache
def definitions() -> tuple[Definition, ...]:
    """Give every metric that a worker has; it is opened for that, and asks nobody anything."""

    async def read() -> tuple[Definition, ...]:
        with tempfile.TemporaryDirectory() as state:
            async with open_daemon(settings_for("http://127.0.0.1:9", Path(state)), {}) as daemon:
                return daemon.metrics.definitions()

    return anyio.run(read)


def named(expression: str) -> set[tuple[str, frozenset[str]]]:
    """Give the worker's metrics in an expression of PromQL, each with the labels that are asked of it there.

    Names with a colon are those of recording rules.
    """
    found = re.findall(rf"(?<![\w:])({PREFIX}\w+)(?![\w:])(?:\{{([^}}]*)\}})?", expression)
    return {(name, frozenset(re.findall(r"(\w+)\s*[=!]", matchers))) for name, matchers in found}


def undefined(expression: str) -> list[str]:
    """Name what the expression asks for and no worker has."""
    known = {definition.name: definition for definition in definitions()}
    wrong = []
    for name, labels in named(expression):
        part = re.fullmatch(r"(\w+)_(bucket|sum|count)", name)
        definition = known.get(name) or (known.get(part[1]) if part else None)
        is_whole = definition is not None and (definition.kind == "histogram") == (name not in known)
        if definition is None or not is_whole or labels - {*definition.labels, "job", "instance"}:
            wrong.append(f"{name}{{{','.join(sorted(labels))}}}")
    return wrong

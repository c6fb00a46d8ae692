"""Test a handler by the road that it takes in production: JSON in, its real executor, JSON out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio

from product_live_worker.executors.alone import run_alone
from product_live_worker.model.execution import Outcome, Status
from product_live_worker.model.handler import Handler

__all__ = ["Outcome", "Status", "run"]


def run(handler: Handler, input: Any, *, settings: Mapping[str, Any] | None = None) -> Outcome:
    """Run a handler once and give what would be reported; input and output pass through JSON.

    `input` is what the platform would send, any JSON value; `settings` is the section `[tasks.<key>.settings]`.
    """
    outcome = anyio.run(run_alone, handler, json.loads(json.dumps(input)), settings)
    return Outcome(outcome.status, json.loads(json.dumps(outcome.output, allow_nan=False)))

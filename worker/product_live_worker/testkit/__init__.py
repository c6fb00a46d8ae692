"""Test a handler by the road that it takes in production: JSON in, its real executor, JSON out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from product_live_worker.model.execution import Outcome, Status
from product_live_worker.model.handler import Handler
from product_live_worker.testkit.files import Uploaded
from product_live_worker.testkit.sandbox import Sandbox
from product_live_worker.testkit.trial import Line, Report, Trial

__all__ = ["Line", "Outcome", "Report", "Sandbox", "Status", "Trial", "Uploaded", "run"]


def run(handler: Handler, input: Any, *, settings: Mapping[str, Any] | None = None) -> Outcome:
    """Run a handler once and give what would be reported; input and output pass through JSON.

    `input` is what the platform would send, any JSON value; `settings` is the section `[tasks.<key>.settings]`.
    A `Trial` does the same and says more. Raises TypeError or ValueError for an input that is no JSON.
    """
    return Trial(settings=settings or {}).run(handler, input)

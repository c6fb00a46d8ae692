"""The process's logging, set up for one test and put back after it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from product_live_worker.telemetry import log


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@contextmanager
def logging_to(stream: io.StringIO | None, *args: Any, **kwargs: Any) -> Iterator[None]:
    """Configure the logging with this stream while the block runs."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers, root.level
    log.configure(*args, **kwargs, stream=stream)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.configure(**before)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Give the JSON lines that were written."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]

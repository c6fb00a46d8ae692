"""What a handler raises to end its execution FAILED in its own words: `TaskFailed`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class TaskFailed(Exception):
    """Raised by a handler to refuse its input: the execution is reported FAILED.

    `message` is one sentence for the person who reads the job; `code` is for machines; `output` adds keys to the
    reported output beside `message` and `code`.
    """

    # A subclass whose __init__ forgets this one's is a refusal all the same.
    message = ""
    code = "task_failed"
    output: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, message: str, *, code: str = "task_failed", output: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.output = dict(output or {})

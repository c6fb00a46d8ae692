"""What a handler's process and the worker say to each other: frames, each a length and so many bytes.

To the process they are pickled: it may believe the worker. From it they are JSON: what runs handlers may have been
taken over by its input, and the worker must not be.
"""

from __future__ import annotations

import json
import struct
from typing import Any

HEAD = struct.Struct(">I")
LONGEST = 100_000_000
"""Bytes of a frame that the worker reads at most; the largest output allowed is a tenth of that."""


def framed(body: bytes) -> bytes:
    """Put the length before the body."""
    return HEAD.pack(len(body)) + body


def to_json(said: dict[str, Any]) -> bytes:
    """Write what a process says; what is no JSON, as in the fields of a log line, is written as text."""
    return framed(json.dumps(said, default=_text).encode())


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 (an object that cannot even say what it is)
        return type(value).__name__

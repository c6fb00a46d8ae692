"""The boot clock: it never jumps, goes on while the machine sleeps, and is the same for all its processes."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Where there is no boot id, no other process can be known to share our clock.
_PROCESS = uuid.uuid4().hex


def boot_id(file: Path = _BOOT_ID) -> str:
    """Name the boot whose clock `boot_now` reads; where the machine names none, this process stands for it."""
    try:
        return file.read_text().strip()
    except OSError:
        return _PROCESS


def boot_now() -> float:
    """Give the seconds since the machine was started."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()

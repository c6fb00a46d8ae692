"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path


def load() -> float:
    """Give the number of processes that wanted a core in the last minute."""
    return os.getloadavg()[0]


def described() -> Iterator[str]:
    """Give a line for each thing that a reader of the figures needs to know."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GB"
    yield platform.system()
    yield f"{platform.python_implementation()} {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())

"""The worker's command, with a sample of its stacks every few milliseconds of processor time.

python -m benchmarks.profiled run …   writes the counts to $BENCHMARK_PROFILE when the process ends
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from product_live_worker.cli import main

EVERY = 0.004
LIBRARIES = {
    "httpcore": "httpcore (connections, pool)",
    "h11": "h11 (HTTP/1.1)",
    "httpx": "httpx (requests, answers)",
    "anyio": "anyio",
    "asyncio": "asyncio",
    "selectors": "other threads: the journal's writer",
    "sqlalchemy": "SQLAlchemy",
    "pydantic": "pydantic",
    "structlog": "structlog",
    "prometheus_client": "prometheus_client",
    "uvicorn": "uvicorn",
    "json": "json",
}
WORKER = "product_live_worker"
by_part: Counter[str] = Counter()
by_function: Counter[str] = Counter()


def sample(_: int, frame: FrameType | None) -> None:
    """Count where the main thread is: whose code it is, and which of the worker's functions called it."""
    ours: set[str] = set()
    part = ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        library = next((name for name in (*path.parts[-4:], path.stem) if name in LIBRARIES), "")
        if WORKER in path.parts:
            where = "/".join(path.parts[path.parts.index(WORKER) + 1 :])
            part = part or where.partition("/")[0]
            ours.add(f"{where} {frame.f_code.co_qualname}")  # type: ignore[attr-defined]  # since 3.11
        part = part or LIBRARIES.get(library, "")
        frame = frame.f_back
    by_part[part or "Python's own"] += 1
    by_function.update(ours)


def leave(code: int) -> None:
    """Write the counts, then end."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    counts = {"parts": by_part, "functions": by_function}
    Path(os.environ["BENCHMARK_PROFILE"]).write_text(json.dumps(counts), encoding="utf-8")
    end(code)


if __name__ == "__main__":
    end, os._exit = os._exit, leave  # type: ignore[assignment]  # the worker ends itself so, and would lose the counts
    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    sys.exit(main())

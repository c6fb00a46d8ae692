"""Notices from a thread of its own that the event loop is blocked, while it is, and by what."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from product_live_worker.telemetry.events import Emit, LoopBlocked

PATIENCE = 1.0
"""Seconds without a beat after which the loop counts as blocked."""
QUIET = 60.0
"""Seconds between two lines about it, so that a handler that blocks again and again does not fill the log."""
DEPTH = 12
"""Calls that are named at most, the innermost first."""


class LoopWatch:
    """Wants a `beat` of the loop now and then, and says LoopBlocked with the loop's stack when there is none.

    To be entered in the loop's own thread. While the loop beats, the thread wakes up once for each beat.
    """

    def __init__(self, emit: Emit, *, patience: float = PATIENCE, quiet: float = QUIET) -> None:
        """`emit` is called in the watching thread."""
        self._emit = emit
        self._patience = patience
        self._quiet = quiet
        self._loop_thread = threading.get_ident()
        self._beaten = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._watch, name="loop-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._beaten.set()
        self._thread.join()

    def beat(self) -> None:
        """Say that the loop runs."""
        self._beaten.set()

    def _watch(self) -> None:
        told = -self._quiet
        while not self._ended:
            if self._beaten.wait(self._patience):
                self._beaten.clear()
                continue
            stack = _stack(sys._current_frames().get(self._loop_thread))  # noqa: SLF001 (its documented use)
            if stack and time.monotonic() - told >= self._quiet:
                told = time.monotonic()
                self._emit(LoopBlocked(where=stack[0], stack=" < ".join(stack)))


def _stack(frame: FrameType | None) -> list[str]:
    """Name the calls that the loop is in; none while it only waits for something to happen."""
    if frame is not None and (frame.f_code.co_name, Path(frame.f_code.co_filename).name) == ("select", "selectors.py"):
        # Nothing blocks it: the whole process was stopped for a while, or the machine is overloaded.
        return []
    calls: list[str] = []
    while frame is not None and len(calls) < DEPTH and frame.f_code.co_name != "_run_once":
        calls.append(f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})")
        frame = frame.f_back
    return calls

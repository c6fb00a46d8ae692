"""An asyncio loop whose clock is virtual: when nothing is left to do, it jumps to the next timer.

Days pass in milliseconds, in the same order each time. Only for code that waits for timers and for other tasks: the
clock would jump past whatever waits for a thread, a file or a socket.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")


class NothingWillHappen(Exception):
    """Every task waits, and no timer is left to end it: a deadlock, or a wake-up that was lost."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that starts at `start` and never waits; `anyio.current_time()` and `loop.time()` read its clock."""

    def __init__(self, start: float = 0.0) -> None:
        self._virtual_now = start
        super().__init__(_Jumping(self.jump))

    def time(self) -> float:
        """Give the virtual time, in seconds."""
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        """Let time pass without running anything meanwhile, as for a process that was stopped (SIGSTOP)."""
        # A timer that is nearer than the clock can tell would be waited for without end.
        self._virtual_now += max(seconds, 1e-9)


class _Jumping(selectors.BaseSelector):
    """A selector that does not wait for its timeout, but tells that it has passed."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        self._jump = jump
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(0)
        if not found and timeout is None:
            raise NothingWillHappen
        if not found and timeout:
            self._jump(timeout)
        return found

    def register(self, fileobj: FileDescriptorLike, events: int, data: object = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


def run_virtually(work: Callable[[], Awaitable[T]], *, start: float = 0.0) -> T:
    """Run `work` to its end on a new virtual loop; raises NothingWillHappen where a real loop would hang for ever."""

    async def main() -> T:
        return await work()

    loop = VirtualTimeLoop(start)
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(main())
    finally:
        loop.close()


def stop_the_process(seconds: float) -> None:
    """Let the running virtual loop be stopped for so long, as by SIGSTOP and SIGCONT."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.jump(seconds)


async def settle() -> None:
    """Let all that can happen now happen, without letting time pass."""
    for _ in range(50):
        await checkpoint()

"""What handlers share: opened when first needed, once for each process, and closed in the opposite order."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from product_live_worker.model.resource import NEEDED, Resource
from product_live_worker.telemetry.log import log_for

if TYPE_CHECKING:
    from product_live_worker.model.context import Context
    from product_live_worker.model.handler import Handler

CLOSING = 5.0
"""Seconds that the closing of all may take."""


class ResourceUnavailable(Exception):
    """A resource could not be opened, because of its cause; `args` has its name."""


@dataclass(eq=False)
class _Slot:
    """A resource of this process, open or not."""

    name: str
    opening: anyio.Lock = field(default_factory=anyio.Lock)
    is_open: bool = False
    value: Any = None
    unwanted: anyio.Event = field(default_factory=anyio.Event)
    """Set when it is to be closed."""
    closed: anyio.Event = field(default_factory=anyio.Event)


class Resources:
    """The open resources of a process; entered where they may live, in a task of their own each."""

    def __init__(self, *, in_threads: bool = True) -> None:
        """`in_threads`: whether a synchronous context manager is opened beside the loop, or on it."""
        self._in_threads = in_threads
        self._group: TaskGroup | None = None
        self._slots: dict[tuple[Callable[..., Any], str], _Slot] = {}
        self._opened: list[_Slot] = []

    async def __aenter__(self) -> Self:
        self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        with anyio.move_on_after(CLOSING, shield=True):
            for slot in tuple(reversed(self._opened)):
                slot.unwanted.set()
                await slot.closed.wait()
        group, self._group = self._group, None
        if group is None:
            return None
        group.cancel_scope.cancel()
        return await group.__aexit__(kind, error, trace)

    async def of(self, handler: Handler, context: Context) -> Mapping[str, Any]:
        """Give the handler's resources by the names of its parameters; raises ResourceUnavailable."""
        return {name: await self._get(name, wanted, context) for name, wanted in handler.resources.items()}

    async def _get(self, name: str, wanted: Resource, context: Context) -> Any:
        # By a task's settings it is that task's, by a connection it is the connection's; anything else is everybody's.
        given = context.settings if wanted.connection is None else context.connection
        whose = context.task if wanted.connection is None else f"connection {context.settings.connection}"
        key = (wanted.open, whose if wanted.takes_settings else "")
        slot = self._slots.setdefault(key, _Slot(name))
        async with slot.opening:
            if not slot.is_open:
                if self._group is None:
                    raise ResourceUnavailable(name) from RuntimeError("the worker is stopping")
                slot.unwanted, slot.closed = anyio.Event(), anyio.Event()
                try:
                    # Where the caller's deadline is over first, the opening is cancelled with it.
                    await self._group.start(self._keep, slot, wanted, given)
                except anyio.get_cancelled_exc_class():
                    raise
                except Exception as error:
                    raise ResourceUnavailable(name) from error
            return slot.value

    async def _keep(self, slot: _Slot, wanted: Resource, settings: Any, *, task_status: TaskStatus[None]) -> None:
        """Hold a resource open, from its first use to the end, in one task, as a context manager may ask for."""
        try:
            async with self._entered(wanted.open(settings) if wanted.takes_settings else wanted.open()) as slot.value:
                slot.is_open = True
                self._opened.append(slot)
                task_status.started()
                await slot.unwanted.wait()
        except BaseException as error:
            if not slot.is_open:
                if isinstance(error, Exception | anyio.get_cancelled_exc_class() | KeyboardInterrupt):
                    raise
                raise RuntimeError(f"{type(error).__name__}: {error}") from error
            if isinstance(error, anyio.get_cancelled_exc_class() | KeyboardInterrupt):
                raise
            # In its own time, or at its closing: the next execution opens it anew.
            log_for(resource=slot.name).error("a resource of handlers has failed", exc_info=error)
        finally:
            if slot.is_open:
                slot.is_open = False
                self._opened.remove(slot)
            slot.closed.set()

    def _entered(self, manager: Any) -> AbstractAsyncContextManager[Any]:
        if isinstance(manager, AbstractAsyncContextManager):
            return manager
        if isinstance(manager, AbstractContextManager):
            return _beside(manager) if self._in_threads else _here(manager)
        if inspect.iscoroutine(manager):
            manager.close()
        raise TypeError(f"{NEEDED}; found {type(manager).__name__}")


@asynccontextmanager
async def _beside(manager: AbstractContextManager[Any]) -> AsyncIterator[Any]:
    yield await anyio.to_thread.run_sync(manager.__enter__, abandon_on_cancel=True)
    await anyio.to_thread.run_sync(manager.__exit__, None, None, None, abandon_on_cancel=True)


@asynccontextmanager
async def _here(manager: AbstractContextManager[Any]) -> AsyncIterator[Any]:
    with manager as value:
        yield value

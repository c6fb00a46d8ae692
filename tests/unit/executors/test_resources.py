"""What handlers share: opened once, closed at the end in the opposite order, and never the worker's death."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Annotated, Any

import anyio
import pytest

from product_live_worker import Handler, handler, resource
from product_live_worker.executors.resources import Resources, ResourceUnavailable
from support.contexts import a_context
from support.workers import until

pytestmark = pytest.mark.anyio


class Shop:
    """Resources that note what happens to them."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.fail = anyio.Event()

    @asynccontextmanager
    async def first(self) -> AsyncIterator[str]:
        """Open one."""
        self.notes.append("first opened")
        yield "first"
        self.notes.append("first closed")

    @contextmanager
    def second(self, settings: Any) -> Iterator[str]:
        """Open one by settings, beside the loop."""
        self.notes.append(f"second opened for {settings['who']}")
        assert threading.current_thread() is not threading.main_thread()
        yield f"second of {settings['who']}"
        self.notes.append(f"second closed for {settings['who']}")

    @asynccontextmanager
    async def frail(self) -> AsyncIterator[str]:
        """Open one that fails while it is used."""
        self.notes.append("frail opened")
        async with anyio.create_task_group() as group:

            async def work() -> None:
                await self.fail.wait()
                self.notes.append("frail failed")
                raise ConnectionResetError("gone")

            group.start_soon(work)
            yield "frail"
            group.cancel_scope.cancel()


def needing(*opened_by: Callable[..., Any]) -> Handler:
    """Give a handler that needs what these open, as `a`, `b` and so on."""

    async def use(_: dict, **resources: Any) -> None:  # type: ignore[type-arg]
        """Use them."""

    made = handler("use")(lambda _: None)
    names = dict(zip("abc", map(resource, opened_by), strict=False))
    return replace(made, function=use, resources=names)


async def test_what_is_open_is_shared_and_closed_in_the_opposite_order() -> None:
    """One for everybody; one for each task where it is opened by the task's settings."""
    shop = Shop()
    made = needing(shop.first, shop.second)
    async with Resources() as resources:
        for task in ("x", "y", "x"):
            opened = await resources.of(made, a_context(task, who=task))
            assert opened == {"a": "first", "b": f"second of {task}"}
        assert shop.notes == ["first opened", "second opened for x", "second opened for y"]
    assert shop.notes[3:] == ["second closed for y", "second closed for x", "first closed"]


async def test_executions_that_begin_together_open_once() -> None:
    """Whoever comes while it opens waits for it."""
    shop = Shop()
    async with Resources() as resources, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(resources.of, needing(shop.first), a_context())
    assert shop.notes == ["first opened", "first closed"]


async def test_one_that_fails_in_use_is_opened_anew() -> None:
    """Its error is a line in the log, and the next execution's business, never the worker's end."""
    shop = Shop()
    async with Resources() as resources:
        await resources.of(needing(shop.frail), a_context())
        shop.fail.set()
        await until(lambda: "frail failed" in shop.notes)
        shop.fail = anyio.Event()

        async def opened_again() -> bool:
            await resources.of(needing(shop.frail), a_context())
            return shop.notes.count("frail opened") == 2

        while not await opened_again():
            await anyio.lowlevel.checkpoint()


async def test_an_opening_that_hangs_ends_with_the_deadline_and_is_tried_again() -> None:
    """The first caller's time is over; the next does not wait for an opening that nobody wants."""
    tries = 0

    @asynccontextmanager
    async def open_slowly() -> AsyncIterator[str]:
        nonlocal tries
        tries += 1
        if tries == 1:
            await anyio.sleep_forever()
        yield "open"

    made = needing(open_slowly)
    async with Resources() as resources:
        with anyio.move_on_after(0.05) as scope:
            await resources.of(made, a_context())
        assert scope.cancelled_caught
        assert await resources.of(made, a_context()) == {"a": "open"}


@pytest.mark.parametrize("error", [ConnectionError("away"), SystemExit(3), BaseExceptionGroup("two", [SystemExit()])])
async def test_whatever_an_opening_raises_is_told_to_the_execution(error: BaseException) -> None:
    """sys.exit() in somebody's library is not the worker's."""

    @asynccontextmanager
    async def open_badly() -> AsyncIterator[str]:
        raise error
        yield ""

    async with Resources() as resources:
        with pytest.raises(ResourceUnavailable) as told:
            await resources.of(needing(open_badly), a_context())
        assert told.value.args == ("a",)
        assert told.value.__cause__ is not None


async def test_a_closing_that_fails_is_not_in_the_way_of_the_others() -> None:
    """Each is closed, whatever the others do."""
    shop = Shop()

    @asynccontextmanager
    async def open_stubbornly() -> AsyncIterator[str]:
        yield "open"
        raise SystemExit(3)

    async with Resources() as resources:
        await resources.of(needing(shop.first, open_stubbornly), a_context())
    assert shop.notes == ["first opened", "first closed"]


async def test_nothing_is_opened_before_the_start_or_after_the_end() -> None:
    """There is nobody who would close it."""
    resources = Resources()
    with pytest.raises(ResourceUnavailable):
        await resources.of(needing(Shop().first), a_context())


@pytest.mark.parametrize("wrong", [lambda a, b: (a, b), lambda *, a: a, 7])
def test_what_cannot_be_called_is_refused(wrong: Any) -> None:
    """When the module is read."""
    with pytest.raises(TypeError, match=r"resource\("):
        resource(wrong)


def test_a_parameter_without_a_resource_is_refused() -> None:
    """The decorator says what a further parameter needs."""
    with pytest.raises(TypeError, match=r"Annotated\[…, resource\(…\)\]"):

        @handler("x")
        def local(_: dict, db: Annotated[str, "a note"]) -> None:  # type: ignore[type-arg]
            """Want something that nobody gives."""

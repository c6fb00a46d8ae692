"""The connectors' handlers on a clock that leaps, and how their scenarios are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from product_live_worker import Handler
from product_live_worker.model.resource import Resource
from product_live_worker.sandbox.records import Execution
from support.job_clock import Leaping
from support.remotes import Asked, Fault, Remote, Reply


def leaping(handler: Handler) -> Handler:
    """Give the handler whose client has clocks that leap; all else is as it is."""

    def fast(found: Resource) -> Resource:
        @asynccontextmanager
        async def open_fast(connection: Any) -> AsyncIterator[Any]:
            async with found.open(connection) as client:
                client.new_clock = Leaping
                yield client

        return replace(found, open=open_fast)

    # All handlers of one system share what they open: by one function, as the true ones do.
    shared = {found.open: _FAST.setdefault(found.open, fast(found)) for found in handler.resources.values()}
    return replace(handler, resources={name: shared[found.open] for name, found in handler.resources.items()})


_FAST: dict[Any, Resource] = {}


def timeless(fake: Remote) -> None:
    """Let a system say no time that can be read."""
    answer = fake.answer

    def without(asked: Asked) -> Reply:
        reply = answer(asked)
        reply.headers["date"] = "-"
        return reply

    fake.answer = without  # type: ignore[method-assign]  # of this one


@dataclass(kw_only=True)
class Scenario:
    """What happens to one execution, and how it must end."""

    name: str
    given: dict[str, Any]
    """Beside what names the job."""
    faults: tuple[Fault, ...] = ()
    code: str = ""
    """Empty is COMPLETED."""
    outcome: str = "succeeded"
    starts: int = 1
    """Starts that had their effect."""
    posts: int | None = None
    """Requests to start; None is whatever came of it."""
    plan: Any = None
    more: dict[str, Any] | None = None
    """Values that the output must have."""

    def problems(self, execution: Execution, starts: int, posts: int) -> Iterator[str]:
        """Say which law is broken."""
        status = "FAILED" if self.code else "COMPLETED"
        output = execution.output
        found = (execution.status, output.get("code", ""), output.get("outcome", "-"), starts)
        if found != (status, self.code, self.outcome, self.starts):
            yield f"{self.name}: {found}, wanted {(status, self.code, self.outcome, self.starts)}: {output}"
        if self.posts is not None and posts != self.posts:
            yield f"{self.name}: {posts} posts, wanted {self.posts}"
        for key, value in (self.more or {}).items():
            if output.get(key) != value:
                yield f"{self.name}: {key} is {output.get(key)!r}, wanted {value!r}"

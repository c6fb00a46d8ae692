"""The kinds of fault: one small class each, which plays the fault on a connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import anyio

from product_live_worker.sandbox.wire import Answer, json_answer

if TYPE_CHECKING:
    from product_live_worker.sandbox.wire import Connection

Perform = Callable[[], Answer]
"""Does what the request asks for, and gives the true answer."""


@dataclass(frozen=True, kw_only=True)
class Fault(ABC):
    """Which requests a fault strikes; each kind says how."""

    operations: tuple[str, ...] = ()
    after: int = 0
    count: int | None = None
    probability: float = 1.0
    seed: int = 0

    @abstractmethod
    async def play(self, connection: Connection, perform: Perform) -> None:
        """Answer in the faulty way."""


@dataclass(frozen=True, kw_only=True)
class Forgery(Fault):
    """A made-up answer instead of the true one; the request has its effect only if `effect`."""

    effect: bool = False

    async def play(self, connection: Connection, perform: Perform) -> None:
        """Send the made-up answer."""
        if self.effect:
            perform()
        await connection.send(self.answer())

    @abstractmethod
    def answer(self) -> Answer:
        """Make the answer up."""


@dataclass(frozen=True, kw_only=True)
class StatusFault(Forgery):
    """An error, or any other status."""

    status: int
    retry_after: float | str | None = None

    def answer(self) -> Answer:
        """Give the status, perhaps with Retry-After."""
        headers = () if self.retry_after is None else (("retry-after", str(self.retry_after)),)
        return json_answer(self.status, {"statusCode": self.status, "message": "a programmed fault"}, headers)


@dataclass(frozen=True, kw_only=True)
class GarbageFault(Forgery):
    """200 with bytes that are no text."""

    def answer(self) -> Answer:
        """Call bytes JSON."""
        return Answer(200, b"\xff\xfe{\x00\x80garbage\xc3\x28")


@dataclass(frozen=True, kw_only=True)
class HtmlFault(Forgery):
    """200 with a page, as a proxy or a login gives."""

    def answer(self) -> Answer:
        """Give the page."""
        return Answer(200, b"<!doctype html><title>Please log in</title>", "text/html; charset=utf-8")


@dataclass(frozen=True, kw_only=True)
class EmptyFault(Forgery):
    """200 with no body."""

    def answer(self) -> Answer:
        """Give nothing."""
        return Answer(200, b"")


@dataclass(frozen=True, kw_only=True)
class NullFault(Forgery):
    """200 with the JSON null."""

    def answer(self) -> Answer:
        """Give null."""
        return Answer(200, b"null")


@dataclass(frozen=True, kw_only=True)
class RedirectFault(Forgery):
    """A redirection to `location`."""

    location: str
    status: int = 307

    def answer(self) -> Answer:
        """Send elsewhere."""
        return Answer(self.status, b"", headers=(("location", self.location),))


@dataclass(frozen=True, kw_only=True)
class BodyFault(Forgery):
    """Any answer."""

    body: str
    status: int = 200
    content_type: str = "application/json"

    def answer(self) -> Answer:
        """Give the given body."""
        return Answer(self.status, self.body.encode(), self.content_type)


@dataclass(frozen=True, kw_only=True)
class DelayFault(Fault):
    """The true answer, `seconds` late: the time passes before the effect, or between it and the answer."""

    seconds: float
    before: Literal["effect", "answer"] = "effect"

    async def play(self, connection: Connection, perform: Perform) -> None:
        """Wait at the chosen place."""
        if self.before == "effect":
            await anyio.sleep(self.seconds)
        answer = perform()
        if self.before == "answer":
            await anyio.sleep(self.seconds)
        await connection.send(answer)


@dataclass(frozen=True, kw_only=True)
class CutBeforeFault(Fault):
    """The connection ends without an effect and without an answer."""

    async def play(self, connection: Connection, perform: Perform) -> None:
        """Cut."""
        await connection.cut()


@dataclass(frozen=True, kw_only=True)
class CutAfterFault(Fault):
    """The connection ends after the effect, without an answer."""

    async def play(self, connection: Connection, perform: Perform) -> None:
        """Do, and cut."""
        perform()
        await connection.cut()


@dataclass(frozen=True, kw_only=True)
class TruncateFault(Fault):
    """The true answer's head and the first `bytes` of its body; then the connection ends."""

    bytes: int | None = None

    async def play(self, connection: Connection, perform: Perform) -> None:
        """Send less than was promised."""
        answer = perform()
        half = len(answer.body) // 2
        await connection.send_part(answer, half if self.bytes is None else min(self.bytes, len(answer.body) - 1))


@dataclass(frozen=True, kw_only=True)
class SlowBodyFault(Fault):
    """The true answer, `bytes` at a time, `seconds` before each piece."""

    seconds: float
    bytes: int = 1

    async def play(self, connection: Connection, perform: Perform) -> None:
        """Dribble."""
        await connection.send_slowly(perform(), self.bytes, self.seconds)


@dataclass(frozen=True, kw_only=True)
class WrongTypeFault(Fault):
    """The true answer, called something else than JSON."""

    content_type: str = "text/plain"

    async def play(self, connection: Connection, perform: Perform) -> None:
        """Send it under the wrong type."""
        await connection.send(replace(perform(), content_type=self.content_type))


KINDS: dict[str, type[Fault]] = {
    "status": StatusFault,
    "garbage": GarbageFault,
    "html": HtmlFault,
    "empty": EmptyFault,
    "null": NullFault,
    "redirect": RedirectFault,
    "body": BodyFault,
    "delay": DelayFault,
    "cut_before": CutBeforeFault,
    "cut_after": CutAfterFault,
    "truncate": TruncateFault,
    "slow_body": SlowBodyFault,
    "wrong_type": WrongTypeFault,
}

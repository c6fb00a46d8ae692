"""HTTP as the sandbox uses it: requests read, answers written, connections cut."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qs

import anyio

from product_live_worker.sandbox.refusals import MalformedError, TooLargeError

if TYPE_CHECKING:
    from starlette.types import Receive, Send

    from product_live_worker.sandbox.records import Json
    from product_live_worker.sandbox.traffic import Arrival


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was read to its end."""

    headers: dict[bytes, bytes]
    query: bytes
    body: bytes

    def header(self, name: bytes) -> str:
        """Give the header's text, or nothing."""
        return self.headers.get(name, b"").decode("latin-1")

    def json(self) -> Json:
        """Read the body as a JSON object; raises MalformedError."""
        return parse_object(self.body)

    def number(self, name: str, default: int) -> int:
        """Read a whole number, not negative, from the query; raises MalformedError."""
        values = parse_qs(self.query.decode("latin-1"), keep_blank_values=True).get(name, [str(default)])
        if not (values[0].isdecimal() and len(values[0]) < 10):
            raise MalformedError(f"{name} must be a whole number")
        return int(values[0])


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is yet to be sent."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def json_answer(status: int, value: Any, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Make an answer whose body is `value` in JSON."""
    return Answer(status, json.dumps(value).encode(), headers=headers)


def parse_object(body: bytes) -> Json:
    """Read strict JSON, and an object; raises MalformedError."""
    try:
        value = json.loads(body, parse_float=_finite, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedError("not a JSON object")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class Connection:
    """One exchange with a client, and the ways to spoil it; notes the answer's status in `arrival`."""

    def __init__(self, arrival: Arrival, receive: Receive, send: Send) -> None:
        self._arrival = arrival
        self._receive = receive
        self._send = send

    async def read(self, limit: int) -> bytes | None:
        """Read the request's body, None when the client left; raises TooLargeError over `limit` bytes."""
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            body += message["body"]
            if len(body) > limit:
                raise TooLargeError(f"a body may have {limit} bytes")
            if not message["more_body"]:
                return bytes(body)

    async def send(self, answer: Answer) -> None:
        """Send the whole answer."""
        await self._send_head(answer)
        await self._send_body(answer.body, more=False)

    async def send_slowly(self, answer: Answer, chunk: int, pause: float) -> None:
        """Send the whole answer, `chunk` bytes at a time."""
        await self._send_head(answer)
        for start in range(0, len(answer.body), chunk):
            await anyio.sleep(pause)
            await self._send_body(answer.body[start : start + chunk], more=True)
        await self._send_body(b"", more=False)

    async def send_part(self, answer: Answer, length: int) -> None:
        """Send the head, which promises the whole body, and `length` bytes of it; then end the connection."""
        await self._send_head(answer)
        await self._send_body(answer.body[:length], more=True)
        self._transport().close()
        await self._gone()

    async def cut(self) -> None:
        """End the connection without an answer."""
        self._transport().abort()
        await self._gone()

    async def _send_head(self, answer: Answer) -> None:
        self._arrival.status = answer.status
        fields = (("content-type", answer.content_type), ("content-length", str(len(answer.body))), *answer.headers)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _transport(self) -> Any:
        # ASGI has no way to hang up without an answer; `send` is a method of uvicorn's cycle, which has the transport.
        return self._send.__self__.transport  # type: ignore[attr-defined]  # as said

    async def _gone(self) -> None:
        # uvicorn takes an application that returns without an answer for a broken one, unless it knows the client left.
        while (await self._receive())["type"] != "http.disconnect":
            pass

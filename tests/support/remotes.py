"""What the fakes of remote systems share: a real socket, a virtual clock, faults, and a contract both ways.

A fault strikes requests of one operation, and of one subject (a task, a job), so that many scenarios share one fake:

lose_before        the connection ends, nothing is done         503, 429, 401, 500   that status, nothing is done
lose_after_commit  it is done, the connection ends              503_after_commit     it is done, and 503 is said
reset_mid_body     it is done, half of the answer comes         slow                 it is done, the answer comes late
garbage_json, xml  it is done, and said in no JSON              redirect             a redirect to another host
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import anyio

from product_live_worker.listener import listen

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

START = 1_800_000_000.0
"""Where the virtual clocks of the fakes begin, Unix seconds."""
ELSEWHERE = "https://elsewhere.example.com/api"


@dataclass(eq=False)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    text: str
    operation: str = ""
    subject: str = ""
    values: dict[str, str] = field(default_factory=dict)
    status: int = 0

    @property
    def line(self) -> tuple[str, str, dict[str, str], Any]:
        """Give method, path, query and body."""
        return self.method, self.path, self.query, self.body


@dataclass
class Reply:
    """An answer; a body of text or bytes goes as it is."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What strikes, and how often."""

    kind: str
    operation: str
    subject: str = ""
    count: int = 1
    after: int = 0
    seconds: float = 0.0

    def strikes(self, asked: Asked) -> bool:
        """Decide, and count."""
        if self.count <= 0 or self.operation != asked.operation or self.subject not in ("", asked.subject):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.count -= 1
        return True


class Remote:
    """An ASGI application that plays another system; its clock goes on with each request, and by hand."""

    def __init__(self, *, tick: float = 5.0) -> None:
        self.now = START
        self.tick = tick
        self.skew = 0.0
        """What its clock differs from the true time by."""
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.broken: list[str] = []
        """What was not as the contract says, of requests and answers."""
        self.url = ""
        self.at: Callable[[str, Asked], Awaitable[bool | None]] | None = None
        """Called when a request has arrived, is done, and is answered; False: it ends there."""
        self.expired: set[str] = set()
        self.tokens = 0

    def route(self, asked: Asked) -> None:
        """Fill operation, subject and values; raises LookupError."""
        raise NotImplementedError

    def answer(self, asked: Asked) -> Reply:
        """Do it."""
        raise NotImplementedError

    def error(self, status: int, asked: Asked) -> Any:
        """Give the body of an error that a fault brings."""
        raise NotImplementedError

    def request_problems(self, asked: Asked) -> list[str]:
        """Say what of a request breaks the contract."""
        return []

    def reply_problems(self, asked: Asked, reply: Reply) -> list[str]:
        """Say what of an answer breaks the contract."""
        return []

    # What a test asks

    def of(self, operation: str, subject: str = "") -> list[Asked]:
        """Give the requests of an operation."""
        return [one for one in self.asked if one.operation == operation and subject in ("", one.subject)]

    def token(self) -> str:
        """Give a new token."""
        self.tokens += 1
        return f"s3cret-token-{self.tokens}"

    def is_good(self, token: str) -> bool:
        """Whether a token was given, and has not expired."""
        number = token.removeprefix("s3cret-token-")
        return number.isdecimal() and 0 < int(number) <= self.tokens and token not in self.expired

    def expire_tokens(self) -> None:
        """Let all tokens be over."""
        self.expired |= {f"s3cret-token-{number}" for number in range(1, self.tokens + 1)}

    # How it is served

    @asynccontextmanager
    async def served(self, port: int = 0) -> AsyncIterator[str]:
        """Listen while the block runs; gives the base URL."""
        async with listen(self, "127.0.0.1", port, dated=False) as bound:
            self.url = f"http://127.0.0.1:{bound}"
            yield self.url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = await _read(scope, receive)
        if asked is None:
            return
        self.now += self.tick
        self.asked.append(asked)
        exchange = _Exchange(self, asked, receive, send)
        try:
            self.route(asked)
        except LookupError as error:
            self.broken.append(str(error))
            await exchange.send(Reply(404, self.error(404, asked)))
            return
        try:
            await exchange.play(next((fault for fault in self.faults if fault.strikes(asked)), None))
        except _Dropped:
            await exchange.gone()


class _Exchange:
    def __init__(self, remote: Remote, asked: Asked, receive: Receive, send: Send) -> None:
        self.remote = remote
        self.asked = asked
        self._receive = receive
        self._send = send

    async def play(self, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        await self._reach("arrived")
        if kind == "lose_before":
            await self.cut()
        elif kind == "redirect":
            await self.send(Reply(307, None, {"location": ELSEWHERE}))
        elif kind.isdecimal():
            headers = {"retry-after": "7"} if kind == "429" else {}
            await self.send(Reply(int(kind), self.remote.error(int(kind), self.asked), headers))
        else:
            self.remote.broken += self.remote.request_problems(self.asked)
            reply = self.remote.answer(self.asked)
            self.remote.broken += self.remote.reply_problems(self.asked, reply)
            await self._reach("done")
            await self._spoil(kind, fault, reply)
        await self._reach("answered")

    async def _spoil(self, kind: str, fault: Fault | None, reply: Reply) -> None:
        match kind:
            case "lose_after_commit":
                await self.cut()
            case "reset_mid_body":
                await self._half(reply)
            case "503_after_commit":
                await self.send(Reply(503, self.remote.error(503, self.asked)))
            case "garbage_json":
                await self.send(Reply(reply.status, '{"half": '))
            case "xml":
                await self.send(Reply(200, "<?xml version='1.0'?><ok/>", {"content-type": "application/xml"}))
            case "slow":
                await anyio.sleep(fault.seconds if fault else 0.0)
                await self.send(reply)
            case _:
                await self.send(reply)

    async def send(self, reply: Reply) -> None:
        self.asked.status = reply.status
        body = _encoded(reply.body)
        await self._head(reply, len(body))
        await self._send({"type": "http.response.body", "body": body})

    async def _half(self, reply: Reply) -> None:
        body = _encoded(reply.body)
        await self._head(reply, len(body) + 10)
        await self._send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        await self.cut()

    async def _head(self, reply: Reply, length: int) -> None:
        fields = {
            "content-type": "application/json;charset=UTF-8",
            "date": formatdate(self.remote.now + self.remote.skew, usegmt=True),
            **reply.headers,
        }
        if reply.status != 204:
            fields["content-length"] = str(length)
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})

    async def cut(self) -> None:
        # ASGI has no way to hang up; `send` is a method of uvicorn's cycle, which has the transport.
        self._send.__self__.transport.abort()  # type: ignore[attr-defined]  # as said
        await self.gone()

    async def gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _reach(self, moment: str) -> None:
        if self.remote.at is not None and await self.remote.at(moment, self.asked) is False:
            raise _Dropped


class _Dropped(Exception):
    """A request ends here."""


async def _read(scope: Scope, receive: Receive) -> Asked | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    text = body.decode()
    try:
        parsed = json.loads(text) if text else None
    except ValueError:
        parsed = dict(parse_qsl(text))
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    path = scope["raw_path"].decode() if scope.get("raw_path") else scope["path"]
    query = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
    return Asked(scope["method"], path, query, headers, parsed, text)


def _encoded(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def last_part(path: str) -> str:
    """Give the last part of a path, decoded."""
    return unquote(path.rsplit("/", 1)[-1])


def snake(name: str) -> str:
    """Write a name in lower case, with underscores."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()

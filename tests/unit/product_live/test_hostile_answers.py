"""Ten thousand answers that no platform should give: each becomes a value or a PlatformError, and no claim is lost."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx
import pytest
from anyio.lowlevel import checkpoint

from product_live_worker.model.errors import PlatformError
from product_live_worker.model.execution import Outcome
from product_live_worker.product_live.budget import Purpose
from product_live_worker.product_live.wire import TaskExecution
from support.clients import BASE, Desk

pytestmark = pytest.mark.anyio

ANSWERS = 10_200
MEASURED = 1_500
"""The last answers, of which it is measured what they leave in memory."""
GROWTH = 100_000
"""Bytes that they may leave there; one kept answer in eight would be more."""

VALID: dict[str, Any] = {
    "object": "task_execution",
    "id": "65f0c1d2e3a4b5c6d7e8f901",
    "taskId": "65f0c1d2e3a4b5c6d7e8f900",
    "createdAt": "2026-11-23T08:00:00.000Z",
    "updatedAt": "2026-11-23T08:00:00.000Z",
    "status": "IN_PROGRESS",
    "input": {"power": 3, "eventCorrelationId": "2b1c", "nested": {"list": [1, 2.5, None, True, "é"]}},
    "output": {},
}
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63, 10**40, 1.5, -0.0, 1e308, "", " ", "x" * 300, "\x00", "é", "\ud800", "../..",
    "a/b?c#d", "null", [], [[]], {}, {"id": "other"}, [VALID], "COMPLETED", "IN_PROGRESS", "no such status",
)  # fmt: skip
TYPES = (
    "application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/problem+json", None, "",
    ";", "text/html", "text/plain; charset=utf-8", "application/octet-stream", "json", "multipart/form-data",
)  # fmt: skip
STATUSES = (
    200, 200, 200, 200, 200, 201, 202, 204, 206, 226, 300, 301, 304, 307, 400, 401,
    403, 404, 404, 405, 408, 409, 410, 413, 418, 422, 425, 429, 451, 499, 500, 501,
    502, 503, 504, 511, 599,
)  # fmt: skip
RETRY_AFTER = (
    "0", "1", "-1", "1e9", "99999999999999999999", "soon", "", "Wed, 21 Oct 2015 07:28:00 GMT", "²", "0x10", "NaN",
    "inf", "Wed, 99 Oct 99999 07:28:00 GMT", "1, 2", "٣",
)  # fmt: skip
HEADERS = (
    ("Content-Encoding", "gzip"), ("Content-Encoding", "br, deflate, nonsense"), ("Set-Cookie", "a=\x80b; Domain=.com"),
    ("Location", "http://169.254.169.254/latest/"), ("Location", "//"), ("X-Long", "x" * 5000), ("Date", "yesterday"),
)  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """One answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def response(self) -> httpx.Response:
        """Give it as the transport does; its body is decoded only when it is read."""
        headers = [(name.encode(), value.encode("utf-8", "replace")) for name, value in self.headers]
        return httpx.Response(self.status, headers=headers, stream=httpx.ByteStream(self.body))

    def claimed(self) -> str | None:
        """Give the id of the execution that a poll can learn from it; worked out without the client's own means."""
        types = [value for name, value in self.headers if name == "Content-Type"]
        kind = (types[0] if types else "").split(";")[0].strip().lower()
        encoded = any(name == "Content-Encoding" for name, _ in self.headers)
        if not 200 <= self.status < 300 or encoded or (kind and "json" not in kind) or kind == "json":
            return None
        try:
            found = json.loads(self.body, parse_constant=lambda _: 1 / 0)
        except (ValueError, ArithmeticError, RecursionError):
            return None
        id = found.get("id") if isinstance(found, dict) else None
        # Half a character is no text, and could not be asked for again.
        usable = isinstance(id, str) and 1 <= len(id) <= 256 and "\ud800" not in id
        return id if usable else None


class Forger:
    """Makes answers of a seed: valid ones spoilt in one or several ways, and others that never were valid."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self._spoil: tuple[Callable[[bytes], bytes], ...] = (
            lambda body: body,
            lambda body: body,
            lambda body: body[: self.random.randrange(len(body) + 1)],
            lambda body: body + self.random.randbytes(3),
            self._flip,
            lambda body: b"\xef\xbb\xbf" + body,
            lambda body: body.decode().encode("utf-16"),
            lambda body: b" \r\n\t" + body + b"\n",
            lambda body: b"[" * self.random.randrange(1, 3000) + body,
            lambda body: body.replace(b"{", b'{"id": "twice", ', 1),
            lambda body: body.replace(b"3", b"NaN", 1),
            lambda body: body.replace(b"3", b"1" * 5000, 1),
            lambda body: body.replace(b"3", b'{"a":' * 300 + b"1" + b"}" * 300, 1),
            lambda _: self.random.randbytes(self.random.randrange(200)),
            lambda _: self.random.choice((b"", b"null", b"0", b'""', b"[]", b"{}", b"<html>", b"\xff\xfe", b"}{")),
        )

    def answer(self) -> Hostile:
        """Make the next answer."""
        chance = self.random
        headers = [("Content-Type", kind)] if (kind := chance.choice(TYPES)) is not None else []
        if chance.random() < 0.2:
            headers.append(("Retry-After", chance.choice(RETRY_AFTER)))
        if chance.random() < 0.1:
            headers.append(chance.choice(HEADERS))
        body = chance.choice(self._spoil)(json.dumps(self._mutated()).encode())
        return Hostile(chance.choice(STATUSES), tuple(headers), body)

    def _mutated(self) -> Any:
        value = json.loads(json.dumps(VALID))
        for _ in range(self.random.randrange(3)):
            key = self.random.choice(list(VALID))
            if self.random.random() < 0.3:
                value.pop(key, None)
            else:
                value[key] = self.random.choice(ODD)
        return value

    def _flip(self, body: bytes) -> bytes:
        at = self.random.randrange(len(body))
        return body[:at] + self.random.randbytes(1) + body[at + 1 :]


async def ask(desk: Desk, verb: str) -> Any:
    """Send one request; whatever is not a PlatformError escapes."""
    verbs: dict[str, Callable[[], Any]] = {
        "poll": desk.poll,
        "read": lambda: desk.client.read_execution("e1", Purpose.RECOVER),
        "update": lambda: desk.client.update_execution("e1", Outcome.completed({"result": 8})),
    }
    # Timers that are over leave the loop's memory only when the loop runs.
    await checkpoint()
    try:
        return await verbs[verb]()
    except PlatformError as error:
        return error
    finally:
        # What was asked of the budget, and what was told, is no part of what is measured.
        desk.events.clear()
        desk.ledger.notes.clear()


@pytest.mark.timeout(60)
async def test_ten_thousand_hostile_answers() -> None:
    """No answer crashes the client, loses a claim that can be read, or stays in memory."""
    forger, kinds = Forger(seed=20261123), Counter[str]()
    given = [forger.answer()]
    base = 0

    async def respond(_: httpx.Request) -> httpx.Response:
        return given[0].response()

    async with httpx.AsyncClient(base_url=BASE, transport=httpx.MockTransport(respond)) as http:
        desk = Desk(http, limit=0)
        for number in range(ANSWERS):
            given[0] = forger.answer()
            verb = ("poll", "poll", "update", "read")[number % 4]
            found = await ask(desk, verb)
            if verb == "poll":
                readable = given[0].claimed()
                got = found.id if isinstance(found, TaskExecution) else None
                assert got == readable or (readable is None and given[0].status // 100 == 2), (given[0], found)
            kinds[f"{verb} {type(found).__name__}"] += 1
            if number == ANSWERS - MEASURED:
                gc.collect()
                tracemalloc.start()
                base = tracemalloc.get_traced_memory()[0]
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - base
        tracemalloc.stop()
    assert grown < GROWTH
    # Of each kind there were many, so that the loop above has not been about one of them only.
    assert {kind for kind, count in kinds.items() if count > 30} >= {
        "poll TaskExecution", "poll NoneType", "poll AnswerUnreadable", "poll PlatformFailing", "poll RequestRefused",
        "poll KeyRefused", "poll RateLimited", "read TaskExecution", "read AnswerUnreadable", "update str",
        "update NoneType",
    }, kinds  # fmt: skip

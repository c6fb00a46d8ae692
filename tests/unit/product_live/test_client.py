"""The client: each verb is one request, and each answer becomes a value or an error of the tree."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import httpx
import pytest
import respx
from hypothesis import given, settings
from hypothesis import strategies as st

from product_live_worker.model.errors import (
    AnswerUnreadable,
    KeyRefused,
    PlatformError,
    PlatformFailing,
    PlatformUnreachable,
    RateLimited,
    RequestRefused,
    SettingsError,
)
from product_live_worker.model.execution import Outcome, Status
from product_live_worker.product_live.budget import Budget, MemoryLedger, Purpose
from product_live_worker.product_live.client import LARGEST_ANSWER, LONGEST_RETRY_AFTER, Client, is_loopback
from product_live_worker.telemetry.events import BudgetWaited, RequestAnswered
from support.clients import BASE, KEY, VERBS, Desk, desk_on
from support.virtual_time import run_virtually, settle

EXECUTION = {"object": "task_execution", "id": "e1", "taskId": "t1", "status": "IN_PROGRESS", "input": {"power": 3}}
TASK = {"object": "task", "id": "t1", "key": "power", "description": "", "retryCount": 0, "timeoutSeconds": 600}
PAGE = {"object": "list", "data": [TASK]}
ANSWERS = {
    "poll": EXECUTION,
    "read_execution": EXECUTION,
    "update_execution": {**EXECUTION, "status": "COMPLETED"},
    "list_tasks": PAGE,
    "read_task": TASK,
    "create_task": TASK,
    "update_task": TASK,
    "read_file": {"object": "data_factory_file", "id": "f1", "url": "https://store.test/f1"},
    "write_log": {"object": "log"},
}
DRAFTED = {"key": "power", "description": "2 to the power of", "retryCount": 0, "inputKeys": [], "outputKeys": []}
REQUESTS: dict[str, tuple[str, str, str, Any]] = {
    "poll": ("GET", "/v1/data_factory/tasks/t1/poll", "", None),
    "read_execution": ("GET", "/v1/data_factory/task_executions/e1", "", None),
    "update_execution": (
        "PATCH",
        "/v1/data_factory/task_executions/e1",
        "",
        {"id": "e1", "status": "COMPLETED", "output": {"result": 8}},
    ),
    "list_tasks": ("GET", "/v1/data_factory/tasks", "size=100&page=0", None),
    "read_task": ("GET", "/v1/data_factory/tasks/t1", "", None),
    "create_task": ("POST", "/v1/data_factory/tasks", "", DRAFTED),
    "update_task": ("PUT", "/v1/data_factory/tasks/t1", "", {"id": "t1", **DRAFTED}),
    "read_file": ("GET", "/v1/data_factory/files/f1", "", None),
    "write_log": (
        "POST",
        "/v1/data_factory/logs",
        "",
        {
            "message": "m",
            "emitterName": "power",
            "eventCorrelationId": "c1",
            "severity": "info",
            "messageType": "DEFAULT",
        },
    ),
}
PURPOSES = {
    "poll": "poll",
    "read_execution": "recover",
    "update_execution": "report",
    "list_tasks": "define",
    "read_task": "define",
    "create_task": "define",
    "update_task": "define",
    "read_file": "files",
    "write_log": "log",
}
NAMES = sorted(VERBS)


async def failing(name: str, answer: httpx.Response, **fields: Any) -> PlatformError:
    """Give the error with which a verb meets an answer."""
    async with desk_on(answer, **fields) as desk:
        with pytest.raises(PlatformError) as caught:
            await VERBS[name](desk)
    return caught.value


# ── The request. ──


@pytest.mark.parametrize("name", NAMES)
async def test_a_verb_is_one_request_with_its_method_path_query_headers_and_body(name: str) -> None:
    """What leaves is what the vendor documents, the key in its header only."""
    method, path, query, body = REQUESTS[name]
    router = respx.Router()
    route = router.route(method=method, host="api.platform.test", path=path).respond(200, json=ANSWERS[name])
    async with desk_on(router.async_handler) as desk:
        await VERBS[name](desk)
    sent = route.calls.last.request
    assert route.call_count == len(router.calls) == 1
    assert sent.url.query.decode() == query
    assert sent.headers["X-Api-Key"] == KEY
    assert KEY not in str(sent.url)
    assert sent.headers.get("Content-Type") == (None if body is None else "application/json")
    assert (json.loads(sent.content) if sent.content else None) == body


@pytest.mark.parametrize("name", NAMES)
async def test_a_verb_takes_a_slot_of_its_purpose(name: str) -> None:
    """Reports go before polls, and polls before definitions, because each verb names its own purpose."""
    async with desk_on(httpx.Response(200, json=ANSWERS[name])) as desk:
        await VERBS[name](desk)
    assert [event.purpose for event in desk.heard(BudgetWaited)] == [PURPOSES[name]]


@given(identifier=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_an_identifier_cannot_change_the_path(identifier: str) -> None:
    """Whatever an id is made of, `..` and `?` too, it stays one segment of the path."""
    paths = []

    async def note(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(404)

    async def poll() -> None:
        async with desk_on(note) as desk:
            await desk.poll(identifier)

    run_virtually(poll)
    before, task, after = paths[0].rpartition(b"/poll")[0].rpartition(b"/")[0], paths[0].split(b"/")[4], paths[0][-5:]
    assert (before, after) == (b"/v1/data_factory/tasks", b"/poll")
    assert paths[0].count(b"/") == 5
    assert not set(task) & set(b"?#.")


async def test_a_failure_is_reported_with_its_output() -> None:
    """A FAILED outcome goes out with message and code, as JSON that any server can read."""
    router = respx.Router()
    route = router.patch(path="/v1/data_factory/task_executions/e1").respond(200, json={})
    async with desk_on(router.async_handler) as desk:
        await desk.client.update_execution("e1", Outcome.failed("timeout", "Too late.", {"été": "\ud800"}))
    assert json.loads(route.calls.last.request.content) == {
        "id": "e1",
        "status": "FAILED",
        "output": {"message": "Too late.", "code": "timeout", "été": "\ud800"},
    }


# ── Success. ──


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 226, 299])
@pytest.mark.parametrize("name", NAMES)
async def test_any_2xx_is_success(name: str, status: int) -> None:
    """The documents give 201 where 200 is expected, and the generated client takes every 2xx."""
    async with desk_on(httpx.Response(status, json=ANSWERS[name])) as desk:
        assert (await VERBS[name](desk) is None) == (name == "write_log")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404),
        httpx.Response(404, json={"message": "not found"}),
        httpx.Response(404, html="<h1>Not found</h1>"),
        httpx.Response(204),
        httpx.Response(200),
        httpx.Response(200, content=b" \r\n"),
        httpx.Response(200, content=b"null", headers={"Content-Type": "application/json"}),
        httpx.Response(200, content=b" null\n", headers={"Content-Type": "text/html"}),
    ],
    ids=["404", "404 JSON", "404 HTML", "204", "empty", "blank", "null", "null as HTML"],
)
async def test_a_poll_that_finds_nothing_gives_none(answer: httpx.Response) -> None:
    """404, 204, an empty body and `null` all say that there is no work."""
    async with desk_on(answer) as desk:
        assert await desk.poll() is None


async def test_a_poll_gives_the_execution() -> None:
    """What the worker needs of an execution is read, and fields it does not know are left alone."""
    async with desk_on(httpx.Response(200, json=EXECUTION | {"new": {"field": 1}})) as desk:
        found = await desk.poll()
    assert found is not None
    assert (found.id, found.task_id, found.status, found.input) == ("e1", "t1", "IN_PROGRESS", {"power": 3})


@pytest.mark.parametrize("odd", [{"taskId": 7}, {"status": None}, {"status": ["x"]}, {"input": None}, {"input": [1]}])
async def test_what_the_worker_can_do_without_never_costs_a_claim(odd: dict[str, Any]) -> None:
    """Of a claimed execution only the id is indispensable: the rest may be of any type."""
    async with desk_on(httpx.Response(200, json=EXECUTION | odd)) as desk:
        found = await desk.poll()
    assert found is not None
    assert found.id == "e1"


@pytest.mark.parametrize(
    "kind", ["", "application/json; charset=utf-8", "application/problem+json", "APPLICATION/JSON"]
)
async def test_json_is_read_under_every_name_of_json(kind: str) -> None:
    """A content type may be absent, carry a charset, or be a kind of JSON."""
    headers = {"Content-Type": kind} if kind else {}
    async with desk_on(httpx.Response(200, content=json.dumps(EXECUTION), headers=headers)) as desk:
        assert await desk.poll() is not None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"id": "e1", "status": "COMPLETED"}', "COMPLETED"),
        (b'{"status": "CANCELED"}', "CANCELED"),
        (b"{}", None),
        (b'{"status": 3}', None),
        (b"", None),
        (b"null", None),
        (b"[]", None),
        (b"<html>ok</html>", None),
        (b'{"status": "COMP', None),
        (b"\xff", None),
    ],
)
async def test_a_2xx_on_a_report_is_believed_whatever_its_body(body: bytes, status: str | None) -> None:
    """A report that was taken in is not sent again because the answer cannot be read."""
    async with desk_on(httpx.Response(200, content=body)) as desk:
        assert await desk.client.update_execution("e1", Outcome(Status.COMPLETED, {})) == status


@pytest.mark.parametrize("size", [100, 10], ids=["pages of 100", "pages of 10 though 100 were asked for"])
@pytest.mark.parametrize("count", [0, 1, 9, 10, 99, 100, 101, 250])
async def test_all_tasks_of_an_account_are_listed(count: int, size: int) -> None:
    """Pages are read until one is short, even where the platform gives smaller pages than asked for."""

    async def page(request: httpx.Request) -> httpx.Response:
        first = int(request.url.params["page"]) * size
        some = [TASK | {"id": f"t{number}"} for number in range(first, min(first + size, count))]
        return httpx.Response(200, json={"object": "list", "data": some})

    async with desk_on(page) as desk:
        assert [task.id for task in await desk.client.list_tasks()] == [f"t{number}" for number in range(count)]


async def test_a_platform_that_ignores_the_page_is_not_read_for_ever() -> None:
    """The listing ends when a page brings nothing new."""
    many = [TASK | {"id": f"t{number}"} for number in range(30)]
    async with desk_on(httpx.Response(200, json={"data": many})) as desk:
        assert len(await desk.client.list_tasks()) == 30
    assert desk.ledger.notes.count("taken") == 2


@pytest.mark.parametrize(
    "odd",
    [
        {"description": None},
        {"inputKeys": None, "outputKeys": None},
        {"inputKeys": [{"key": "power", "description": None}]},
        {"timeoutSeconds": None, "retryCount": None, "timeoutPolicy": None},
    ],
)
async def test_a_null_in_a_definition_hides_no_task(odd: dict[str, Any]) -> None:
    """What a definition leaves open must not cost the account's whole list."""
    async with desk_on(httpx.Response(200, json={"data": [TASK | odd]})) as desk:
        assert [task.key for task in await desk.client.list_tasks()] == ["power"]


# ── Answers that cannot be read. ──

JSON = {"Content-Type": "application/json"}
UNREADABLE: dict[str, tuple[httpx.Response, str]] = {
    "HTML": (
        httpx.Response(200, html="<html>\n<b>Sign in</b>"),
        "200 with text/html where JSON is expected: <html> <b>Sign in</b>",
    ),
    "JSON called text": (httpx.Response(200, text="{}"), "200 with text/plain where JSON is expected: {}"),
    "truncated": (
        httpx.Response(200, content=b'{"id": "e1", "inp', headers=JSON),
        "200 with an unexpected body: the body: Invalid JSON: EOF while parsing a string",
    ),
    "no id": (httpx.Response(201, json={"status": "X"}), "201 with an unexpected body: id: Field required"),
    "empty id": (httpx.Response(200, json={"id": ""}), "id: String should have at least 1 character"),
    "number as id": (httpx.Response(200, json={"id": 7}), "id: Input should be a valid string"),
    "list": (httpx.Response(200, json=[EXECUTION]), "the body: Input should be an object"),
    "text": (httpx.Response(200, json="e1"), "the body: Input should be an object"),
    "true": (httpx.Response(200, content=b"true"), "the body: Input should be an object"),
    "no UTF-8": (httpx.Response(200, content=b'{"id": "\xff\xfe"}', headers=JSON), "Invalid JSON: invalid unicode"),
    "deep": (
        httpx.Response(200, content=b'{"id": "e1", "input": ' + b"[" * 100_000, headers=JSON),
        "Invalid JSON: recursion limit exceeded",
    ),
    "number without end": (
        httpx.Response(200, content=b'{"id": "e1", "input": ' + b"1" * 5000 + b"}", headers=JSON),
        "Invalid JSON: number out of range",
    ),
    "no gzip": (
        httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"{}")),
        "an answer in a broken encoding: DecodingError",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_an_unreadable_success_is_a_clear_error(kind: str) -> None:
    """What says success and is no execution becomes AnswerUnreadable, saying what came; a claim may be lost by it."""

    async def respond(_: httpx.Request) -> httpx.Response:
        return UNREADABLE[kind][0]

    async with desk_on(respond) as desk:
        with pytest.raises(AnswerUnreadable) as caught:
            await desk.poll()
    assert UNREADABLE[kind][1] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.perhaps_done


@pytest.mark.parametrize("name", ["read_execution", "list_tasks", "read_task", "create_task", "update_task"])
@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"<html>"])
async def test_nothing_is_no_answer_to_a_question(name: str, body: bytes) -> None:
    """Only a poll may find nothing, and only a report needs no body."""
    assert isinstance(await failing(name, httpx.Response(200, content=body)), AnswerUnreadable)


async def megabytes(count: int, chunk: bytes = b" " * 1_000_000) -> AsyncIterator[bytes]:
    """Give so many megabytes of blanks."""
    for _ in range(count):
        yield chunk


async def test_an_answer_of_the_largest_size_is_read_and_a_larger_one_refused() -> None:
    """An answer cannot fill the memory."""
    read = 0

    async def counted(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        nonlocal read
        async for chunk in chunks:
            read += len(chunk)
            yield chunk

    async def poll(size: int) -> Any:
        async def respond(_: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=counted(megabytes(size)))

        async with desk_on(respond) as desk:
            return await desk.poll()

    assert await poll(LARGEST_ANSWER // 1_000_000) is None
    with pytest.raises(AnswerUnreadable, match=f"larger than {LARGEST_ANSWER} bytes"):
        await poll(2 * LARGEST_ANSWER // 1_000_000)
    assert read == LARGEST_ANSWER + LARGEST_ANSWER + 1_000_000


async def test_a_packed_answer_counts_unpacked() -> None:
    """A few packed bytes cannot become a memory full of blanks."""
    packed = gzip.compress(b" " * (LARGEST_ANSWER + 1))
    answer = httpx.Response(200, stream=httpx.ByteStream(packed), headers={"Content-Encoding": "gzip"})

    async def respond(_: httpx.Request) -> httpx.Response:
        return answer

    async with desk_on(respond) as desk:
        with pytest.raises(AnswerUnreadable, match="larger than"):
            await desk.poll()


# ── Refusals. ──


@pytest.mark.parametrize(
    ("status", "kind", "perhaps_done"),
    [
        (301, RequestRefused, False),
        (302, RequestRefused, False),
        (304, RequestRefused, False),
        (308, RequestRefused, False),
        (400, RequestRefused, False),
        (401, KeyRefused, False),
        (403, KeyRefused, False),
        (405, RequestRefused, False),
        (408, PlatformFailing, True),
        (409, RequestRefused, False),
        (413, RequestRefused, False),
        (418, RequestRefused, False),
        (422, RequestRefused, False),
        (429, RateLimited, False),
        (500, PlatformFailing, True),
        (502, PlatformFailing, True),
        (503, PlatformFailing, True),
        (504, PlatformFailing, True),
        (599, PlatformFailing, True),
        (999, PlatformFailing, True),
    ],
)
@pytest.mark.parametrize("name", NAMES)
async def test_each_status_is_its_error(name: str, status: int, kind: type[PlatformError], perhaps_done: bool) -> None:
    """A status that is no success becomes the error of the tree that says what it means."""
    error = await failing(name, httpx.Response(status, json={"message": "because"}))
    assert type(error) is kind
    assert (error.code, error.perhaps_done) == (str(status), perhaps_done)
    assert str(error).startswith(str(status))
    assert 'because"}' in str(error)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "poll"])
async def test_not_found_is_a_refusal_except_for_a_poll(name: str) -> None:
    """Only the poll's 404 says that there is nothing to do."""
    assert type(await failing(name, httpx.Response(404))) is RequestRefused


async def test_the_excerpt_of_a_refusal_is_one_short_line() -> None:
    """An error page does not become a page of log."""
    error = await failing("poll", httpx.Response(500, html="<p>\n  sorry\x00\n</p>" * 1000))
    assert "\n" not in str(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("1e3", None),
        ("1_0", None),
        ("nan", None),
        ("inf", None),
        ("²", None),
        ("Mon, 32 Foo 2020 25:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),
        ("9" * 400, LONGEST_RETRY_AFTER),
    ],
)
async def test_retry_after_is_read_or_left(status: int, said: str | None, seconds: float | None) -> None:
    """Seconds and dates are obeyed up to an hour, the past is now, and nonsense is as if nothing had been said."""
    headers = {} if said is None else {"Retry-After": said.encode()}
    assert (await failing("poll", httpx.Response(status, headers=headers))).retry_after == seconds  # type: ignore[arg-type]


async def test_a_date_to_retry_after_is_seconds_from_now() -> None:
    """An HTTP date means what it says by this machine's clock."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    found = (await failing("poll", httpx.Response(429, headers={"Retry-After": date}))).retry_after
    assert found is not None
    assert 590 < found <= 600


def test_a_429_holds_back_every_request() -> None:
    """After a 429 nobody sends anything until the platform allows it again."""

    async def work() -> float:
        async with desk_on(httpx.Response(429, headers={"Retry-After": "30"})) as desk:
            with pytest.raises(RateLimited):
                await desk.poll()
            with pytest.raises(RateLimited):
                await desk.client.update_execution("e1", Outcome.completed({}))
        return anyio.current_time()

    assert run_virtually(work) == 30


# ── The key. ──


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 409, 413, 429, 500, 503])
@pytest.mark.parametrize("blanks", [0, 1990])
@pytest.mark.parametrize("name", NAMES)
async def test_the_key_is_in_no_error(name: str, status: int, blanks: int) -> None:
    """A platform, or a proxy before it, that repeats our headers does not bring the key into a log."""
    body = b" " * blanks + f"<p>you sent X-Api-Key: {KEY}</p>".encode()
    async with desk_on(httpx.Response(status, content=body, headers={"Content-Type": "text/html"})) as desk:
        told = ""
        try:
            await VERBS[name](desk)
        except PlatformError as error:
            told = str(error) + repr(error)
        assert "key-0" not in told
        assert "key-0" not in repr(desk.events)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_read_again(status: int) -> None:
    """A key rotated in its file is used from the next request on, without a restart."""
    sent = []

    async def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["X-Api-Key"])
        return httpx.Response(404 if sent[-1] == "new" else status, text=f"{sent[-1]} is refused")

    async with desk_on(respond, keys=["old", "new"]) as desk:
        with pytest.raises(KeyRefused) as caught:
            await desk.poll()
        assert await desk.poll() is None
    assert sent == ["old", "new"]
    assert "old" not in str(caught.value)


async def test_a_key_file_that_is_away_for_a_moment_changes_nothing() -> None:
    """In the middle of a rotation the old key stays, and the error is the platform's."""
    there = True

    def read_key() -> str:
        if not there:
            raise SettingsError("api.key_file: no such file")
        return KEY

    async with httpx.AsyncClient(base_url=BASE, transport=httpx.MockTransport(lambda _: httpx.Response(401))) as http:
        budget = Budget(MemoryLedger(now=anyio.current_time), limit=0, window=60, longest_request=22)
        client = Client(http, budget, read_key=read_key, total_timeout=20, emit=lambda _: None)
        there = False
        for _ in range(2):
            with pytest.raises(KeyRefused):
                await client.read_task("t1")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    """A loopback address is one in every spelling."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["api.product-live.com", "localhost.example.com", "10.0.0.1", "0.0.0.0", "", "127"])  # noqa: S104
def test_others_are_not_this_machine(host: str) -> None:
    """A name that looks local is not."""
    assert not is_loopback(host)


# ── No answer: what may have been done, and whose slot is whose. ──


@pytest.mark.parametrize(
    ("error", "perhaps_done"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.ConnectTimeout(""), False),
        (httpx.PoolTimeout("full"), False),
        (httpx.ProxyError("403 Forbidden"), False),
        (httpx.UnsupportedProtocol("ftp"), False),
        (httpx.LocalProtocolError("illegal"), False),
        (httpx.ReadTimeout(""), True),
        (httpx.WriteTimeout(""), True),
        (httpx.ReadError("cut"), True),
        (httpx.WriteError("cut"), True),
        (httpx.CloseError("cut"), True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
@pytest.mark.parametrize("name", NAMES)
async def test_what_was_never_sent_costs_no_slot_and_what_perhaps_was_does(
    name: str, error: httpx.TransportError, perhaps_done: bool
) -> None:
    """A request that certainly never left gives its slot back; any other keeps it and may have had its effect."""

    async def respond(_: httpx.Request) -> httpx.Response:
        raise error

    async with desk_on(respond) as desk:
        with pytest.raises(PlatformUnreachable) as caught:
            await VERBS[name](desk)
    assert caught.value.perhaps_done is perhaps_done
    assert str(caught.value) == f"{type(error).__name__}: {error}".removesuffix(": ")
    assert desk.ledger.notes == (["taken"] if perhaps_done else ["taken", "given back"])
    assert [event.code for event in desk.heard(RequestAnswered)] == ["unreachable"]


@pytest.mark.parametrize("status", [200, 204, 302, 404, 429, 500])
async def test_an_answered_request_frees_its_slot_a_window_later(status: int) -> None:
    """Any answer, also a refusal, says that the request is no longer under way."""
    async with desk_on(httpx.Response(status)) as desk:
        try:
            await desk.poll()
        except PlatformError as error:
            assert error.code == str(status)  # noqa: PT017
    assert desk.ledger.notes == ["taken", "answered"]
    assert [event.code for event in desk.heard(RequestAnswered)] == [str(status)]


def test_no_request_leaves_without_a_slot() -> None:
    """Of five requests at once with a limit of four, the fifth leaves a window after the first answer."""
    left: list[float] = []

    async def respond(_: httpx.Request) -> httpx.Response:
        left.append(anyio.current_time())
        await anyio.sleep(0.5)
        return httpx.Response(200, json=EXECUTION)

    async def work() -> None:
        async with desk_on(respond, limit=4) as desk, anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(desk.client.read_execution, "e1", Purpose.RECOVER)

    run_virtually(work)
    assert left == [0, 0, 0, 0, 60.5]


async def drip(every: float) -> AsyncIterator[bytes]:
    """Give a blank now and then, for ever."""
    while True:
        yield b" "
        await anyio.sleep(every)


def test_the_total_deadline_ends_a_server_that_dribbles() -> None:
    """An answer that never ends is given up after the total timeout, its slot being held and its effect unknown."""

    async def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=drip(1.0))

    async def work() -> tuple[float, str, list[str]]:
        async with desk_on(respond, total_timeout=20.0) as desk:
            with pytest.raises(PlatformUnreachable) as caught:
                await desk.poll()
            assert caught.value.perhaps_done
            return anyio.current_time(), str(caught.value), desk.ledger.notes

    assert run_virtually(work) == (20.0, "no answer within 20 s", ["taken"])


def test_a_server_that_says_nothing_is_given_up() -> None:
    """Silence ends with the total timeout too."""

    async def respond(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    async def work() -> float:
        async with desk_on(respond, total_timeout=7.0) as desk:
            with pytest.raises(PlatformUnreachable, match="no answer within 7 s"):
                await desk.client.update_execution("e1", Outcome.completed({}))
            return anyio.current_time()

    assert run_virtually(work) == 7.0


def test_a_cancelled_request_keeps_its_slot() -> None:
    """Who stops waiting for an answer does not take the request back."""

    async def respond(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    async def work() -> Desk:
        async with desk_on(respond) as desk, anyio.create_task_group() as tasks:
            tasks.start_soon(desk.client.read_execution, "e1", Purpose.RECOVER)
            await settle()
            tasks.cancel_scope.cancel()
        return desk

    desk = run_virtually(work)
    assert desk.ledger.notes == ["taken"]
    assert [event.code for event in desk.heard(RequestAnswered)] == ["cancelled"]


# ── Whatever comes. ──

HEADERS = st.dictionaries(
    st.sampled_from(["Content-Type", "Retry-After", "Content-Encoding", "Location", "Set-Cookie"]),
    st.one_of(
        st.sampled_from([b"application/json", b"text/html", b"gzip", b"deflate", b"zstd", b"http://127.0.0.1/x"]),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=40).map(
            lambda text: text.encode("latin-1")
        ),
        st.datetimes().map(lambda moment: format_datetime(moment).encode()),
    ),
)
SNIPPETS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "status", "data", "key"]), inner)
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
BODIES = st.one_of(st.binary(max_size=200), SNIPPETS, SNIPPETS.map(gzip.compress))


@pytest.mark.parametrize("name", ["poll", "read_execution", "update_execution", "list_tasks"])
@given(status=st.integers(100, 999), headers=HEADERS, body=BODIES)
@settings(max_examples=150, deadline=None)
def test_no_answer_can_raise_anything_but_a_platform_error(
    name: str, status: int, headers: dict[str, bytes], body: bytes
) -> None:
    """Whatever bytes a server sends, a stage meets a value or a PlatformError with one line of text."""

    async def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=list(headers.items()), stream=httpx.ByteStream(body))  # type: ignore[arg-type]

    async def work() -> None:
        async with desk_on(respond) as desk:
            try:
                await VERBS[name](desk)
            except PlatformError as error:
                assert str(error)  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017

    run_virtually(work)

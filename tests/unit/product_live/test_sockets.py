"""The client on a real connection: redirects, proxies, TLS, keep-alive, and connections that are cut."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from product_live_worker.model.errors import AnswerUnreadable, PlatformUnreachable, RequestRefused, SettingsError
from product_live_worker.model.execution import Outcome
from product_live_worker.product_live.client import KEEP_ALIVE, open_http
from support.clients import KEY, Desk
from support.raw_server import (
    CA_FILE,
    RawServer,
    Request,
    answer,
    broken_tls,
    connect_proxy,
    raw_server,
    saying,
)

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
CLAIM = json.dumps({"id": "e1", "input": {"power": 3}}).encode()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test without the proxies of the machine it runs on."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def desk_at(
    base_url: str, *, ca_file: Path | None = None, connect_timeout: float = 5.0, total_timeout: float = 10.0
) -> AsyncIterator[Desk]:
    """Give a client as the daemon opens it."""
    async with open_http(
        base_url, connect_timeout=connect_timeout, total_timeout=total_timeout, ca_file=ca_file, user_agent="test/1"
    ) as http:
        yield Desk(http, total_timeout=total_timeout)


# ── The plain way. ──


async def test_a_request_on_the_wire_is_what_the_vendor_documents() -> None:
    """The bytes that leave are one request, asking for plain JSON, with the key in its header only."""
    async with raw_server(saying(answer(body=b"{}"))) as server, desk_at(server.url()) as desk:
        await desk.client.update_execution("e1", Outcome.completed({"name": "été"}))
    (sent,) = server.requests
    assert (sent.method, sent.target) == ("PATCH", "/v1/data_factory/task_executions/e1")
    assert sent.headers["x-api-key"] == KEY
    assert sent.headers["accept"] == sent.headers["content-type"] == "application/json"
    assert sent.headers["accept-encoding"] == "identity"
    assert sent.headers["user-agent"] == "test/1"
    assert json.loads(sent.body) == {"id": "e1", "status": "COMPLETED", "output": {"name": "été"}}


async def test_a_path_of_the_base_url_stays_before_every_path() -> None:
    """A platform behind a gateway's prefix is reached under it."""
    async with raw_server(saying(answer("404 Not Found"))) as server, desk_at(server.url() + "/gate/way") as desk:
        await desk.poll()
    assert [request.target for request in server.requests] == ["/gate/way/v1/data_factory/tasks/t1/poll"]


@pytest.mark.parametrize(
    "said",
    [
        answer(body=CLAIM),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(CLAIM), CLAIM),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(CLAIM), CLAIM),
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(body=CLAIM),
    ],
    ids=["with its length", "in chunks", "with a close", "after a hint"],
)
async def test_an_answer_is_read_in_every_framing(said: bytes) -> None:
    """How a server frames its answer is its own affair."""
    async with raw_server(saying(said)) as server, desk_at(server.url()) as desk:
        found = await desk.poll()
    assert found is not None
    assert found.id == "e1"


@pytest.mark.parametrize(
    "cookie", [b"session=1", b"session=\x80", b"\x80", b"a=b; Domain=.0.0.1; Max-Age=99999999999999"]
)
async def test_a_cookie_is_never_kept(cookie: bytes) -> None:
    """What a server, or a proxy before it, would have us keep changes no later request."""
    said = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nSet-Cookie: " + cookie + b"\r\n\r\n"
    async with raw_server(saying(said)) as server, desk_at(server.url()) as desk:
        for _ in range(2):
            assert await desk.poll() is None
    assert not any("cookie" in request.headers for request in server.requests)


# ── Redirects. ──


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_never_followed(status: str) -> None:
    """The key goes to no other host, nor is a poll sent twice; the error says why."""
    async with raw_server(saying(answer())) as other:
        redirect = answer(status, b"", f"Location: {other.url()}/elsewhere")
        async with raw_server(saying(redirect)) as server, desk_at(server.url()) as desk:
            with pytest.raises(RequestRefused, match="redirects are not followed"):
                await desk.poll()
    assert len(server.requests) == 1
    assert other.connections == 0


# ── Connections that are cut: no transport ever sends a poll again. ──


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
    ],
    ids=["before the answer", "in its head", "in its body", "in a chunk", "after no HTTP", "after a broken status"],
)
@pytest.mark.parametrize("polls_before", [0, 1], ids=["a new connection", "a used connection"])
async def test_a_poll_whose_connection_is_cut_is_never_sent_again(polls_before: int, said: bytes) -> None:
    """The execution may be claimed: the caller learns that, the slot stays held, and nothing is repeated."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) <= polls_before:
            writer.write(answer("404 Not Found"))
            return
        writer.write(said)
        await writer.drain()
        writer.close()

    async with raw_server(respond) as server, desk_at(server.url()) as desk:
        for _ in range(polls_before):
            assert await desk.poll() is None
        with pytest.raises(PlatformUnreachable) as caught:
            await desk.poll()
    assert caught.value.perhaps_done
    assert len(server.requests) == polls_before + 1
    assert desk.ledger.notes == ["taken", "answered"] * polls_before + ["taken"]


async def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    """A poll goes out on a connection that still stands, when the end of the last one has been seen."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("404 Not Found"))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    closed = anyio.Event()
    async with raw_server(respond) as server, desk_at(server.url()) as desk:
        assert await desk.poll() is None
        await closed.wait()
        assert await desk.poll() is None
    assert [request.connection for request in server.requests] == [0, 1]


async def test_polls_in_a_row_share_a_connection_and_later_ones_do_not() -> None:
    """A connection is kept for the next request, but not once it has been idle for KEEP_ALIVE seconds."""
    async with raw_server(saying(answer("404 Not Found"))) as server, desk_at(server.url()) as desk:
        await desk.poll()
        await desk.poll()
        # The passing of real time is what this is about; more of it would change nothing.
        await anyio.sleep(KEEP_ALIVE + 0.2)
        await desk.poll()
    assert [request.connection for request in server.requests] == [0, 0, 1]


async def test_where_nobody_listens_nothing_was_done() -> None:
    """A refused connection costs no slot."""
    async with raw_server(saying(answer())) as server:
        pass
    async with desk_at(server.url()) as desk:
        with pytest.raises(PlatformUnreachable, match="ConnectError") as caught:
            await desk.poll()
    assert not caught.value.perhaps_done
    assert desk.ledger.notes == ["taken", "given back"]


async def test_a_dribbling_server_is_given_up_and_its_connection_closed() -> None:
    """The total timeout holds on a real connection, which is not used again."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\n \r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(respond) as server, desk_at(server.url(), total_timeout=0.2) as desk:
        for _ in range(2):
            with pytest.raises(PlatformUnreachable, match=r"no answer within 0\.2 s"):
                await desk.poll()
    assert [request.connection for request in server.requests] == [0, 1]


async def test_an_answer_that_came_while_the_process_was_stopped_is_read() -> None:
    """Its deadline is past when it wakes up, and yet a claim lies in its buffers that nobody else would ever run."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(body=CLAIM))
        # Nothing in this process runs for so long, as under SIGSTOP; the kernel goes on.
        time.sleep(2.5)  # noqa: ASYNC251 (as said)

    async with raw_server(respond) as server, desk_at(server.url(), total_timeout=1.0) as desk:
        claimed = await desk.poll()
    assert claimed is not None
    assert claimed.id == "e1"
    assert desk.ledger.notes == ["taken", "answered"]


# ── TLS. ──


async def test_a_platform_under_the_given_ca_is_trusted() -> None:
    """A company's own CA is honoured through its file."""
    async with (
        raw_server(saying(answer(body=CLAIM)), tls=True) as server,
        desk_at(server.url("https"), ca_file=CA_FILE) as desk,
    ):
        assert await desk.poll() is not None


async def test_a_platform_under_an_unknown_ca_gets_no_request() -> None:
    """Without the CA's file nothing is sent, and nothing was done."""
    async with raw_server(saying(answer()), tls=True) as server, desk_at(server.url("https")) as desk:
        with pytest.raises(PlatformUnreachable, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await desk.poll()
    assert not caught.value.perhaps_done
    assert server.requests == []
    assert desk.ledger.notes == ["taken", "given back"]


async def test_tls_that_breaks_after_the_request_is_no_crash() -> None:
    """An error of TLS in the middle is an unreachable platform, and the poll may have had its effect."""
    async with broken_tls() as server, desk_at(server.url("https"), ca_file=CA_FILE) as desk:
        with pytest.raises(PlatformUnreachable) as caught:
            await desk.poll()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    assert caught.value.perhaps_done
    assert server.connections == 1


async def test_tls_where_plain_http_is_spoken_is_no_crash() -> None:
    """A wrong scheme is an unreachable platform, and nothing was done."""
    async with (
        raw_server(saying(answer())) as server,
        desk_at(server.url("https"), ca_file=CA_FILE, connect_timeout=0.2) as desk,
    ):
        with pytest.raises(PlatformUnreachable, match="ConnectTimeout") as caught:
            await desk.poll()
    assert not caught.value.perhaps_done
    assert server.requests == []


# ── Proxies. ──


@asynccontextmanager
async def platform_behind_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, *, refusing: bool = False
) -> AsyncIterator[tuple[RawServer, RawServer]]:
    """Give a platform that is reached through a proxy only, and the proxy, which the environment names."""
    async with (
        raw_server(saying(answer(body=CLAIM)), tls=True) as platform,
        connect_proxy(platform.port, refusing=refusing) as proxy,
    ):
        monkeypatch.setenv(variable, proxy.url())
        yield platform, proxy


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_the_proxy_of_the_environment_is_honoured(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """In a closed network requests go through the proxy's tunnel, which sees the host and never the key."""
    async with (
        platform_behind_proxy(monkeypatch, variable) as (platform, proxy),
        desk_at("https://platform.test", ca_file=CA_FILE) as desk,
    ):
        assert await desk.poll() is not None
    (connect,) = proxy.requests
    assert (connect.method, connect.target) == ("CONNECT", "platform.test:443")
    assert KEY not in repr(connect)
    assert [request.headers["x-api-key"] for request in platform.requests] == [KEY]


async def test_a_platform_behind_a_proxy_must_prove_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate for another host gets no request."""
    async with (
        platform_behind_proxy(monkeypatch, "HTTPS_PROXY") as (platform, _),
        desk_at("https://other.test", ca_file=CA_FILE) as desk,
    ):
        with pytest.raises(PlatformUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await desk.poll()
    assert platform.requests == []


async def test_a_poll_that_the_proxy_refuses_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused tunnel is no ambiguous claim and costs no slot."""
    async with (
        platform_behind_proxy(monkeypatch, "HTTPS_PROXY", refusing=True) as (platform, _),
        desk_at("https://platform.test", ca_file=CA_FILE) as desk,
    ):
        with pytest.raises(PlatformUnreachable, match="403 Forbidden") as caught:
            await desk.poll()
    assert not caught.value.perhaps_done
    assert desk.ledger.notes == ["taken", "given back"]
    assert platform.connections == 0


async def test_this_machine_is_reached_without_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is not asked for the loopback, which it could not reach."""
    async with raw_server(saying(answer("404 Not Found"))) as server, connect_proxy(server.port) as proxy:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url())
        for host in ("127.0.0.1", "localhost"):
            async with desk_at(server.url(host=host)) as desk:
                assert await desk.poll() is None
    assert proxy.connections == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "ftp://127.0.0.1", "http://127.0.0.1:port"])
async def test_a_proxy_that_cannot_be_used_is_a_mistake_in_the_settings(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """The operator is told which variable is wrong and what is allowed, not shown a traceback."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(SettingsError, match=r"HTTPS_PROXY.*allowed is http://HOST:PORT"):
        async with desk_at("https://platform.test"):
            pass


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    """A server that sends without end is left after the largest answer."""

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"100000\r\n" + bytes(0x100000) + b"\r\n")
            await writer.drain()

    async with raw_server(respond) as server, desk_at(server.url()) as desk:
        with pytest.raises(AnswerUnreadable, match="larger than"):
            await desk.poll()
    assert len(server.requests) == 1

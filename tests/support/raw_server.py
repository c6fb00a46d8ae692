"""A server on a real socket that says, byte by byte, what a test tells it to, and a proxy that knows CONNECT."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

CERTIFICATES = Path(__file__).parent / "certificates"
CA_FILE = CERTIFICATES / "ca.pem"
"""The CA whose word counts for `platform.test`, localhost and 127.0.0.1, until 2120; its own key is lost."""


@dataclass
class Request:
    """A request as it came; `connection` counts from 0."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Respond = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """What a listening server has seen."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    def url(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        """Give the address under which it is reached."""
        return f"{scheme}://{host}:{self.port}"


def answer(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """Give the bytes of an answer that keeps the connection."""
    head = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers)
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def saying(*answers: bytes) -> Respond:
    """Say these answers in turn, the last one again and again; after an empty one the connection is cut."""
    left = list(answers)

    async def respond(_: Request, writer: asyncio.StreamWriter) -> None:
        said = left.pop(0) if len(left) > 1 else left[0]
        writer.write(said)
        if not said:
            writer.close()

    return respond


@asynccontextmanager
async def raw_server(respond: Respond, *, tls: bool = False) -> AsyncIterator[RawServer]:
    """Listen on the loopback until the block ends; each request is noted before `respond` is asked."""
    server = RawServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = server.connections
        server.connections += 1
        while (request := await _read_request(reader, connection)) is not None:
            server.requests.append(request)
            await respond(request, writer)
            await writer.drain()

    async with _listening(serve, _server_context() if tls else None) as server.port:
        yield server


@asynccontextmanager
async def connect_proxy(to_port: int, *, refusing: bool = False) -> AsyncIterator[RawServer]:
    """Be a proxy that takes every CONNECT to this port of the loopback, whatever host was asked for, or refuses it."""
    proxy = RawServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read_request(reader, proxy.connections)
        proxy.connections += 1
        if request is None:
            return
        proxy.requests.append(request)
        if refusing:
            writer.write(answer("403 Forbidden"))
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", to_port)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            far_writer.transport.abort()
            with contextlib.suppress(OSError):
                await far_writer.wait_closed()

    async with _listening(serve, None) as proxy.port:
        yield proxy


@asynccontextmanager
async def broken_tls() -> AsyncIterator[RawServer]:
    """Listen with TLS, and answer with bytes that are no TLS record of this connection."""
    server = RawServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = _server_context().wrap_bio(incoming, outgoing, server_side=True)
        done = False
        while not done:
            incoming.write(await reader.read(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                session.do_handshake()
                done = True
            writer.write(outgoing.read())
        await reader.read(65536)
        writer.write(b"\x17\x03\x03\x00\x20" + bytes(32))

    async with _listening(serve, None) as server.port:
        yield server


@asynccontextmanager
async def _listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], context: ssl.SSLContext | None
) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that leaves in the middle is what many tests are about.
        try:
            with contextlib.suppress(OSError, EOFError):
                await serve(reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            # Whoever is still connected when the test ends is hung up on.
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(connection, method, target, headers, body)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATES / "platform.test.pem")
    return context

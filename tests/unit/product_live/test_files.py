"""Files on real connections: who gets the key, what is followed, what is tried again, and what ends a transfer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_worker import File, Files, TransferFailed
from product_live_worker.model.files import no_transfers, read_answer
from product_live_worker.product_live.budget import Purpose
from product_live_worker.product_live.client import open_http
from product_live_worker.product_live.files import Transfers
from product_live_worker.product_live.upload import Upload, opened
from product_live_worker.product_live.way import Progress, Trouble, Way, open_transfers_http
from product_live_worker.telemetry.events import RequestAnswered
from support.clients import KEY, Desk
from support.contexts import Lines
from support.raw_server import CA_FILE, RawServer, Request, answer, raw_server, saying
from support.workers import until

pytestmark = pytest.mark.anyio

ID = hashlib.sha256(b"hello").hexdigest()
API = "/v1/data_factory/files"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@dataclass
class Mover:
    """A handler's `context.files` on a platform that a test makes up."""

    files: Files
    way: Way
    desk: Desk
    workdir: Path
    log: Lines = field(default_factory=Lines)
    pauses: list[float] = field(default_factory=list)


@asynccontextmanager
async def mover(base_url: str, workdir: Path, **options: Any) -> AsyncIterator[Mover]:
    """Give what moves files for this platform; options are those of Way and Transfers."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            open_http(base_url, connect_timeout=5, total_timeout=20, ca_file=CA_FILE, user_agent="test")
        )
        way_http = await stack.enter_async_context(
            open_transfers_http(base_url, connect_timeout=5, ca_file=CA_FILE, user_agent="test")
        )
        desk = Desk(http, keys=options.pop("keys", [KEY]))
        way = Way(
            way_http,
            desk.client,
            desk.budget,
            base_url=base_url,
            hosts=options.pop("hosts", ()),
            emit=desk.events.append,
        )
        bounds = {"max_download": 1_000_000, "max_upload": 1_000_000, **options}
        transfers, log = Transfers(way, **bounds, pause=pause), Lines()
        verbs = transfers.verbs(workdir / "work", log)

        async def ask(name: str, argument: Any, read: Callable[[Any], Any]) -> Any:
            # As JSON, as it comes from another process.
            return read_answer(await verbs[name](json.loads(json.dumps(argument))), read)

        yield Mover(Files(ask), way, desk, workdir / "work", log, pauses)


async def refused(transfer: Any) -> TransferFailed:
    """Give why a transfer fails; what it leaves behind is nothing."""
    with pytest.raises(TransferFailed) as caught:
        await transfer
    return caught.value


def routed(**routes: bytes) -> Callable[[Request, asyncio.StreamWriter], Any]:
    """Answer by the last part of the path."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        last = request.target.partition("?")[0].rpartition("/")[2]
        writer.write(routes.get(last, answer("404 Not Found")))

    return respond


def keys_seen(server: RawServer) -> list[str | None]:
    """Give the key of each request that came."""
    return [request.headers.get("x-api-key") for request in server.requests]


# Down


async def test_a_file_of_the_platform_is_downloaded_with_the_key_in_slots_of_the_budget(tmp_path: Path) -> None:
    """By its id: its link is asked for, then its content; each takes a slot, and both are counted requests."""
    record = json.dumps({"id": ID, "filename": "hello.txt"}).encode()
    async with (
        raw_server(routed(**{ID: answer(body=record), "content": answer(body=b"hello")}), tls=True) as platform,
        mover(platform.url("https"), tmp_path) as it,
    ):
        path = await it.files.download(ID)
    assert (path.read_bytes(), path.parent) == (b"hello", it.workdir)
    assert stat.S_IMODE(it.workdir.stat().st_mode) == 0o700
    assert keys_seen(platform) == [KEY, KEY]
    assert it.desk.ledger.notes == ["taken", "answered"] * 2
    assert [(e.operation, e.code) for e in it.desk.heard(RequestAnswered)] == [
        ("read_file", "200"),
        ("download_file", "200"),
    ]
    assert it.log.said("file downloaded")[0]["bytes"] == 5


async def test_another_host_gets_no_key_and_costs_no_slot(tmp_path: Path) -> None:
    """Whatever the address looks like."""
    async with (
        raw_server(saying(answer(body=b"hello")), tls=True) as platform,
        raw_server(saying(answer(body=b"theirs")), tls=True) as other,
        mover(platform.url("https"), tmp_path) as it,
    ):
        path = await it.files.download({"url": f"{other.url('https')}{API}/{ID}/content", "filename": "a.txt"})
    assert path.read_bytes() == b"theirs"
    assert (keys_seen(other), platform.requests, it.desk.ledger.notes) == ([None], [], [])


async def test_a_redirect_to_another_host_is_followed_without_the_key(tmp_path: Path) -> None:
    """As to a store whose link is signed."""
    async with raw_server(saying(answer(body=b"hello")), tls=True) as other:
        moved = answer("302 Found", b"", f"Location: {other.url('https')}/signed?secret=1")
        async with raw_server(saying(moved), tls=True) as platform, mover(platform.url("https"), tmp_path) as it:
            path = await it.files.download(f"{platform.url('https')}{API}/{ID}/content")
    assert (path.read_bytes(), path.name) == (b"hello", "file")
    assert (keys_seen(platform), keys_seen(other)) == ([KEY], [None])
    assert it.desk.ledger.notes == ["taken", "answered"]


@pytest.mark.parametrize(
    ("location", "code", "words"),
    [
        ("http://127.0.0.1:1/a", "file_refused", "by https only"),
        ("ftp://127.0.0.1/a", "file_refused", "by https only"),
        ("/again", "file_unavailable", "more than 5 times"),
    ],
)
async def test_a_redirect_that_leads_nowhere_good_is_not_followed(
    tmp_path: Path, location: str, code: str, words: str
) -> None:
    """Not out of https, and not for ever."""
    async with (
        raw_server(saying(answer("302 Found", b"", f"Location: {location}")), tls=True) as platform,
        mover(platform.url("https"), tmp_path) as it,
    ):
        failed = await refused(it.files.download(f"{platform.url('https')}/a"))
    assert (failed.code, words in failed.message) == (code, True)
    assert len(platform.requests) <= 6


async def test_a_redirect_never_leaves_https(tmp_path: Path) -> None:
    """Not even to a host that may be asked by http."""
    async with (
        raw_server(saying(answer("302 Found", b"", "Location: http://127.0.0.1:1/a")), tls=True) as other,
        mover("https://api.platform.test", tmp_path, hosts=("127.0.0.1",)) as it,
    ):
        failed = await refused(it.files.download(f"{other.url('https')}/a"))
    assert (failed.code, "from https to http" in failed.message) == ("file_refused", True)


async def test_an_address_of_the_platform_with_http_is_asked_by_https(tmp_path: Path) -> None:
    """Job definitions show such addresses; the key never leaves in clear."""
    async with mover("https://api.platform.test", tmp_path) as it:
        failed = await refused(it.files.download({"url": f"http://api.platform.test{API}/{ID}/content"}))
    # No such host: it was looked up for a connection by https, in a slot, which is given back unsent.
    assert failed.code == "file_unavailable"
    assert it.desk.ledger.notes == ["taken", "given back"] * 3
    assert it.pauses == [1.0, 2.0]


@pytest.mark.parametrize(
    ("hosts", "url", "allowed"),
    [
        ((), "http://{host}/a", False),
        (("127.0.0.1",), "http://{host}/a", True),
        (("elsewhere.test",), "http://{host}/a", False),
        (("*.test", "127.0.0.1"), "http://{host}/a", True),
        (("127.0.0.1",), "https://169.254.169.254/latest", False),
        ((), "http://169.254.169.254/latest", False),
        ((), "http://[::1", None),
    ],
)
async def test_hosts_are_asked_as_the_settings_say(
    tmp_path: Path, hosts: tuple[str, ...], url: str, allowed: bool | None
) -> None:
    """Without names, any by https; with names, those alone, by http too. The refusal names host and setting."""
    async with (
        raw_server(saying(answer(body=b"hello"))) as other,
        mover("https://api.platform.test", tmp_path, hosts=hosts) as it,
    ):
        download = it.files.download(url.format(host=f"127.0.0.1:{other.port}"), sha256=None) if allowed else None
        if download is not None:
            assert (await download).read_bytes() == b"hello"
        elif allowed is None:
            with pytest.raises(ValueError, match="64 hexadecimal"):
                await it.files.download(url)
        else:
            failed = await refused(it.files.download(url.format(host=f"127.0.0.1:{other.port}")))
            assert (failed.code, "files.hosts" in failed.message) == ("file_refused", True)
            assert other.requests == []


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone"])
async def test_a_link_that_has_expired_is_renewed_once(tmp_path: Path, status: str) -> None:
    """By the file's id; a second refusal is the end."""
    renewals = 0

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal renewals
        if request.target == f"{API}/{ID}":
            renewals += 1
            fresh = f"{platform.url('https')}/{'fresh' if renewals == 1 else 'old'}"
            writer.write(answer(body=json.dumps({"id": ID, "url": fresh}).encode()))
        else:
            writer.write(answer(body=b"hello") if request.target == "/fresh" else answer(status))

    async with raw_server(respond, tls=True) as platform, mover(platform.url("https"), tmp_path) as it:
        old = {"object": "data_factory_file", "id": ID, "url": f"{platform.url('https')}/old"}
        assert (await it.files.download(old)).read_bytes() == b"hello"
        failed = await refused(it.files.download(old))
    assert (failed.code, status[:3] in failed.message, renewals) == ("file_unavailable", True, 2)
    assert [path.name for path in it.workdir.iterdir()] == ["old"]


async def test_a_file_that_the_platform_does_not_have_is_told_at_once(tmp_path: Path) -> None:
    """Asking again is of no use; the message names the file by its id."""
    async with (
        raw_server(saying(answer("404 Not Found", b'{"message": "no file"}')), tls=True) as platform,
        mover(platform.url("https"), tmp_path) as it,
    ):
        failed = await refused(it.files.download(ID))
    assert failed.message.startswith(f"The file {ID[:12]}… cannot be downloaded: Product-Live does not have it")
    assert len(platform.requests) == 1


async def test_what_passes_by_itself_is_tried_again(tmp_path: Path) -> None:
    """A server that fails, and a connection that breaks in the middle; the file is whole, and there is one."""
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
    busy = answer("503 Service Unavailable", b"", "Retry-After: 7")
    said = saying(busy, half, answer(body=b"0123456789"))

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        await said(request, writer)
        await writer.drain()
        writer.close()

    async with raw_server(respond, tls=True) as other, mover("https://api.platform.test", tmp_path) as it:
        path = await it.files.download(f"{other.url('https')}/a.bin")
    assert path.read_bytes() == b"0123456789"
    assert list(it.workdir.iterdir()) == [path]
    assert it.pauses == [7.0, 2.0]


async def test_it_is_given_up_after_three_attempts_in_words_without_the_address(tmp_path: Path) -> None:
    """The query of an address may be a secret."""
    async with (
        raw_server(saying(answer("500 Internal Server Error")), tls=True) as other,
        mover("https://api.platform.test", tmp_path) as it,
    ):
        failed = await refused(it.files.download(f"{other.url('https')}/private/a.bin?signature=topsecret"))
    assert failed.message == ("The file at 127.0.0.1 cannot be downloaded (3 attempts): 500 Internal Server Error")
    assert len(other.requests) == 3


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_that_is_too_large_is_not_kept(tmp_path: Path, announced: bool) -> None:
    """Whether or not its size is known before it comes."""
    body = b"x" * 200_000
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with (
        raw_server(saying(answer(body=body) if announced else chunked), tls=True) as other,
        mover("https://api.platform.test", tmp_path, max_download=150_000) as it,
    ):
        failed = await refused(it.files.download(f"{other.url('https')}/a"))
        allowed = await it.files.download(f"{other.url('https')}/a", max_size=200_000)
    assert (failed.code, "150000" in failed.message) == ("file_too_large", True)
    assert list(it.workdir.iterdir()) == [allowed]


async def test_a_file_that_is_announced_too_large_is_not_waited_for(tmp_path: Path) -> None:
    """Its size stands in the head of the answer, and nothing of it has to come."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
    async with (
        raw_server(saying(head), tls=True) as other,
        mover("https://api.platform.test", tmp_path) as it,
    ):
        with anyio.fail_after(30):
            failed = await refused(it.files.download(f"{other.url('https')}/a"))
    assert failed.message.startswith("The file at 127.0.0.1 has 1000000000000 bytes")


async def test_a_checksum_that_does_not_fit_is_a_damaged_file(tmp_path: Path) -> None:
    """The handler's, or the server's own (RFC 9530)."""
    right, wrong = hashlib.sha256(b"hello"), hashlib.sha256(b"other")
    digests = {
        "right": base64.b64encode(right.digest()).decode(),
        "wrong": base64.b64encode(wrong.digest()).decode(),
    }
    routes = {name: answer("200 OK", b"hello", f"Repr-Digest: sha-256=:{said}:") for name, said in digests.items()}
    async with raw_server(routed(**routes), tls=True) as other, mover("https://a.test", tmp_path) as it:
        base = other.url("https")
        assert (await it.files.download(f"{base}/right", sha256=right.hexdigest().upper())).read_bytes() == b"hello"
        assert (await refused(it.files.download(f"{base}/right", sha256=wrong.hexdigest()))).code == "file_damaged"
        assert (await refused(it.files.download(f"{base}/wrong"))).code == "file_damaged"
    assert [path.name for path in it.workdir.iterdir()] == ["right"]


async def test_two_files_of_one_name_lie_beside_each_other(tmp_path: Path) -> None:
    """The name is the one that the server says, made harmless, where the input says none."""
    named = answer("200 OK", b"hello", 'Content-Disposition: attachment; filename="../up/pri ces.csv"')
    async with raw_server(saying(named), tls=True) as other, mover("https://a.test", tmp_path) as it:
        paths = [await it.files.download(f"{other.url('https')}/x") for _ in range(3)]
    assert [path.name for path in paths] == ["pri ces.csv", "pri ces-2.csv", "pri ces-3.csv"]


async def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A full disk, or a directory that the handler has taken away."""
    (tmp_path / "work").symlink_to("/dev/full")
    async with raw_server(saying(answer(body=b"hello")), tls=True) as other, mover("https://a.test", tmp_path) as it:
        failed = await refused(it.files.download(f"{other.url('https')}/x"))
    assert (failed.code, "work directory" in failed.message) == ("file_unavailable", True)


async def test_nobody_listens_is_told(tmp_path: Path) -> None:
    """After three attempts, with the reason."""
    async with mover("https://a.test", tmp_path) as it:
        failed = await refused(it.files.download("https://127.0.0.1:1/x"))
    assert "ConnectError" in failed.message
    assert it.pauses == [1.0, 2.0]


# Up


RECORD = json.dumps({"object": "data_factory_file", "id": ID, "url": "https://h.test/x"}).encode()


def a_file(folder: Path, content: bytes = b"hello", name: str = "a.txt") -> Path:
    """Write a file."""
    path = folder / name
    path.write_bytes(content)
    return path


async def test_an_upload_is_one_form_and_gives_a_file_for_a_later_task(tmp_path: Path) -> None:
    """A part named `file`, the bytes as they are, one slot; its name is added to what the platform says."""
    content = bytes(range(256)) * 3000
    async with raw_server(saying(answer("201 Created", RECORD)), tls=True) as platform, AsyncExitStack() as stack:
        it = await stack.enter_async_context(mover(platform.url("https"), tmp_path))
        file = await it.files.upload(a_file(tmp_path, content), filename='pri"ces é.csv')
    assert file == File.model_validate({**json.loads(RECORD), "filename": 'pri"ces é.csv'})
    (request,) = platform.requests
    assert (request.method, request.target, request.headers["x-api-key"]) == ("POST", API, KEY)
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    head, _, rest = request.body.partition(b"\r\n\r\n")
    assert b'name="file"; filename="pri%22ces \xc3\xa9.csv"' in head
    assert rest == content + b"\r\n--" + boundary + b"--\r\n"
    assert it.desk.ledger.notes == ["taken", "answered"]
    assert it.log.said("file uploaded")[0]["bytes"] == len(content)


@pytest.mark.parametrize(
    ("said", "code", "words", "requests"),
    [
        (answer("413 Content Too Large", b'{"message": "100 MB"}'), "file_too_large", "100 MB", 1),
        (answer("400 Bad Request"), "upload_failed", "400", 1),
        (answer("401 Unauthorized"), "upload_failed", "401", 1),
        (answer("500 Internal Server Error"), "upload_failed", "(3 attempts): 500", 3),
        (answer("201 Created", b"<html>"), "upload_failed", "does not say which file", 1),
        (answer("201 Created", b"[]"), "upload_failed", "does not say which file", 1),
        (answer("302 Found", b"", "Location: https://other.test/"), "upload_failed", "302", 1),
    ],
)
async def test_an_upload_that_is_refused_is_told(
    tmp_path: Path, said: bytes, code: str, words: str, requests: int
) -> None:
    """What passes by itself is tried again, and no redirect is followed with a file."""
    async with raw_server(saying(said), tls=True) as platform, mover(platform.url("https"), tmp_path) as it:
        failed = await refused(it.files.upload(a_file(tmp_path)))
    assert (failed.code, words in failed.message, len(platform.requests)) == (code, True, requests)


async def test_a_key_that_was_changed_is_read_again(tmp_path: Path) -> None:
    """A rotation in the middle costs an attempt, not the file."""
    said = saying(answer("401 Unauthorized"), answer("201 Created", RECORD))
    async with raw_server(said, tls=True) as platform, AsyncExitStack() as stack:
        it = await stack.enter_async_context(mover(platform.url("https"), tmp_path, keys=[KEY, "new"]))
        assert (await it.files.upload(a_file(tmp_path))).id == ID
    assert keys_seen(platform) == [KEY, "new"]


async def test_a_429_silences_the_whole_account(tmp_path: Path) -> None:
    """Somebody else uses it too: nothing is sent for as long as the platform asks."""
    said = saying(answer("429 Too Many Requests", b"", "Retry-After: 1"), answer("201 Created", RECORD))
    async with raw_server(said, tls=True) as platform, mover(platform.url("https"), tmp_path) as it:
        started = anyio.current_time()
        await it.files.upload(a_file(tmp_path))
        assert anyio.current_time() - started >= 1
        assert it.desk.budget.allowed() < 50


async def test_what_cannot_be_uploaded_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    """Too large, not there, a directory, a pipe that nobody writes to, a file that may not be read."""
    os.mkfifo(tmp_path / "pipe")
    async with raw_server(saying(answer()), tls=True) as platform, mover(platform.url("https"), tmp_path) as it:
        large = await refused(it.files.upload(a_file(tmp_path, b"x" * 1_000_001)))
        others = [await refused(it.files.upload(tmp_path / name)) for name in ("gone", ".", "pipe")]
    assert (large.code, "files.max_upload" in large.message) == ("file_too_large", True)
    assert [failed.code for failed in others] == ["upload_failed"] * 3
    assert "No such file" in others[0].message
    assert platform.requests == []


async def test_a_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path: Path) -> None:
    """The platform gets no file that is cut, and nothing is tried again."""
    async with raw_server(saying(answer()), tls=True) as platform, AsyncExitStack() as stack:
        it = await stack.enter_async_context(mover(platform.url("https"), tmp_path))
        source = stack.enter_context(opened(a_file(tmp_path, b"x" * 600_000)))
        with pytest.raises(Trouble, match="shorter") as caught:
            await Upload(it.way, source, 600_010, "a.txt", it.log).attempt()
    assert not caught.value.again
    assert platform.requests == []


async def test_files_leave_half_of_the_window_to_the_rest(tmp_path: Path) -> None:
    """However many are moved, a report finds a slot."""
    async with raw_server(saying(answer(body=b"hello")), tls=True) as platform, AsyncExitStack() as stack:
        it = await stack.enter_async_context(mover(platform.url("https"), tmp_path))
        async with anyio.create_task_group() as many:
            for _ in range(60):
                many.start_soon(it.files.download, f"{platform.url('https')}/a")
            await until(lambda: len(platform.requests) == 25)
            # What comes after them in the same budget finds a slot, and none of them does.
            (await it.desk.budget.slot(Purpose.POLL)).give_back()
            many.cancel_scope.cancel()
    assert len(platform.requests) == 25
    assert it.desk.ledger.notes.count("taken") == 26


def test_progress_is_told_now_and_then() -> None:
    """Every ten seconds, with how much of how much."""
    clock, log = [0.0], Lines()
    progress = Progress(log, "uploading", lambda: clock[0])
    told = []
    for clock[0] in (1.0, 9.0, 10.0, 11.0, 25.0):
        told.append(progress.made(int(clock[0]) * 100, 5000))
    assert told == [False, False, True, False, True]
    assert log.said("uploading") == [
        {"bytes": 1000, "of": 5000, "seconds": 10.0},
        {"bytes": 2500, "of": 5000, "seconds": 25.0},
    ]


async def test_where_nobody_can_move_files_it_is_told() -> None:
    """As with `invoke`."""
    with pytest.raises(TransferFailed, match="Trial"):
        read_answer(await no_transfers({}), Path)

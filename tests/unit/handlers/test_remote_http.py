"""The clients of Commerce Cloud and Informatica, against fakes that say what no document foresees."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from product_live_handlers.informatica.client import InformaticaClient
from product_live_handlers.informatica.connection import InformaticaConnection, open_informatica
from product_live_handlers.informatica.job import InformaticaJob, InformaticaJobInput, outcome_of
from product_live_handlers.remote_http import (
    Connection,
    LoginRefused,
    NoAnswer,
    Refused,
    RemoteError,
    moment,
    same_host,
    whole,
)
from product_live_handlers.remote_job import refusal
from product_live_handlers.salesforce.client import JobExecution
from product_live_handlers.salesforce.connection import SalesforceConnection, open_salesforce
from support.contexts import a_context
from support.fake_informatica import HEADERS, LOGINS, PASSWORD, USER, FakeInformatica
from support.fake_salesforce import CLIENT, SECRET, TOKEN_PATH, FakeSalesforce
from support.job_clock import Leaping
from support.raw_server import CA_FILE, CERTIFICATES
from support.remotes import Asked, Remote, Reply

pytestmark = pytest.mark.anyio

Say = Callable[[Remote, str], Reply]
"""An answer to each request but the login, made of the token that came with it."""


async def given_by(asked: Awaitable[Any]) -> Any:
    """Give an answer, or the RemoteError in its place."""
    try:
        return await asked
    except RemoteError as error:
        return error


async def salesforce(say: Say, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """Ask an instance that answers so, and give what comes of it, or the RemoteError."""

    class Odd(FakeSalesforce):
        def answer(self, asked: Asked) -> Reply:
            token = asked.headers["authorization"].removeprefix("Bearer ")
            return super().answer(asked) if asked.operation == "login" else say(self, token)

    async with Odd().served() as url:
        connection = SalesforceConnection(
            url=url, token_url=f"{url}{TOKEN_PATH}", client_id=CLIENT, client_secret=SECRET
        )
        async with open_salesforce(connection) as client:
            return await given_by(ask(client))


async def informatica(say: Say, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """Ask an organization that answers so, and give what comes of it, or the RemoteError."""

    class Odd(FakeInformatica):
        def answer(self, asked: Asked) -> Reply:
            token = next((asked.headers[name] for name in HEADERS.values() if name in asked.headers), "")
            return super().answer(asked) if asked.operation in LOGINS else say(self, token)

    async with Odd().served() as url:
        connection = InformaticaConnection(login_url=url, username=USER, password=PASSWORD)
        async with open_informatica(connection) as client:
            return await given_by(ask(client))


def a_fault(_: Remote, token: str) -> Reply:
    """Repeat the token in each part of a fault."""
    nested = {"header": {"value": [{token: f"Bearer {token}"}, 1, None]}}
    return Reply(400, {"fault": {"type": f"Bad{token}", "message": f"not {token}", "arguments": nested}})


def an_error(_: Remote, token: str) -> Reply:
    """Repeat it in an error of version 3."""
    return Reply(400, {"error": {"code": f"BAD_{token}", "message": f"not {token}", "requestId": token}})


def a_success_that_is_an_error(_: Remote, token: str) -> Reply:
    """Repeat it in an error of version 3, whose status says success."""
    return Reply(200, {"error": {"code": f"BAD_{token}", "message": f"not {token}", "requestId": token}})


@pytest.mark.parametrize(
    ("system", "say", "ask"),
    [
        (salesforce, a_fault, lambda client: client.read("Job", "1")),
        (informatica, an_error, lambda client: client.activity_log()),
        (informatica, a_success_that_is_an_error, lambda client: client.activity_log()),
    ],
)
async def test_an_issued_token_is_in_no_part_of_a_refusal(system: Any, say: Say, ask: Any) -> None:
    """What a login gave is taken out of message, code and details, as the connection's own secrets are."""
    refused = await system(say, ask)
    assert isinstance(refused, Refused)
    told = repr((str(refused), refused.code, refusal(refused)))
    assert "s3cret" not in told
    assert told.count("***") >= 4


async def test_details_without_a_bottom_are_cut() -> None:
    """However deep a fault's arguments go, a refusal is told."""

    def say(_: Remote, __: str) -> Reply:
        return Reply(400, '{"fault": {"type": "Deep", "arguments": {"a": ' + "[" * 300 + "]" * 300 + "}}}")

    refused = await salesforce(say, lambda client: client.read("Job", "1"))
    assert (type(refused), refused.code) == (Refused, "Deep")
    assert len(repr(refused.details)) < 100


@pytest.mark.parametrize(
    ("system", "body", "ask"),
    [
        (salesforce, {"id": 1, "duration": "long"}, lambda client: client.read("Job", "1")),
        (salesforce, {"id": "1", "exit_status": "OK"}, lambda client: client.create("Job")),
        (salesforce, {"id": ""}, lambda client: client.read("Job", "1")),
        (salesforce, {"hits": [{"id": "1", "exit_status": "OK"}]}, lambda client: client.search("Job")),
        (salesforce, {"hits": [{"job_id": "Job"}]}, lambda client: client.search("Job")),
        (salesforce, {"data": 5}, lambda client: client.list("Job")),
        (informatica, {"runId": "first"}, lambda client: client.start_job({})),
        (informatica, '"none"', lambda client: client.activity_monitor()),
        (informatica, {"jobId": ".."}, lambda client: client.start_code_task("1")),
        (informatica, {"jobId": "1" * 501}, lambda client: client.start_code_task("1")),
        (informatica, {"runId": True}, lambda client: client.start_job({})),
        (salesforce, {"id": "."}, lambda client: client.create("Job")),
        (salesforce, '{"id": "1", "x": NaN}', lambda client: client.read("Job", "1")),
        (informatica, {"runId": "first"}, lambda client: client.code_task_status("1")),
    ],
)
async def test_what_is_not_as_documented_is_no_answer(system: Any, body: Any, ask: Any) -> None:
    """It is told in the client's own words: a start may have been done, a look is taken again."""
    error = await system(lambda *_: Reply(200, body), ask)
    assert isinstance(error, NoAnswer)
    assert " answered " in str(error)


async def test_what_is_nested_without_a_bottom_is_no_answer() -> None:
    """No JSON could be made of it for an output."""
    deep = '{"id": "1", "x": ' + "[" * 400 + "]" * 400 + "}"
    found = await salesforce(lambda *_: Reply(200, deep), lambda client: client.read("Job", "1"))
    with pytest.raises(NoAnswer, match="nested too deep"):
        whole(found, "Commerce Cloud")


@pytest.mark.parametrize("location", ["/a\x00b", "/" + "a" * 99_999, "//elsewhere", "x"])
def test_an_address_that_is_none_leads_nowhere(location: str) -> None:
    """Whatever a system names as the place of a result."""
    assert same_host("https://host", location) is None


async def test_null_is_an_empty_list_and_a_number_is_an_id() -> None:
    """Commerce Cloud's versions differ in how they write an execution without steps, and its id."""
    row = {"id": 7, "execution_scopes": None, "step_executions": None}
    read = await salesforce(lambda *_: Reply(200, row), lambda client: client.read("Job", "7"))
    found = await salesforce(lambda *_: Reply(200, {"hits": [row]}), lambda client: client.search("Job"))
    for execution in (read, *found.found):
        assert (execution.id, execution.execution_scopes, execution.step_executions) == ("7", [], [])


def test_a_time_without_a_zone_is_utc() -> None:
    """Whatever the zone of this machine; what names its own keeps it, and what is no time is none."""
    noon = datetime(2027, 1, 15, 12, tzinfo=UTC)
    assert [moment(text) for text in ("2027-01-15T12:00:00", "2027-01-15T12:00:00Z", "2027-01-15T13:00:00+01:00")] == [
        noon
    ] * 3
    assert [moment(text) for text in (None, "", "noon")] == [None] * 3


def a_login(**said: Any) -> FakeSalesforce:
    """Give an instance whose token endpoint says so."""

    class Odd(FakeSalesforce):
        def answer(self, asked: Asked) -> Reply:
            return Reply(200, said) if asked.operation == "login" else super().answer(asked)

    return Odd()


@pytest.mark.parametrize("lasts", ["soon", True, [1800], {}, "nan", "inf", 10**400])
async def test_a_login_that_lasts_no_number_of_seconds_is_refused(lasts: Any) -> None:
    """In words, and not as a mistake of the handler."""
    fake = a_login(access_token="s3cret-token-1", expires_in=lasts)  # noqa: S106 (of the fake)
    async with fake.served() as url:
        given = {"url": url, "token_url": f"{url}{TOKEN_PATH}", "client_id": CLIENT, "client_secret": SECRET}
        async with open_salesforce(SalesforceConnection(**given)) as client:
            refused = await given_by(client.read("Job", "1"))
    assert (type(refused), "expires_in that is no number of seconds" in str(refused)) == (LoginRefused, True)


@pytest.mark.parametrize("lasts", [1800, 1800.5, "1800", None, ""])
async def test_a_login_may_say_how_long_it_lasts(lasts: Any) -> None:
    """As a number, a text, or not at all."""
    fake = a_login(access_token=f"s3cret-token-{lasts}", expires_in=lasts)
    async with fake.served() as url:
        given = {"url": url, "token_url": f"{url}{TOKEN_PATH}", "client_id": CLIENT, "client_secret": SECRET}
        async with open_salesforce(SalesforceConnection(**given)) as client:
            assert await client.session.get() == f"s3cret-token-{lasts}"


@pytest.mark.parametrize(
    "base", ["ftp://host", "http://elsewhere.example.com", "https://[::1", "https://u:p@host", "?"]
)
async def test_a_session_goes_only_to_an_address_that_is_one(base: str) -> None:
    """What the login says of where the API is, is checked as if it stood in the settings."""

    class Odd(FakeInformatica):
        def answer(self, asked: Asked) -> Reply:
            return Reply(200, {"icSessionId": "s3cret-token-1", "serverUrl": base})

    async with Odd().served() as url:
        connection = InformaticaConnection(login_url=url, username=USER, password=PASSWORD, auth="v2")
        async with open_informatica(connection) as client:
            refused = await given_by(client.activity_monitor())
    assert (type(refused), "an address for the API" in str(refused)) == (LoginRefused, True)


async def test_a_refusal_has_a_size() -> None:
    """However many arguments a fault has."""
    many = {f"name {number}": "x" * 9000 for number in range(1000)}
    body = {"fault": {"type": "T" * 9000, "message": "m" * 9000, "arguments": many}}
    refused = await salesforce(lambda *_: Reply(400, body), lambda client: client.read("Job", "1"))
    assert len(str(refused)) <= 500
    assert len(json.dumps(refusal(refused))) < 25_000
    assert refused.details["fault_arguments"]["name 0"].startswith("x")


# ── One row of many that cannot be read ──

TASK = {"task_id": "T0000001", "task_type": "MTT"}
GOOD = {"taskId": "T0000001", "taskName": "Load", "runId": 7, "startTimeUtc": "2027-01-15T12:00:00.000Z",
        "runContextType": "REST_API"}  # fmt: skip
BASELINE = {"task_id": "T0000001", "name": None, "known": [7], "date": 1_800_000_000.0, "dated": True}


async def looked(live: Any, ended: Any) -> Any:
    """Have a run of the task looked for in these lists."""

    def say(fake: Remote, _: str) -> Reply:
        return Reply(200, live if "activityMonitor" in fake.asked[-1].path else ended)

    def look(client: InformaticaClient) -> Awaitable[Any]:
        clock = Leaping()
        input = InformaticaJobInput.model_validate(TASK)
        return InformaticaJob(input, a_context(), client, clock).look(BASELINE)

    return await informatica(say, look)


@pytest.mark.parametrize(
    "bad",
    [
        {**GOOD, "runId": "eight"},
        {**GOOD, "runId": True},
        {"runId": {}, "taskId": ["T0000001"]},
        "no row",
        None,
        {**GOOD, "runId": "eight", "startTimeUtc": 5},
    ],
)
async def test_a_row_that_cannot_be_read_is_alone_in_that(bad: Any) -> None:
    """The others are as good as they were, but nothing is proven by not finding ours: it could be that row."""
    found = await looked([GOOD], [bad])
    assert (found.remote, found.several, found.conclusive) == (None, False, False)
    found = await looked([bad, {**GOOD, "runId": 8}], [])
    assert found.several


@pytest.mark.parametrize(
    "other", [{"taskId": "T0000002"}, {"startTimeUtc": "2020-01-01T00:00:00Z"}, {"runId": 7, "state": {}}]
)
async def test_a_row_that_cannot_be_ours_proves_nothing_either_way(other: dict[str, Any]) -> None:
    """Of another task, of before the start, or of a run that was known."""
    bad = {**GOOD, "objectId": other.get("taskId", "T0000001"), "runId": "eight", **other}
    found = await looked([GOOD], [bad])
    assert (found.remote, found.conclusive) == (None, True)
    assert (await looked([{**GOOD, "runId": 8}], [bad])).remote["run_id"] == 8


@pytest.mark.parametrize(
    ("who", "ours"),
    [
        ({"runContextType": "REST_API"}, True),
        ({"startedBy": USER}, True),
        ({"startedBy": USER.upper(), "runContextType": "REST_API"}, True),
        ({"startedBy": USER, "runContextType": "a new word"}, True),
        ({"startedBy": USER, "runContextType": "ICS_UI"}, False),
        ({"startedBy": USER, "runContextType": "SCHEDULER"}, False),
        ({"startedBy": "somebody@example.com", "runContextType": "REST_API"}, False),
        ({"startedBy": "somebody@example.com"}, False),
        ({"runContextType": "ICS_UI"}, False),
        ({"runContextType": "a new word"}, None),
        ({"startedBy": [], "runContextType": {}}, None),
        ({}, None),
    ],
)
async def test_whose_a_run_is_says_who_started_it_and_how(who: dict[str, Any], ours: bool | None) -> None:
    """What either field denies is another's run; what neither tells may be ours, and proves nothing."""
    row = {"taskId": "T0000001", "objectId": "T0000001", "runId": 8, "startTimeUtc": "2027-01-15T12:00:00.000Z", **who}
    for lists in (([row], []), ([], [row])):
        found = await looked(*lists)
        assert (found.remote is not None, found.conclusive) == (ours is True, ours is not None)
        beside = await looked([{**GOOD, "runId": 9}, *lists[0]], lists[1])
        assert beside.several == (ours is not False)
    unread = await looked([GOOD], [{**row, "runId": "eight"}])
    assert unread.conclusive == (ours is False)


async def test_what_cannot_be_read_of_a_row_is_no_end() -> None:
    """Neither a state that is no number, nor one that Python would take for one."""
    rows = [{**GOOD, "objectId": "T0000001", "state": state} for state in ({}, True, "done", None)]
    for entry in await informatica(lambda *_: Reply(200, rows), lambda client: client.activity_log()):
        assert (entry.run_id, outcome_of(entry)) == (7, None)


async def test_a_row_that_could_be_another_run_keeps_a_stop_from_being_sent() -> None:
    """A stop ends all runs of the task."""
    asked: list[str] = []

    def say(fake: Remote, _: str) -> Reply:
        asked.append(fake.asked[-1].path)
        return Reply(200, [GOOD, {"runId": "eight"}])

    def cancel(client: InformaticaClient) -> Awaitable[Any]:
        job = InformaticaJob(InformaticaJobInput.model_validate(TASK), a_context(), client, Leaping())
        return job.cancel({"task_id": "T0000001", "federated_id": None, "name": None, "run_id": 7})

    assert await informatica(say, cancel) is False
    assert not any("stop" in path for path in asked)


# ── Certificates ──

PHRASE = "s3cret-phrase"


def write_certificate(to: Path) -> None:
    """Make a certificate that signs for itself, with its key beside it, and one file with both, behind a passphrase."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "worker")])
    begin, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(begin).not_valid_after(end)
    pem = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    form = (Encoding.PEM, PrivateFormat.PKCS8)
    (to / "cert.pem").write_bytes(pem)
    (to / "key.pem").write_bytes(key.private_bytes(*form, NoEncryption()))
    (to / "both.pem").write_bytes(pem + key.private_bytes(*form, BestAvailableEncryption(PHRASE.encode())))


@asynccontextmanager
async def asking_for(certificate: Path) -> AsyncIterator[str]:
    """Serve an execution over TLS to whoever shows this certificate."""
    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    trust.load_cert_chain(CERTIFICATES / "platform.test.pem")
    trust.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"id": "1", "access_token": "s3cret-token"}'
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=trust) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_system_that_asks_for_a_certificate_is_shown_it(tmp_path: Path) -> None:
    """From one file or two, also behind a passphrase; without it nothing was sent, or heard."""
    write_certificate(tmp_path)
    apart = {"client_cert": tmp_path / "cert.pem", "client_key": tmp_path / "key.pem"}
    together = {"client_cert": tmp_path / "both.pem", "client_key_passphrase": PHRASE}
    async with asking_for(tmp_path / "cert.pem") as url:
        for more, is_let_in in ((apart, True), (together, True), ({}, False)):
            given = {"url": url, "token_url": url, "client_id": CLIENT, "client_secret": SECRET, "ca_file": CA_FILE}
            async with open_salesforce(SalesforceConnection.model_validate({**given, **more})) as client:
                found = await given_by(client.read("Job", "1"))
            assert isinstance(found, JobExecution if is_let_in else RemoteError)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"client_cert": "cert.pem"}, "the certificates of cert.pem cannot be read: no PEM, or its key"),
        ({"client_cert": "both.pem"}, "the certificates of both.pem cannot be read: no PEM, or its key, or passphrase"),
        ({"client_cert": "both.pem", "client_key_passphrase": "s3cret"}, "is another one"),
        ({"client_cert": "none.pem"}, "the certificates of none.pem cannot be read: No such file"),
        ({"client_key": "key.pem"}, "need client_cert"),
        ({"ca_file": "key.pem"}, "the certificates of key.pem cannot be read: no PEM, or there are none in it"),
        ({"ca_file": "none.pem"}, "the certificates of none.pem cannot be read: No such file"),
    ],
)
def test_certificates_are_tried_when_they_are_named(
    given: dict[str, str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, before the first request, and nobody is asked for a passphrase."""
    write_certificate(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match=told) as error:
        Connection.model_validate(given)
    assert "s3cret" not in str(error.value)

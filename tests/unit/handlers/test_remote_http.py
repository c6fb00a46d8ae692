"""The clients of Commerce Cloud and Informatica, against fakes that say what no document foresees."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from product_live_handlers.informatica.connection import InformaticaConnection, open_informatica
from product_live_handlers.informatica.models import moment as informatica_moment
from product_live_handlers.remote_http import NoAnswer, Refused, RemoteError
from product_live_handlers.remote_job import refusal
from product_live_handlers.salesforce.client import moment as salesforce_moment
from product_live_handlers.salesforce.connection import SalesforceConnection, open_salesforce
from product_live_handlers.snowflake.models import moment as snowflake_moment
from support.fake_informatica import HEADERS, LOGINS, PASSWORD, USER, FakeInformatica
from support.fake_salesforce import CLIENT, SECRET, TOKEN_PATH, FakeSalesforce
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
        (informatica, [{"runId": "first"}], lambda client: client.activity_monitor()),
        (informatica, [{"runId": 1, "state": {}}], lambda client: client.activity_log()),
        (informatica, {"runId": "first"}, lambda client: client.code_task_status("1")),
    ],
)
async def test_what_is_not_as_documented_is_no_answer(system: Any, body: Any, ask: Any) -> None:
    """It is told in the client's own words: a start may have been done, a look is taken again."""
    error = await system(lambda *_: Reply(200, body), ask)
    assert isinstance(error, NoAnswer)
    assert " answered with " in str(error)


async def test_null_is_an_empty_list_and_a_number_is_an_id() -> None:
    """Commerce Cloud's versions differ in how they write an execution without steps, and its id."""
    row = {"id": 7, "execution_scopes": None, "step_executions": None}
    read = await salesforce(lambda *_: Reply(200, row), lambda client: client.read("Job", "7"))
    found = await salesforce(lambda *_: Reply(200, {"hits": [row]}), lambda client: client.search("Job"))
    for execution in (read, *found.found):
        assert (execution.id, execution.execution_scopes, execution.step_executions) == ("7", [], [])


@pytest.mark.parametrize("moment", [salesforce_moment, informatica_moment, snowflake_moment])
def test_a_time_without_a_zone_is_utc(moment: Any) -> None:
    """Whatever the zone of this machine; what names its own keeps it, and what is no time is none."""
    noon = datetime(2027, 1, 15, 12, tzinfo=UTC)
    assert [moment(text) for text in ("2027-01-15T12:00:00", "2027-01-15T12:00:00Z", "2027-01-15T13:00:00+01:00")] == [
        noon
    ] * 3
    assert [moment(text) for text in (None, "", "noon")] == [None] * 3

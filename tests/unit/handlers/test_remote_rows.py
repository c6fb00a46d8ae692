"""Each operation of Commerce Cloud and Informatica as it is asked for, and what each client says of errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from product_live_handlers.informatica.connection import InformaticaConnection, open_informatica
from product_live_handlers.remote_http import NoAnswer, Refused, RemoteError
from product_live_handlers.remote_job import refusal
from product_live_handlers.salesforce.connection import SalesforceConnection, open_salesforce
from product_live_handlers.salesforce.executions import SalesforceExecutionsInput
from product_live_handlers.snowflake.client import Place
from product_live_handlers.snowflake.connection import SnowflakeConnection, open_snowflake
from support.contracts import contract
from support.fake_informatica import HEADERS, PASSWORD, USER, Course, FakeInformatica
from support.fake_salesforce import CLIENT, SECRET, TOKEN_PATH, FakeSalesforce, Way
from support.fake_snowflake import PAT, FakeSnowflake
from support.remotes import Asked, Reply

pytestmark = pytest.mark.anyio

Row = tuple[Callable[[Any], Awaitable[Any]], str, str, dict[str, str], Any]
DONE = Way(phases=())
SORTED = {"sorts": [{"field": "start_time", "sort_order": "desc"}]}
PARAMETERS = {"parameters": [{"name": "SiteScope", "value": "{}"}]}


def term(name: str, value: str) -> dict[str, Any]:
    """Give a condition of a search."""
    return {"term_query": {"fields": [name], "operator": "is", "values": [value]}}


BOTH: list[Row] = [
    (lambda c: c.create("J"), "POST", "/jobs/J/executions", {}, None),
    (lambda c: c.read("J", "40001"), "GET", "/jobs/J/executions/40001", {}, None),
    (lambda c: c.delete("J", "40002"), "DELETE", "/jobs/J/executions/40002", {}, None),
]
OCAPI: dict[str, list[Row]] = {
    "v17_2": [
        (lambda c: c.list("J"), "GET", "/jobs/J/executions", {}, None),
        (lambda c: c.list("J", start=0, count=1), "GET", "/jobs/J/executions", {"start": "0", "count": "1"}, None),
        (lambda c: c.list("J", start=9, count=200), "GET", "/jobs/J/executions", {"start": "9", "count": "200"}, None),
        *BOTH,
    ],
    "v25_6": [
        (lambda c: c.search(), "POST", "/job_execution_search", {}, {"query": {"match_all_query": {}}, **SORTED}),
        (lambda c: c.search("J", start=0, count=1), "POST", "/job_execution_search", {},
         {"query": term("job_id", "J"), **SORTED, "start": 0, "count": 1}),
        (lambda c: c.search("J", status="running", count=200), "POST", "/job_execution_search", {},
         {"query": {"bool_query": {"must": [term("job_id", "J"), term("status", "running")]}}, **SORTED, "count": 200}),
        (lambda c: c.create("J", PARAMETERS), "POST", "/jobs/J/executions", {}, PARAMETERS),
        (lambda c: c.create("a b/ä?"), "POST", "/jobs/a%20b%2F%C3%A4%3F/executions", {}, None),
        *BOTH,
    ],
}  # fmt: skip


@pytest.mark.parametrize("version", OCAPI)
async def test_each_operation_of_commerce_cloud(version: str) -> None:
    """Method, path, query and body; a start without parameters has no body."""
    fake = FakeSalesforce(version=version)
    for name in ("J", "a b/ä?"):
        fake.add(name, DONE)
    for _ in range(2):
        fake.run_of_another(fake.jobs["J"])
    async with fake.served() as url:
        given = {"url": url, "token_url": f"{url}{TOKEN_PATH}", "client_id": CLIENT, "client_secret": SECRET}
        async with open_salesforce(SalesforceConnection.model_validate({**given, "ocapi_version": version})) as client:
            for send, *_ in OCAPI[version]:
                await send(client)
    login, *asked = fake.asked
    assert (login.operation, login.body) == ("login", {"grant_type": "client_credentials"})
    prefix = f"/s/-/dw/data/{version}"
    assert [one.line for one in asked] == [(m, f"{prefix}{path}", *rest) for _, m, path, *rest in OCAPI[version]]
    assert fake.broken == []
    if version == "v25_6":
        published = set(contract("ocapi").operations) - {"getJobsByIDExecutions"}
        assert {one.operation for one in asked} == published


@pytest.mark.parametrize(
    ("given", "right"),
    [({}, True), ({"start": 0, "count": 1}, True), ({"start": 10**6, "count": 200}, True), ({"start": -1}, False),
     ({"count": 0}, False), ({"count": 201}, False)],
)  # fmt: skip
def test_a_page_of_executions_has_the_documents_bounds(given: dict[str, int], right: bool) -> None:
    """A start from 0 on, a count from 1 to 200."""
    raw = {"operation": "list", "job_id": "J", **given}
    if right:
        assert SalesforceExecutionsInput.model_validate(raw).model_dump(include=set(given)) == given
    else:
        with pytest.raises(ValueError, match="than or equal to"):
            SalesforceExecutionsInput.model_validate(raw)


JOB = {"taskName": "load", "taskType": "MTT"}
ALL = {"taskFederatedId": "fed-load", "taskType": "WORKFLOW"}
FEDERATED = {**ALL, "callbackURL": "https://hooks.example.com/x"}
RUNTIME = {"@type": "mtTaskRuntime", "parameterFileName": "p.txt", "parameterFileDir": "/data"}
IICS: list[Row] = [
    (lambda c: c.start_job(JOB), "POST", "/saas/api/v2/job", {}, {"@type": "job", **JOB}),
    (lambda c: c.start_job(FEDERATED), "POST", "/saas/api/v2/job", {}, {"@type": "job", **FEDERATED}),
    (lambda c: c.start_job({"taskId": "T0000000", "taskType": "DSS", "runtime": RUNTIME}), "POST", "/saas/api/v2/job",
     {}, {"@type": "job", "taskId": "T0000000", "taskType": "DSS", "runtime": RUNTIME}),
    (lambda c: c.stop_job(JOB, clean=True), "POST", "/saas/api/v2/job/stop", {"cleanStop": "true"},
     {"@type": "job", **JOB}),
    (lambda c: c.stop_job(ALL, clean=False), "POST", "/saas/api/v2/job/stop", {}, {"@type": "job", **ALL}),
    (lambda c: c.activity_monitor(), "GET", "/saas/api/v2/activity/activityMonitor", {"details": "false"}, None),
    (lambda c: c.activity_monitor(details=True), "GET", "/saas/api/v2/activity/activityMonitor", {"details": "true"},
     None),
    (lambda c: c.activity_log(), "GET", "/saas/api/v2/activity/activityLog", {}, None),
    (lambda c: c.activity_log("T0000000", 1, limit=1000, offset=5), "GET", "/saas/api/v2/activity/activityLog",
     {"taskId": "T0000000", "runId": "1", "rowLimit": "1000", "offset": "5"}, None),
    (lambda c: c.session_log("T0000000-1"), "GET", "/saas/api/v2/activity/activityLog/T0000000-1/sessionLog", {}, None),
    (lambda c: c.lookup("fed-load"), "POST", "/saas/public/core/v3/lookup", {}, {"objects": [{"id": "fed-load"}]}),
    (lambda c: c.start_code_task("7"), "POST", "/disnext/api/v1/CodeTask/Start", {}, {"codeTaskId": "7"}),
    (lambda c: c.start_code_task(7), "POST", "/disnext/api/v1/CodeTask/Start", {}, {"codeTaskId": 7}),
    (lambda c: c.code_task_status("job0"), "GET", "/disnext/api/v1/CodeTask/JobStatus/job0", {}, None),
    (lambda c: c.cancel_code_task("job0"), "POST", "/disnext/api/v1/CodeTask/Cancel/job0", {}, None),
]  # fmt: skip


async def test_each_operation_of_informatica() -> None:
    """Method, path, query and body, and the session in the header of its part of the API."""
    fake = FakeInformatica()
    fake.run_of_another(fake.add("load", Course(lasts=0, listed_after=0)))
    fake.code_tasks["7"] = [{"status": "RUNNING"}]
    async with fake.served() as url:
        path = "/disnext/api/v1/CodeTask/Cancel/{job_id}"
        given = {"login_url": url, "username": USER, "password": PASSWORD, "auth": "v3", "cancel_path": path}
        async with open_informatica(InformaticaConnection.model_validate(given)) as client:
            for send, *_ in IICS:
                await send(client)
    login, *asked, logout = fake.asked
    assert (login.operation, login.body) == ("login_v3", {"username": USER, "password": PASSWORD})
    assert [one.line for one in asked] == [tuple(rest) for _, *rest in IICS]
    kinds = ["code" if "/disnext/" in one.path else "v3" if "/v3/" in one.path else "v2" for one in asked]
    assert [{name for name in HEADERS.values() if name in one.headers} for one in asked] == [
        {HEADERS[kind]} for kind in kinds
    ]
    assert (logout.operation, fake.broken) == ("logout_v3", [])


async def told(system: str, replies: list[Reply], ask: Callable[[Any], Awaitable[Any]]) -> list[Any]:
    """Give the errors with which a client meets these answers, after a good login."""
    remotes: dict[str, Any] = {
        "Snowflake": FakeSnowflake,
        "Commerce Cloud": FakeSalesforce,
        "Informatica": FakeInformatica,
    }
    fake = remotes[system]()
    answer, left, errors = fake.answer, list(replies), []

    def say(asked: Asked) -> Reply:
        known: Reply = answer(asked) if asked.operation.startswith(("login", "logout")) else left[0]
        return known

    fake.answer = say
    async with fake.served() as url:
        opened: dict[str, Any] = {
            "Snowflake": lambda: open_snowflake(
                SnowflakeConnection.model_validate({"account_url": url, "auth": "pat", "token": PAT})
            ),
            "Commerce Cloud": lambda: open_salesforce(
                SalesforceConnection.model_validate(
                    {"url": url, "token_url": f"{url}{TOKEN_PATH}", "client_id": CLIENT, "client_secret": SECRET}
                )
            ),
            "Informatica": lambda: open_informatica(
                InformaticaConnection.model_validate({"login_url": url, "username": USER, "password": PASSWORD})
            ),
        }
        async with opened[system]() as client:
            while left:
                with pytest.raises(RemoteError) as caught:
                    await ask(client)
                errors.append(caught.value)
                left.pop(0)
    return errors


AT = Place("SALES", "PUBLIC")
XML = "<?xml version='1.0'?><fault type='Some'/>"
AS_XML = {"content-type": "application/xml;charset=UTF-8"}
SAYS = "in XML or HTML where JSON was asked for"


@pytest.mark.parametrize(
    ("system", "ask"),
    [
        ("Snowflake", lambda c: c.execute_task(AT, "T")),
        ("Snowflake", lambda c: c.get_current_graphs(AT, "T")),
        ("Commerce Cloud", lambda c: c.create("J")),
        ("Commerce Cloud", lambda c: c.read("J", "1")),
        ("Commerce Cloud", lambda c: c.search("J")),
        ("Informatica", lambda c: c.start_job(JOB)),
        ("Informatica", lambda c: c.activity_log()),
        ("Informatica", lambda c: c.start_code_task(7)),
        ("Informatica", lambda c: c.code_task_status("job0")),
    ],
)  # fmt: skip
async def test_an_answer_in_xml_is_a_clear_error(system: str, ask: Any) -> None:
    """Whatever its status: it says who answered, what, and in what, and repeats nothing of it."""
    replies = [
        Reply(200, XML, AS_XML),
        Reply(200, f"\n{XML}"),
        Reply(200, "<html>Please log in</html>", {"content-type": "text/html"}),
        Reply(503, XML, AS_XML),
        Reply(404, XML, AS_XML),
    ]
    errors = await told(system, replies, ask)
    assert [str(error) for error in errors] == [f"{system} answered 200 {SAYS}"] * 3 + [
        f"{system} answered 503: {SAYS}",
        f"{system} answered 404: {SAYS}",
    ]
    assert [type(error) for error in errors] == [NoAnswer] * 4 + [Refused]


FAULTS = {
    "create": ("JobAlreadyRunningException", "JobInvalidException", "JobRestartException", "JobNotRestartableException",
               "JobExecutionException", "JobNotFoundException"),
    "read": ("JobExecutionNotFoundException",),
    "delete": ("JobExecutionNotFinishedException", "JobExecutionNotFoundException"),
}  # fmt: skip
NUMBERS = (400, 403, 404, 409)
CALLS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "create": lambda c: c.create("J"),
    "read": lambda c: c.read("J", "1"),
    "delete": lambda c: c.delete("J", "1"),
}


@pytest.mark.parametrize(("call", "kind"), [(call, kind) for call, kinds in FAULTS.items() for kind in kinds])
async def test_a_fault_is_its_type_whatever_its_number(call: str, kind: str) -> None:
    """Of each operation, with its arguments; both ways of writing those are read."""
    written = ({"jobId": "J"}, {"jobId": {"type": "string", "value": "J"}})
    bodies = [{"_v": "17.2", "fault": {"arguments": said, "type": kind, "message": "No."}} for said in written]
    answers = [(number, body) for number in NUMBERS for body in bodies]
    errors = await told("Commerce Cloud", [Reply(*answer) for answer in answers], CALLS[call])
    for error, (number, _) in zip(errors, answers, strict=True):
        assert str(error) == f"Commerce Cloud answered {number}: {kind}: No."
        assert refusal(error) == {"status_code": number, "error_code": kind, "fault_arguments": {"jobId": "J"}}

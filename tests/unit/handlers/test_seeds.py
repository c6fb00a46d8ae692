"""Every sample of the vendors' own pages, as it stands there, is read as it is meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from product_live_handlers.informatica.code_task import ENDS as CODE_ENDS
from product_live_handlers.informatica.code_task import LIVE as CODE_LIVE
from product_live_handlers.informatica.code_task import fields_of as code_task_fields
from product_live_handlers.informatica.code_task import word_of
from product_live_handlers.informatica.connection import InformaticaConnection, open_informatica
from product_live_handlers.informatica.job import InformaticaJob
from product_live_handlers.informatica.job import outcome_of as job_outcome
from product_live_handlers.informatica.models import CodeTaskStatus, LogEntry
from product_live_handlers.remote_http import Refused
from product_live_handlers.remote_job import Outcome
from product_live_handlers.salesforce.client import JobExecution, OcapiClient
from product_live_handlers.salesforce.connection import SalesforceConnection, open_salesforce
from product_live_handlers.salesforce.job import fields_of, outcome_of, phase_of
from product_live_handlers.snowflake.task import ENDS, LIVE
from support.raw_server import RawServer, answer, raw_server, saying

pytestmark = pytest.mark.anyio

SEEDS = Path(__file__).parents[2] / "support" / "seeds"
TOKEN = {"access_token": "t", "token_type": "Bearer", "expires_in": 1799}


def samples(name: str) -> dict[str, Any]:
    """Read the samples of a page."""
    found: dict[str, Any] = json.loads((SEEDS / f"{name}.json").read_text(encoding="utf-8"))["samples"]
    return found


OCAPI = samples("ocapi_17_2")


async def asked(call: Any, *said: bytes) -> tuple[Any, RawServer]:
    """Let an OCAPI client of 17.2 hear this after its login; gives what it makes of it, and the server."""
    async with raw_server(saying(answer("200 OK", json.dumps(TOKEN).encode()), *said, b"")) as server:
        connection = SalesforceConnection.model_validate(
            {"url": server.url(), "token_url": f"{server.url()}/token", "client_id": "c", "client_secret": "s3cret",
             "ocapi_version": "v17_2", "base_path": "/dw/data"}
        )  # fmt: skip
        async with open_salesforce(connection) as client:
            return await call(client), server


def as_it_is(name: str, status: str = "200 OK") -> bytes:
    """Give a sample as an answer."""
    return answer(status, json.dumps(OCAPI[name]).encode(), "Content-Type: application/json;charset=UTF-8")


async def test_the_list_of_executions() -> None:
    """The list sample has no execution_status, and its status is a phase: it has finished well all the same."""
    found, server = await asked(lambda c: c.list("CustomerImportJob", start=0, count=200), as_it_is("list"))
    (execution,) = found.found
    assert (found.total, execution.id, phase_of(execution)) == (1, "85", "finished")
    assert outcome_of(execution) is Outcome.SUCCEEDED
    assert server.requests[1].target == "/dw/data/v17_2/jobs/CustomerImportJob/executions?start=0&count=200"
    assert server.requests[1].headers["authorization"] == "Bearer t"
    assert server.requests[1].headers["content-type"] == "application/json; charset=UTF-8"


async def test_the_execution_that_was_created() -> None:
    """It runs; nothing was sent with the request, of which 17.2 knows no document."""
    execution, server = await asked(lambda c: c.create("CustomerImportJob"), as_it_is("created"))
    assert (execution.id, phase_of(execution), outcome_of(execution)) == ("40605", "running", None)
    sent = server.requests[1]
    assert (sent.method, sent.target, sent.body) == ("POST", "/dw/data/v17_2/jobs/CustomerImportJob/executions", b"")


async def test_the_execution_that_was_read() -> None:
    """Finished, by both of its fields; six steps, none of which failed, and codes that are not all OK."""
    execution, server = await asked(lambda c: c.read("CustomerImportJob", "90"), as_it_is("read"))
    fields = fields_of(execution)
    assert (outcome_of(execution), fields["duration_ms"], fields["exit_code"]) == (Outcome.SUCCEEDED, 185, "OK")
    assert fields["execution_scopes"] == ["SiteGenesis", "SiteGenesis-US", "SiteGenesis-DE"]
    assert fields["log_file"] == "Job-JobExecutionTestJob1-20160520115446018.log"
    assert (len(execution.step_executions), fields["failed_steps"]) == (6, [])
    assert execution.model_dump(exclude_unset=True, mode="json").keys() >= OCAPI["read"].keys()
    assert server.requests[1].target == "/dw/data/v17_2/jobs/CustomerImportJob/executions/90"


@pytest.mark.parametrize(
    ("sample", "status", "call", "kind", "arguments"),
    [
        ("job_not_found", "404 NOT FOUND", lambda c: c.create("CustomerImportJob"), "JobNotFoundException",
         {"jobId": "CustomerImportJob"}),
        ("job_execution_fault", "409 CONFLICT", lambda c: c.create("CustomerImportJob"), "JobExecutionException",
         {"jobId": "CustomerImportJob"}),
        ("execution_not_found", "404 Requested resource not found", lambda c: c.read("J", "90"),
         "JobExecutionNotFoundException", {"executionId": "90"}),
        ("deleted_not_found", "404 Requested resource not found", lambda c: c.delete("J", "85"),
         "JobExecutionNotFoundException", {"executionId": "85"}),
    ],
)  # fmt: skip
async def test_the_faults(sample: str, status: str, call: Any, kind: str, arguments: dict[str, str]) -> None:
    """By their type, with their arguments, whatever the number."""

    async def refused(client: OcapiClient) -> Refused:
        with pytest.raises(Refused) as caught:
            await call(client)
        return caught.value

    error, _ = await asked(refused, as_it_is(sample, status))
    assert (error.code, error.details, error.status) == (kind, {"fault_arguments": arguments}, int(status[:3]))
    assert OCAPI[sample]["fault"]["message"] in str(error)


async def test_an_execution_is_deleted_without_a_word() -> None:
    """204, and no body."""
    _, server = await asked(lambda c: c.delete("CustomerImportJob", "85"), b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (server.requests[1].method, server.requests[1].target) == (
        "DELETE", "/dw/data/v17_2/jobs/CustomerImportJob/executions/85",
    )  # fmt: skip


@pytest.mark.parametrize(("sample", "word", "message"), [("running", "RUNNING", None), ("failed", "FAILED", "WES_")])
async def test_the_status_of_a_code_task(sample: str, word: str, message: str | None) -> None:
    """All its fields, the long text of its failure, an empty one that is none, and the slashes of its log."""
    body = samples("code_task")[sample]
    said = [answer("200 OK", json.dumps(one).encode()) for one in ({"icSessionId": "s"}, body, {})]
    async with raw_server(saying(*said)) as server:
        given = {"login_url": server.url(), "username": "u", "password": "p", "auth": "v2"}
        own = {"base_url": f"{server.url()}/saas"}
        async with open_informatica(InformaticaConnection.model_validate(given | own)) as client:
            status = await client.code_task_status("8zcuMdImeshidZ4XVExs20")
    sent = server.requests[1]
    assert (sent.method, sent.target) == ("GET", "/disnext/api/v1/CodeTask/JobStatus/8zcuMdImeshidZ4XVExs20")
    assert (sent.headers["ids-session-id"], sent.headers["accept"]) == ("s", "application/json")
    fields = code_task_fields("8zcu", status)
    assert word_of(status) == word
    assert (fields["error_message"] or "").startswith(message or "")
    assert (fields["error_message"] is None) is (message is None)
    assert (fields["run_id"], fields["instance_name"]) == (2, "Demo-2")
    assert "//" not in fields["session_log_url"]
    told = {name: value for name, value in body.items() if value is not None}
    assert fields["status"].keys() == told.keys()


TABLE = {
    "codeTaskName": "Demo", "codeTaskId": 477, "agentGroupId": "01000025000000000003", "executionState": "FAILED",
    "sessionLogUrl": "logservice/api/v1/jobs/6pqq/logs", "assignedServerlessComputeUnits": 2.5,
    "consumedServerlessComputeUnits": 0.25, "firstErrorMessage": "WES_internal_error",
}  # fmt: skip
STATES = {
    # Of the table, and of the words below it.
    "QUEUED": None, "RUNNING": None, "SUCCEEDED": "succeeded", "FAILED": "failed", "CANCELLED": "cancelled",
    "Starting": None, "Running": None, "Success": "succeeded", "Failed": "failed",
}  # fmt: skip


def test_every_field_of_the_code_tasks_table() -> None:
    """Is read by its own name, and told with its own name and kind; an id is a text."""
    status = CodeTaskStatus.model_validate(TABLE)
    assert [name for name in status.model_dump(by_alias=True, exclude_unset=True) if name not in TABLE] == []
    assert (status.model_extra, word_of(status)) == ({}, "FAILED")
    fields = code_task_fields("6pqq", status)
    assert fields["status"] == {**TABLE, "codeTaskId": "477"}
    assert (fields["error_message"], fields["session_log_url"]) == ("WES_internal_error", TABLE["sessionLogUrl"])


@pytest.mark.parametrize("field", ["status", "executionState"])
@pytest.mark.parametrize(("word", "outcome"), STATES.items())
def test_every_state_of_a_code_task(field: str, word: str, outcome: str | None) -> None:
    """Whichever of the two fields has it, in whichever case."""
    found = word_of(CodeTaskStatus.model_validate({field: word}))
    assert CODE_ENDS.get(found) == outcome
    assert outcome is not None or found in CODE_LIVE


async def test_the_callback() -> None:
    """It is of the run that it names; what cannot be read may be of any."""
    job = object.__new__(InformaticaJob)
    job._run = 5
    sample = json.loads((SEEDS / "callback.json").read_text(encoding="utf-8"))
    assert job._is_about_us(json.dumps(sample["samples"]["callback"]))
    assert job._is_about_us(sample["as_it_stands"])
    job._run = 6
    assert not job._is_about_us(json.dumps(sample["samples"]["callback"]))


@pytest.mark.parametrize(
    "body",
    ['{"runId": Infinity}', '{"runId": NaN}', '{"runId": []}', '{"runId": "x"}', "[1]", "", "[" * 60_000],
    ids=["infinite", "nan", "list", "word", "no_object", "empty", "no_bottom"],
)
def test_a_callback_that_says_nothing_ends_no_wait(body: str) -> None:
    """Whoever knows the address can send anything: it may be of our run, and a read tells."""
    job = object.__new__(InformaticaJob)
    job._run = 5
    assert job._is_about_us(body)


@pytest.mark.parametrize(
    ("fields", "phase", "outcome"),
    [
        ({"execution_status": "finished", "exit_status": {"status": "ok", "code": "MINE"}}, "finished", "succeeded"),
        ({"execution_status": "finished", "exit_status": {"status": "error"}}, "finished", "failed"),
        ({"execution_status": "finished", "status": "OK"}, "finished", "succeeded"),
        ({"execution_status": "finished", "status": "ERROR"}, "finished", "failed"),
        ({"execution_status": "finished"}, "finished", "unknown"),
        ({"status": "PENDING"}, "pending", None),
        ({"status": "aborted"}, "aborted", "cancelled"),
        ({"status": "OK", "end_time": "2016-03-03T09:46:06.357Z"}, "finished", "succeeded"),
        ({"execution_status": "unknown"}, "unknown", None),
        ({"status": "PONDERING"}, "pondering", None),
        ({}, "unknown", None),
    ],
)
def test_where_an_execution_stands(fields: dict[str, Any], phase: str, outcome: str | None) -> None:
    """Whichever field says it; what nobody knows is no end."""
    execution = JobExecution.model_validate({"id": "1", **fields})
    assert (phase_of(execution), outcome_of(execution)) == (phase, outcome)


KNOWN = {*ENDS, *LIVE, *CODE_ENDS, "OK", "ERROR", "FINISHED", "ABORTED"}


@given(st.text(max_size=20))
def test_a_word_that_nobody_knows_is_never_an_end(word: str) -> None:
    """Of no system: neither by accident of case nor of spelling."""
    assume(word.strip().upper() not in KNOWN)
    assert CODE_ENDS.get(word_of(CodeTaskStatus(status=word))) is None
    assert ENDS.get(word.upper()) is None
    assert outcome_of(JobExecution(id="1", execution_status=word or "x")) is None
    assert outcome_of(JobExecution(id="1", status=word)) is None


@given(st.integers())
def test_a_state_of_the_activity_log_that_nobody_knows_is_never_an_end(state: int) -> None:
    """Unless it says that it was stopped."""
    assume(state not in (1, 2, 3))
    assert job_outcome(LogEntry(state=state)) is None
    assert job_outcome(LogEntry(state=state, isStopped=True)) is Outcome.CANCELLED

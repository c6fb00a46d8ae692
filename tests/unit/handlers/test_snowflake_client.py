"""The client of Snowflake, row by row of its documents, against a fake that holds both to the published description."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pydantic import ValidationError

from product_live_handlers.remote_http import NoAnswer, NotSent, Refused, read_as
from product_live_handlers.remote_job import Outcome, WaitPolicy
from product_live_handlers.snowflake.client import Place, SnowflakeClient
from product_live_handlers.snowflake.connection import SnowflakeConnection, key_pair_token, open_snowflake
from product_live_handlers.snowflake.manage import SnowflakeManageInput, snowflake_manage
from product_live_handlers.snowflake.models import Task, TaskRun
from product_live_handlers.snowflake.task import SnowflakeTask, SnowflakeTaskInput, run_of
from product_live_worker.executors.alone import run_alone
from support.connectors import timeless
from support.contracts import contract
from support.fake_snowflake import PAT, FakeSnowflake, Plan
from support.job_clock import Leaping, leaping
from support.remotes import ELSEWHERE, Asked, Fault, Reply, snake

pytestmark = pytest.mark.anyio

AT = Place("SALES", "PUBLIC")
PHRASE = "s3cret-phrase"
BASE = "/api/v2/databases/SALES/schemas/PUBLIC/tasks"
DEFINITION = {"name": "T", "definition": "select 1", "schedule": {"schedule_type": "MINUTES_TYPE", "minutes": 10}}


@asynccontextmanager
async def opened(fake: FakeSnowflake, **more: Any) -> AsyncIterator[SnowflakeClient]:
    """Open the client of a fake account."""
    async with fake.served() as url:
        given = {"account_url": url, "auth": "pat", "token": PAT, **more}
        if more.get("auth") == "oauth":
            given = {k: v for k, v in given.items() if k != "token"} | {"token_url": f"{url}/oauth/token"}
        async with open_snowflake(SnowflakeConnection(**given)) as client:
            client.new_clock = Leaping
            yield client


def an_account() -> FakeSnowflake:
    """Give an account with a few tasks."""
    fake = FakeSnowflake()
    fake.run_of_another(fake.add("T"))
    fake.add("T_CHILD", predecessors=["T"])
    fake.add("U")
    return fake


Row = tuple[Callable[[SnowflakeClient], Awaitable[Any]], str, str, dict[str, str], Any]
ROWS: list[Row] = [
    (lambda c: c.list_tasks(AT), "GET", "", {}, None),
    (
        lambda c: c.list_tasks(AT, root_only=True, like="t%", starts_with="T", show_limit=2, from_name="S"),
        "GET", "", {"rootOnly": "true", "like": "t%", "startsWith": "T", "showLimit": "2", "fromName": "S"}, None,
    ),
    *[
        (lambda c, mode=mode: c.create_task(AT, {**DEFINITION, "name": "NEW"}, create_mode=mode),
         "POST", "", {"createMode": mode}, {**DEFINITION, "name": "NEW"})
        for mode in ("errorIfExists", "orReplace", "ifNotExists")
    ],
    (lambda c: c.fetch_task(AT, "T"), "GET", "/T", {}, None),
    (lambda c: c.create_or_alter_task(AT, "T", DEFINITION), "PUT", "/T", {}, DEFINITION),
    (lambda c: c.delete_task(AT, "U"), "DELETE", "/U", {}, None),
    (lambda c: c.delete_task(AT, "NONE", if_exists=True), "DELETE", "/NONE", {"ifExists": "true"}, None),
    (lambda c: c.execute_task(AT, "T"), "POST", "/T:execute", {}, None),
    (lambda c: c.execute_task(AT, "T", async_exec=True, retry_last=False), "POST", "/T:execute",
     {"asyncExec": "true", "retryLast": "false"}, None),
    (lambda c: c.execute_task(AT, "F", async_exec=False, retry_last=True), "POST", "/F:execute",
     {"asyncExec": "false", "retryLast": "true"}, None),
    (lambda c: c.resume_task(AT, "T"), "POST", "/T:resume", {}, None),
    (lambda c: c.suspend_task(AT, "T"), "POST", "/T:suspend", {}, None),
    (lambda c: c.fetch_task_dependents(AT, "T"), "GET", "/T/dependents", {}, None),
    *[
        (lambda c, deep=deep: c.fetch_task_dependents(AT, "T", recursive=deep), "GET", "/T/dependents",
         {"recursive": str(deep).lower()}, None)
        for deep in (True, False)
    ],
    *[
        (lambda c, old=old, most=most: c.get_current_graphs(AT, "T", result_limit=most, deprecated=old),
         "GET", f"/T/{path}", {"resultLimit": str(most)}, None)
        for path, old in (("current-graphs", False), ("current_graphs", True))
        for most in (1, 10000)
    ],
    *[
        (lambda c, old=old, most=most, bad=bad: c.get_complete_graphs(AT, "T", result_limit=most, error_only=bad,
                                                                      deprecated=old),
         "GET", f"/T/{path}", {"resultLimit": str(most), "errorOnly": str(bad).lower()}, None)
        for path, old in (("complete-graphs", False), ("complete_graphs", True))
        for most, bad in ((1, True), (10000, False))
    ],
    (lambda c: c.set_tags(AT, "T", [], if_exists=True), "POST", "/T:set-tags", {"ifExists": "true"}, []),
    (lambda c: c.unset_tags(AT, "T", []), "POST", "/T:unset-tags", {}, []),
    (lambda c: c.get_tags(AT, "T", with_lineage=True), "GET", "/T:get-tags", {"withLineage": "true"}, None),
]  # fmt: skip


@pytest.mark.parametrize("skew", [-300.0, 300.0])
async def test_the_time_is_the_servers(skew: float) -> None:
    """What is told as the server's time is what it says itself, however far that is from the true one."""
    fake = an_account()
    fake.skew = skew
    async with opened(fake) as client:
        _, date = await client.fetch_task(AT, "T")
    assert date == int(fake.now + skew)


@pytest.mark.parametrize("looks", [0, 2], ids=["200", "202"])
async def test_each_row_of_the_documents_is_sent_as_it_says(looks: int) -> None:
    """Method, path, query and body, done at once or accepted first; both sides keep to the published description."""
    fake = an_account()
    fake.run_of_another(fake.add("F", Plan(delay=0, lasts=1, end="FAILED")))
    fake.now += 60
    fake.accepts = dict.fromkeys(contract("snowflake").operations, looks)
    tasks = dict(fake.tasks)
    async with opened(fake) as client:
        for send, method, path, query, body in ROWS:
            fake.tasks = dict(tasks)
            fake.asked.clear()
            fake.result_of.clear()
            await send(client)
            first, *results = fake.asked
            assert first.line == (method, f"{BASE}{path}", query, body)
            assert [asked.line for asked in results] == [("GET", "/api/v2/results/h0", {}, None)] * (
                looks + bool(looks)
            )
    assert fake.broken == []


def test_the_client_has_every_operation_that_is_published() -> None:
    """Sixteen of tasks, and the one of results; the deprecated spellings are options of the new ones."""
    published = [name for name in contract("snowflake").operations if not name.endswith("Deprecated")]
    assert len(contract("snowflake").operations) == 17
    assert [name for name in published if not hasattr(SnowflakeClient, snake(name))] == []


async def test_a_request_that_is_only_accepted_is_followed_to_its_result() -> None:
    """Of any operation; the error that it becomes there is an error."""
    fake = an_account()
    fake.accepts = {"fetchTask": 2, "executeTask": 3, "listTasks": 1}
    async with opened(fake) as client:
        assert (await client.fetch_task(AT, "T"))[0].name == "T"
        await client.execute_task(AT, "T")
        assert len(await client.list_tasks(AT)) == 3
        with pytest.raises(Refused, match="does not exist"):
            await client.fetch_task(AT, "NOWHERE")
        fake.gone.add("executeTask")
        assert await client.execute_task(AT, "T") == ({}, f"req-{len(fake.asked) - 1}")
    assert (fake.tasks["T"].starts, fake.broken) == (2, [])


@pytest.mark.parametrize("kind", ["429", "401", "redirect", "503"])
@pytest.mark.parametrize("auth", ["pat", "oauth"])
async def test_a_start_that_was_accepted_is_never_one_that_was_not_sent(auth: str, kind: str) -> None:
    """Whatever becomes of the look at its result; only what the result itself says is a refusal."""
    fake = an_account()
    fake.accepts = {"executeTask": 3}
    fake.faults += [Fault(kind, "fetchResult", count=2)]
    secrets = {"client_id": "me", "client_secret": "s3cret"} if auth == "oauth" else {}
    async with opened(fake, auth=auth, **secrets) as client:
        if kind == "401" and auth == "oauth":
            fake.faults.append(Fault("400", "login", after=1))
        with pytest.raises(NoAnswer):
            await client.execute_task(AT, "T")
    assert (len(fake.of("executeTask")), fake.tasks["T"].starts) == (1, 1)


@pytest.mark.parametrize("looks", [0, 1000])
async def test_only_the_request_itself_is_kept_from_being_torn_off(looks: int) -> None:
    """Cancelled while the start is in the air, its answer is heard; the result of a 202 is not waited for then."""
    fake = an_account()
    fake.accepts = {"executeTask": looks}
    told = []
    async with opened(fake) as client:
        with anyio.CancelScope() as scope:

            async def cancel(moment: str, asked: Asked) -> None:
                if moment == "arrived" and asked.operation == "executeTask":
                    scope.cancel()
                    for _ in range(10):
                        await anyio.lowlevel.checkpoint()

            fake.at = cancel
            told.append(await client.execute_task(AT, "T"))
    assert (bool(told), scope.cancelled_caught) == (looks == 0, looks > 0)
    assert (fake.tasks["T"].starts, fake.of("fetchResult")) == (1, [])


async def test_a_login_without_an_answer_is_a_request_that_was_not_sent() -> None:
    """Nothing can have been started by it, so nothing is looked for."""
    fake = an_account()
    fake.faults.append(Fault("lose_after_commit", "login"))
    async with opened(fake, auth="oauth", client_id="me", client_secret="s3cret") as client:  # noqa: S106 (of the fake)
        with pytest.raises(NotSent, match="gave no answer"):
            await client.execute_task(AT, "T")
        await client.execute_task(AT, "T")
    assert len(fake.of("executeTask")) == 1


async def test_all_pages_of_a_list_are_read() -> None:
    """As the Link header leads."""
    fake = an_account()
    fake.pages = 1
    async with opened(fake) as client:
        assert [task.name for task in await client.list_tasks(AT)] == ["T", "T_CHILD", "U"]
    assert [asked.query for asked in fake.of("fetchResult")] == [{"page": "1"}, {"page": "2"}]


@pytest.mark.parametrize("location", [ELSEWHERE, "//elsewhere.example.com/x", "/\\elsewhere.example.com", "api/v2/x"])
async def test_a_token_follows_no_address_to_another_host(location: str) -> None:
    """Neither that of a result nor that of a next page."""
    fake = an_account()
    async with opened(fake) as client:
        fake.answer = lambda _: Reply(202, {"resultHandler": "h"}, {"location": location})  # type: ignore[method-assign]
        with pytest.raises(NoAnswer, match="own host"):
            await client.fetch_task(AT, "T")
        fake.answer = lambda _: Reply(200, [], {"Link": f'<{location}>; rel="next"'})  # type: ignore[method-assign]
        with pytest.raises(NoAnswer, match="own host"):
            await client.list_tasks(AT)
    assert len(fake.asked) == 2


async def test_names_are_parts_of_a_path_and_nothing_else() -> None:
    """Quoted names keep their letters; what is no identifier is refused before anything is sent."""
    fake = an_account()
    fake.add('"a/b ?#%"')
    async with opened(fake) as client:
        assert (await client.fetch_task(AT, '"a/b ?#%"'))[0].name == '"a/b ?#%"'
        with pytest.raises(ValueError, match="cannot be a part"):
            await client.fetch_task(AT, "..")
    assert fake.asked[0].path == f"{BASE}/%22a%2Fb%20%3F%23%25%22"
    for bad in ("1abc", "a b", "a/b", "..", 'a"b', "", '"a'):
        with pytest.raises(ValidationError):
            SnowflakeTaskInput.model_validate({"database": "D", "schema": "S", "task": bad})


async def test_role_and_warehouse_are_headers() -> None:
    """Of the connection, unless the input names others."""
    fake = an_account()
    async with opened(fake, role="R", warehouse="W") as client:
        await client.fetch_task(AT, "T")
        await client.fetch_task(AT._replace(role="R2", warehouse="W2"), "T")
    found = [(a.headers["x-snowflake-role"], a.headers["x-snowflake-warehouse"]) for a in fake.asked]
    assert found == [("R", "W"), ("R2", "W2")]


def a_key(**options: Any) -> tuple[rsa.RSAPrivateKey, str]:
    """Make a key; gives its PEM too."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    how = options.get("encrypt", serialization.NoEncryption())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return key, pem.decode()


async def test_a_key_pair_signs_a_token_that_the_public_key_confirms() -> None:
    """Issuer, subject, fingerprint and lifetime as Snowflake wants them; one token serves until it is nearly over."""
    key, pem = a_key(encrypt=serialization.BestAvailableEncryption(PHRASE.encode()))
    connection = SnowflakeConnection(
        account_url="https://my_org-acc.snowflakecomputing.com",
        account="xy12345.eu-west-1",
        user="loader",
        private_key=pem,  # type: ignore[arg-type]  # pydantic makes a secret of it
        private_key_passphrase=PHRASE,  # type: ignore[arg-type]  # the same
    )
    assert connection.account_url == "https://my-org-acc.snowflakecomputing.com"
    head, claims, signature = key_pair_token(connection, 1_000.0).split(".")
    key.public_key().verify(_decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.DER, form)
    print_ = base64.b64encode(hashlib.sha256(public).digest()).decode()
    assert json.loads(_decoded(head)) == {"alg": "RS256", "typ": "JWT"}
    assert json.loads(_decoded(claims)) == {
        "iss": f"XY12345.LOADER.SHA256:{print_}", "sub": "XY12345.LOADER", "iat": 1000, "exp": 1000 + 59 * 60,
    }  # fmt: skip
    fake = an_account()
    fake.accepts_token = lambda kind, token: kind == "KEYPAIR_JWT" and token.count(".") == 2  # type: ignore[method-assign]
    async with opened(fake, auth="key_pair", user="u", private_key=a_key()[1], token=None) as client:
        assert await client.check() == [f"Snowflake accepts the login at {client.url}"]
        await client.fetch_task(AT, "T")
        assert client.session.logins == 1


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def test_oauth_fetches_a_token_and_fetches_another_when_it_is_refused() -> None:
    """By client credentials."""
    fake = an_account()
    async with opened(fake, auth="oauth", client_id="me", client_secret="s3cret", scope="session:role:R") as client:  # noqa: S106 (of the fake)
        await client.fetch_task(AT, "T")
        fake.expire_tokens()
        await client.fetch_task(AT, "T")
    wanted = {
        "grant_type": "client_credentials",
        "client_id": "me",
        "client_secret": "s3cret",
        "scope": "session:role:R",
    }
    assert [asked.body for asked in fake.of("login")] == [wanted] * 2
    assert set(fake.kinds) == {"OAUTH"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"auth": "key_pair", "user": "u"}, "needs private_key"),
        ({"auth": "key_pair", "user": "u", "private_key": "s3cret"}, "no RSA key in PEM"),
        ({"auth": "pat"}, "needs token"),
        ({"auth": "oauth"}, "needs token_url, client_id, client_secret"),
        ({"auth": "pat", "token": "t", "account_url": "http://host.example.com"}, "must be an address"),
        ({"auth": "pat", "token": "t", "account_url": "https://u:s3cret@host"}, "must hold no user"),
        ({"auth": "pat", "token": "t", "ca_file": 5}, "ca_file"),
    ],
)
def test_a_connection_that_cannot_work_is_told_in_words(given: dict[str, Any], told: str) -> None:
    """And shows no secret."""
    with pytest.raises(ValidationError) as refused:
        SnowflakeConnection.model_validate({"account_url": "https://a.example.com", **given})
    assert told in str(refused.value)
    assert "s3cret" not in str(refused.value)


NEW = DEFINITION | {"name": "NEW"}
MANAGED: list[tuple[dict[str, Any], str, str, dict[str, str], Any]] = [
    ({"operation": "list", "root_only": True, "like": "t%", "starts_with": "T", "show_limit": 10000, "from_name": "S"},
     "GET", "",
     {"rootOnly": "true", "like": "t%", "startsWith": "T", "showLimit": "10000", "fromName": "S"}, None),
    *[
        ({"operation": "create", "definition": NEW, "create_mode": mode}, "POST", "", {"createMode": mode}, NEW)
        for mode in ("errorIfExists", "orReplace", "ifNotExists")
    ],
    ({"operation": "fetch", "task": "T"}, "GET", "/T", {}, None),
    ({"operation": "create_or_alter", "task": "T", "definition": DEFINITION}, "PUT", "/T", {}, DEFINITION),
    ({"operation": "delete", "task": "NONE", "if_exists": True}, "DELETE", "/NONE", {"ifExists": "true"}, None),
    ({"operation": "delete", "task": "U", "if_exists": False}, "DELETE", "/U", {"ifExists": "false"}, None),
    ({"operation": "resume", "task": "T"}, "POST", "/T:resume", {}, None),
    ({"operation": "suspend", "task": "T"}, "POST", "/T:suspend", {}, None),
    ({"operation": "dependents", "task": "T", "recursive": False}, "GET", "/T/dependents",
     {"recursive": "false"}, None),
    *[
        ({"operation": f"current_graphs{old}", "task": "T", "result_limit": most}, "GET", f"/T/{path}",
         {"resultLimit": str(most)}, None)
        for path, old in (("current-graphs", ""), ("current_graphs", "_deprecated"))
        for most in (1, 10000)
    ],
    *[
        ({"operation": f"complete_graphs{old}", "task": "T", "error_only": True, "result_limit": most}, "GET",
         f"/T/{path}", {"errorOnly": "true", "resultLimit": str(most)}, None)
        for path, old in (("complete-graphs", ""), ("complete_graphs", "_deprecated"))
        for most in (1, 10000)
    ],
]  # fmt: skip


async def managed(url: str, **given: Any) -> dict[str, Any]:
    """Run `snowflake.manage` once; gives its output."""
    account = {"account_url": url, "auth": "pat", "token": PAT}
    raw = {"database": "SALES", "schema": "PUBLIC", **given}
    outcome = await run_alone(leaping(snowflake_manage), raw, {"connection": "lake"}, connections={"lake": account})
    return outcome.output


async def test_the_handler_for_the_rest_does_each_operation() -> None:
    """Twelve of them, each with all that it takes."""
    fake = an_account()
    tasks = dict(fake.tasks)
    async with fake.served() as url:
        for given, method, path, query, body in MANAGED:
            fake.tasks = dict(tasks)
            fake.asked.clear()
            output = await managed(url, **given)
            assert "code" not in output, output
            assert [asked.line for asked in fake.asked] == [(method, f"{BASE}{path}", query, body)]
    assert fake.broken == []
    assert len({given["operation"] for given, *_ in MANAGED}) == 12


@pytest.mark.parametrize(
    ("operation", "name", "row"),
    [
        ("list", "tasks", {"name": "T", "definition": "select 1;" * 2500}),
        ("dependents", "tasks", {"name": "T", "comment": "x" * 9999}),
        ("current_graphs", "runs", {"run_id": 1, "state": "EXECUTING", "first_error_message": "x" * 9999}),
    ],
)
async def test_a_list_is_as_long_as_an_output_may_be(operation: str, name: str, row: dict[str, Any]) -> None:
    """What is left out is told; a list that is too large is no failure."""

    class Large(FakeSnowflake):
        rows = [row] * 300

        def answer(self, asked: Asked) -> Reply:
            return Reply(200, self.rows)

    fake, task = Large(), {} if operation == "list" else {"task": "T"}
    async with fake.served() as url:
        output = await managed(url, operation=operation, **task)
        assert (output.get("code"), output["truncated"], 20 < len(output[name]) < 300) == (None, True, True)
        fake.rows = [{**row, "definition": "select 1", "comment": "x" * 9999}]
        output = await managed(url, operation=operation, **task)
    assert (output["truncated"], output[name][0]["comment"]) == (False, "x" * 9999)


async def test_a_change_whose_answer_is_lost_is_not_an_error_when_it_was_made() -> None:
    """A repeated create finds what it has made, a repeated delete finds nothing; the first one's errors stay errors."""
    fake = an_account()
    fake.faults += [Fault("lose_after_commit", "createTask"), Fault("lose_after_commit", "deleteTask")]
    async with fake.served() as url:
        made = await managed(url, operation="create", definition={**DEFINITION, "name": "NEW"})
        again = await managed(url, operation="create", definition={**DEFINITION, "name": "NEW"})
        gone = await managed(url, operation="delete", task="NEW")
        missing = await managed(url, operation="delete", task="NEW")
        fake.faults.append(Fault("503", "suspendTask", count=9))
        away = await managed(url, operation="suspend", task="T")
    assert (made["status"], gone["status"]) == ("is there, as was asked for", "is gone, as was asked for")
    assert (again["status_code"], missing["status_code"]) == (409, 404)
    assert away["code"] == "remote_unreachable"


@pytest.mark.parametrize(
    "given",
    [
        {"operation": "create"},
        {"operation": "fetch"},
        {"operation": "list", "show_limit": 0},
        {"operation": "list", "show_limit": 10001},
        {"operation": "create", "definition": {"name": "T", "definition": "x"}, "create_mode": "always"},
        {"operation": "current_graphs", "task": "T", "result_limit": 10001},
        {"operation": "complete_graphs", "task": "T", "result_limit": 0},
        {"operation": "current_graphs_deprecated", "task": "T", "result_limit": 10001},
        {"operation": "complete_graphs_deprecated", "task": "T", "result_limit": 0},
        {"operation": "fetch", "task": "T", "like": "x"},
        {"operation": "create_or_alter", "task": "T", "definition": {"name": "T"}},
        {"operation": "create", "definition": {"name": "T", "definition": "x", "task_auto_retry_attempts": 31}},
        {"operation": "create", "definition": {"name": "T", "definition": "x", "owner": "me"}},
    ],
)
def test_what_an_operation_does_not_take_is_refused(given: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(ValidationError):
        SnowflakeManageInput.model_validate({"database": "D", "schema": "S", **given})


async def test_a_statement_that_takes_long_is_followed() -> None:
    """By its handle; texts are bound, never written into it."""
    fake = FakeSnowflake()
    fake.add("T", Plan())
    async with opened(fake, warehouse="W") as client:
        first = [Reply(202, {"statementHandle": "01a"}), Reply(200, {"statementHandle": "01a", "data": [["x"]]})]
        fake.answer = lambda _: first.pop(0)  # type: ignore[method-assign]
        assert await client.statement(AT, "SELECT ?", "a'b") == [["x"]]
    assert fake.asked[0].body == {
        "statement": "SELECT ?", "timeout": 60, "bindings": {"1": {"type": "TEXT", "value": "a'b"}}, "warehouse": "W",
    }  # fmt: skip
    assert fake.asked[1].path == "/api/v2/statements/01a"


def a_task(client: SnowflakeClient, clock: Leaping, **more: Any) -> SnowflakeTask:
    """Give the job that executes the task T."""
    input = SnowflakeTaskInput.model_validate({"database": "SALES", "schema": "PUBLIC", "task": "T", **more})
    return SnowflakeTask(input, client, clock, WaitPolicy())


@pytest.mark.parametrize("sql", [False, True])
@pytest.mark.parametrize("lasts", [10, 9000])
async def test_after_more_than_an_hour_only_sql_says_that_nothing_was_started(sql: bool, lasts: float) -> None:
    """Without it an empty list proves nothing, and what has begun since then is another's; what still runs is found."""
    fake, clock = FakeSnowflake(), Leaping()
    task = fake.add("T", Plan(delay=0, lasts=lasts))
    async with opened(fake, sql=sql) as client:
        job = a_task(client, clock)
        baseline = await job.baseline()
        asked = clock.now()
        nothing = await job.look({**baseline, "looked_at": asked})
        await job.start(baseline)
        (ours,) = task.runs
        for seconds in (3000, 4200):
            fake.now += seconds
            await clock.sleep(seconds)
            if lasts == 10:
                fake.run_of_another(task)
                fake.now += 60
                await clock.sleep(60)
        found = await job.look({**baseline, "looked_at": asked})
        task.runs.clear()
        empty = await job.look({**baseline, "looked_at": asked})
    assert (nothing.remote, nothing.conclusive) == (None, True)
    assert (found.remote or {}).get("run_id") == (ours.number if sql or lasts == 9000 else None)
    assert found.conclusive is (sql or lasts == 9000)
    assert (empty.remote, empty.conclusive) == (None, sql)
    assert fake.broken == []


@pytest.mark.parametrize("ago", [60, 7200])
@pytest.mark.parametrize("pause", [0, 7200])
@pytest.mark.parametrize("sql", [False, True])
async def test_a_retry_is_found_however_long_ago_its_run_had_failed(ago: float, pause: float, sql: bool) -> None:
    """By what is in the lists anew or otherwise; after a pause of more than an hour by the history alone."""
    fake, clock = FakeSnowflake(tick=0), Leaping()
    task = fake.add("T", Plan(delay=0, lasts=10))
    failed = fake.run_of_another(task, Plan(delay=0, lasts=10, end="FAILED"))
    fake.now += ago
    async with opened(fake, sql=sql) as client:
        job = a_task(client, clock, retry_last=True)
        baseline = await job.baseline()
        nothing = await job.look({**baseline, "looked_at": clock.now()})
        await job.start(baseline)
        asked = clock.now()
        fake.now += pause
        await clock.sleep(pause)
        found = await job.look({**baseline, "looked_at": asked})
    assert (nothing.remote, nothing.conclusive) == (None, True)
    assert (found.remote or {}).get("run_id") == (failed.number if sql or not pause else None)
    assert found.conclusive is (sql or not pause)


async def test_a_run_that_was_planned_is_no_retry() -> None:
    """It begins after the start of a retry, and is another's."""
    fake, clock = FakeSnowflake(tick=0), Leaping()
    fake.run_of_another(fake.add("T"), Plan(delay=60, lasts=1000))
    fake.now += 30
    async with opened(fake, sql=True) as client:
        job = a_task(client, clock, retry_last=True)
        baseline = await job.baseline()
        fake.now += 60
        for looked_at in (clock.now(), clock.now() - 7200):
            assert (await job.look({**baseline, "looked_at": looked_at})).remote is None


GOOD, BAD = (["T", "SUCCEEDED", None, None, "1", "2"], ["T2", "FAILED", "100", "bad", "2", "5"])


@pytest.mark.parametrize(
    ("rows", "state", "name", "ended"),
    [
        ([GOOD], "SUCCEEDED", None, "2"),
        ([GOOD, BAD], "FAILED", "T2", "5"),
        ([GOOD, ["T2", "SKIPPED", None, None, None, "3"]], "SUCCEEDED", None, "3"),
        ([["T2", "SUCCEEDED", None, None, "7", "8"], GOOD, BAD], "SUCCEEDED", None, "8"),
        ([["T2", "EXECUTING", None, None, "7", None], GOOD, BAD], "EXECUTING", None, None),
        ([["T3", "SCHEDULED", None, None, None, None], GOOD, BAD], "SCHEDULED", None, None),
        ([GOOD, ["T2", "CANCELLED", None, None, "2", "3"]], "CANCELLED", None, "3"),
        ([["T", "SKIPPED", None, None, None, None]], "SKIPPED", None, None),
        ([GOOD, ["T2", "PONDERING", "x" * 9, None, None, None]], "PONDERING", None, "2"),
    ],
)
def test_a_run_in_the_history_is_what_all_its_tasks_are(rows: Any, state: str, name: Any, ended: Any) -> None:
    """The last attempt of each counts: what succeeded at once and what a retry has mended are one success."""
    run = run_of(5, rows)
    assert run is not None
    assert (run.run_id, run.state, run.first_error_task_name, run.completed_time) == (5, state, name, ended)
    assert (run.first_error_code, run.first_error_message) == ((100, "bad") if name else (None, None))
    assert run_of(5, []) is None


@pytest.mark.parametrize("data", [[["x", "SCHEDULED"]], [["1"]], [[]], [5], 5, [[{}, {}]]])
async def test_a_history_that_cannot_be_read_is_no_answer(data: Any) -> None:
    """It is asked for again."""

    class Odd(FakeSnowflake):
        def answer(self, asked: Asked) -> Reply:
            if asked.operation != "SubmitStatement":
                return super().answer(asked)
            return Reply(200, {"code": "0", "statementHandle": "01a", "data": data})

    fake, clock = Odd(), Leaping()
    fake.add("T")
    async with opened(fake, sql=True) as client:
        job = a_task(client, clock)
        baseline = await job.baseline()
        for ask in (
            job.look({**baseline, "looked_at": clock.now() - 7200}),
            job.status({"run_id": 1, "root": "id-T", "retries": 0}),
        ):
            with pytest.raises(NoAnswer, match="answered with"):
                await ask


async def test_a_run_that_only_waits_for_its_turn_is_not_ours_yet() -> None:
    """Whoever executes the task replaces it: the lease is kept until it runs, or the time is over."""
    fake, clock = FakeSnowflake(tick=0), Leaping()
    task = fake.add("T", Plan(delay=60, lasts=100))
    async with opened(fake) as client:
        job = a_task(client, clock)
        baseline = await job.baseline()
        await job.start(baseline)
        waiting = await job.look(baseline)
        assert (waiting.remote, waiting.pending) == (None, True)
        fake.now += 60
        began = await job.look(baseline)
        assert (began.remote or {})["run_id"] == task.runs[0].number
        assert began.remote == waiting.scheduled


async def test_without_the_servers_own_time_nothing_found_proves_nothing() -> None:
    """Our clock may be ahead of when the run began there."""
    fake, clock = FakeSnowflake(tick=0), Leaping()
    fake.add("T")
    async with opened(fake) as client:
        job = a_task(client, clock)
        assert (await job.look(await job.baseline())).conclusive
        timeless(fake)
        baseline = await job.baseline()
        assert not (await job.look(baseline)).conclusive


async def test_only_our_own_run_is_cancelled() -> None:
    """A cancellation is of what runs of the task: where that is another's, or nothing, it is not asked for."""
    fake, clock = FakeSnowflake(), Leaping()
    task = fake.add("T", Plan(delay=0, lasts=1000))
    theirs = fake.run_of_another(task)
    async with opened(fake, sql=True) as client:
        job = a_task(client, clock)
        await job.start(await job.baseline())
        ours = {"run_id": task.runs[1].number, "root": "id-T", "retries": 0}
        assert not await job.cancel(ours)
        assert (fake.of("SubmitStatement"), theirs.cancelled) == ([], math.inf)
        fake.now += 1000
        assert await job.cancel(ours)
        fake.now += 1000
        assert not await job.cancel(ours)
    assert (task.runs[1].cancelled < math.inf, theirs.cancelled, len(fake.of("SubmitStatement"))) == (True, math.inf, 1)


async def test_each_retry_by_snowflake_itself_is_waited_for() -> None:
    """Not only the first: a run that is live again may fail again and be retried again."""
    fake, clock = FakeSnowflake(tick=0), Leaping()
    run = fake.run_of_another(fake.add("T", Plan(delay=0, lasts=160, attempts=["FAILED", "FAILED"])))
    async with opened(fake) as client:
        job = a_task(client, clock)
        said = []
        while not said or said[-1].outcome is None:
            said.append(await job.status({"run_id": run.number, "root": "id-T", "retries": 2}))
            fake.now += 10
            await clock.sleep(10)
    assert (said[-1].outcome, "FAILED, perhaps to be retried" in {one.raw for one in said}) == (Outcome.SUCCEEDED, True)


async def test_the_spellings_of_one_task_are_one_lease() -> None:
    """Names without quotes have no case; those in quotes have, and a point in them parts nothing."""
    async with opened(FakeSnowflake()) as client:

        def lease(*names: str) -> str:
            given = dict(zip(("database", "schema", "task"), names, strict=True))
            return a_task(client, Leaping(), **given).lease

        assert len({lease("d", "S", "t"), lease("D", "s", "T"), lease('"D"', '"S"', '"T"')}) == 1
        assert len({lease("d", "s", "t"), lease("d", "s", '"t"'), lease("d", '"s.t"', "u"), lease("d", "s", "u")}) == 4


@pytest.mark.parametrize(("sql", "outcome"), [(False, Outcome.UNKNOWN), (True, Outcome.SUCCEEDED)])
async def test_what_ended_over_an_hour_ago_is_known_by_sql_alone(sql: bool, outcome: Outcome) -> None:
    """The lists prove nothing any more: it is unknown, not skipped."""
    fake = FakeSnowflake()
    run = fake.run_of_another(fake.add("T", Plan(delay=0, lasts=10)))
    fake.now += 7200
    clock = Leaping()
    input = SnowflakeTaskInput.model_validate({"database": "SALES", "schema": "PUBLIC", "task": "T"})
    async with opened(fake, sql=sql) as client:
        job = SnowflakeTask(input, client, clock, WaitPolicy())
        remote = {"run_id": run.number, "root": "id-T", "retries": 0}
        assert (await job.status({**remote, "seen_at": clock.now() - 3500})).outcome is outcome
        if not sql:
            # Seen a moment ago, it is only not listed yet, or skipped at last.
            job = SnowflakeTask(input, client, clock, WaitPolicy())
            assert (await job.status({**remote, "seen_at": clock.now() - 60})).outcome is None
            await clock.sleep(120)
            assert (await job.status({**remote, "seen_at": clock.now() - 180})).outcome is Outcome.SKIPPED


@pytest.mark.parametrize(("model", "said"), [(Task, {"name": ["T"]}), (TaskRun, {"run_id": {}}), (TaskRun, "no run")])
def test_what_is_not_as_the_documents_say_is_no_answer(model: type[Task | TaskRun], said: object) -> None:
    """A run that cannot be read is looked for again; it is neither a failure of the job, nor of the handler."""
    with pytest.raises(NoAnswer, match="Snowflake answered with"):
        read_as(model, said, "Snowflake")

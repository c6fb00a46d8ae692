"""Informatica jobs and code tasks through the real daemon, the sandbox and a fake organization."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from product_live_handlers.informatica.code_task import informatica_code_task, informatica_code_task_status
from product_live_handlers.informatica.job import informatica_job, informatica_job_stop
from product_live_worker.executors.connections import check_connections
from support.connectors import Scenario, leaping, timeless
from support.fake_informatica import LOGINS, PASSWORD, USER, Course, FakeInformatica
from support.remotes import Fault
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio

HANDLERS = [informatica_job, informatica_job_stop, informatica_code_task, informatica_code_task_status]
TASKS = {
    "run": "informatica.job",
    "stop": "informatica.job_stop",
    "code": "informatica.code_task",
    "look": "informatica.code_task_status",
}
WAIT = {"timeout_s": 900, "poll_initial_s": 15, "poll_max_s": 60}
FOREVER = Course(lasts=math.inf)
HOOKS = "https://hooks.example.com"


@asynccontextmanager
async def serving(
    fake: FakeInformatica, state: Path, *, leaps: bool = True, http: dict[str, Any] | None = None, **account: Any
) -> AsyncIterator[RunningWorker]:
    """Run a worker with a task for each handler."""
    async with fake.served() as url:
        more = {
            name: value.replace("{url}", url) if isinstance(value, str) else value for name, value in account.items()
        }
        section = {"login_url": url, "username": USER, "password": PASSWORD, "max_in_flight": 20, **more}
        tasks = {
            name: {"handler": handler, "watch": 0.05, "settings": {"connection": "org"}}
            for name, handler in TASKS.items()
        }
        handlers = [leaping(one) if leaps else one for one in HANDLERS]
        async with running_worker(handlers, state, world=new_world(*TASKS, limit=0),
                                  budget={"requests_per_minute": 0}, tasks=tasks, http=http or {"port": 0},
                                  connections={"org": section}) as worker:  # fmt: skip
            yield worker


def given(task: str, **more: Any) -> dict[str, Any]:
    """Give an input that names a task."""
    named = {} if {"task_id", "task_federated_id"} & more.keys() else {"task_name": task}
    return {**named, "task_type": "MTT", "wait": WAIT, **more}


def at(operation: str, kind: str, **more: Any) -> tuple[Fault, ...]:
    """Give a fault."""
    return (Fault(kind, operation, **more),)


def an_archive(compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Give a log in an archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("s.log", "a packed log")
    return file.getvalue()


def spoiled(archive: bytes, at: int, *, after: bytes, byte: int) -> bytes:
    """Change one byte, so far behind the first place of a header."""
    place = archive.index(after) + at
    return archive[:place] + bytes([byte]) + archive[place + 1 :]


BROKEN_LOGS = {
    "no_directory": spoiled(an_archive(), 0, after=b"PK\x01\x02", byte=0),
    "wrong_sum": spoiled(an_archive(zipfile.ZIP_STORED), 0, after=b"packed", byte=0),
    "no_stream": spoiled(an_archive(), 35, after=b"PK\x03\x04", byte=0xFF),
    "encrypted": spoiled(an_archive(), 8, after=b"PK\x01\x02", byte=1),
    "unknown_packing": spoiled(an_archive(), 10, after=b"PK\x01\x02", byte=99),
}
JOBS = [
    Scenario(name="success", given={}, posts=1,
             more={"raw_status": "state 1", "success_source_rows": 12, "failed_target_rows": 1, "completed_via": "poll",
                   "error_message": None, "session_log_excerpt": None}),
    Scenario(name="with_log", given={"fetch_session_log": True},
             more={"session_log_excerpt": "session log: all is well"}),
    Scenario(name="with_archive", given={"fetch_session_log": True}, plan=Course(log=an_archive()),
             more={"session_log_excerpt": "a packed log"}),
    *[
        Scenario(name=f"with_log_{name}", given={"fetch_session_log": True}, plan=Course(log=log),
                 more={"session_log_excerpt": None})
        for name, log in BROKEN_LOGS.items()
    ],
    Scenario(name="warned", given={}, plan=Course(state=2), outcome="succeeded_with_warnings"),
    Scenario(name="strict", given={"warning_is_failure": True}, plan=Course(state=2), code="remote_warning",
             outcome="succeeded_with_warnings"),
    Scenario(name="fails", given={}, plan=Course(state=3, error="ORA-01017"), code="remote_failed", outcome="failed",
             more={"error_message": "ORA-01017"}),
    Scenario(name="stopped", given={}, plan=Course(state=3, stopped=True), code="remote_cancelled",
             outcome="cancelled"),
    Scenario(name="strange", given={}, plan=Course(state=9), code="remote_unknown", outcome="unknown"),
    Scenario(name="in_no_list", given={}, plan=Course(lasts=1, listed_after=math.inf), code="remote_unknown",
             outcome="unknown", more={"raw_status": "in no list"}),
    Scenario(name="timeout_leaves", given={}, plan=FOREVER, code="timed_out", outcome="timed_out"),
    Scenario(name="timeout_cancels", given={"wait": {**WAIT, "on_timeout": "cancel"}}, plan=FOREVER, code="timed_out",
             outcome="cancelled"),
    Scenario(name="busy", given={}, faults=at("start_job", "429", count=3), posts=4),
    Scenario(name="session_over", given={}, faults=at("start_job", "401"), posts=2),
    *[
        Scenario(name=f"lost_{kind}", given={}, faults=at("start_job", kind), posts=1, more={"correlation": "adopted"})
        for kind in ("lose_after_commit", "reset_mid_body", "503_after_commit", "garbage_json", "xml")
    ],
    Scenario(name="lost_before", given={}, faults=at("start_job", "lose_before"), code="ambiguous_start",
             outcome="unknown", starts=0, posts=1),
    Scenario(name="sent_again", given={"resend_on_ambiguous": True}, faults=at("start_job", "503"), posts=2),
    *[
        Scenario(name=f"refused_{status}", given={}, faults=at("start_job", status), code="remote_refused", outcome="-",
                 starts=0, posts=1, more={"status_code": int(status), "error_code": f"CODE_{status}"})
        for status in ("400", "403", "404")
    ],
]  # fmt: skip


async def test_each_scenario_of_a_job_ends_as_it_must(tmp_path: Path) -> None:
    """Never two starts, and one at each success; warnings are told apart; faults while polling are borne."""
    fake = FakeInformatica()
    for scenario in JOBS:
        fake.add(scenario.name, scenario.plan)
        fake.faults += [Fault(f.kind, f.operation, scenario.name, f.count, f.after) for f in scenario.faults]
    polled = ("lose_before", "503", "garbage_json", "xml", "429", "401")
    for kind in polled:
        fake.faults += at("log", kind, subject=fake.add(f"poll_{kind}").name)
    fake.faults += at("log", "500", subject=fake.add("poll_fails", FOREVER).name, count=99)
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run(
            "run",
            *(given(s.name) | s.given for s in JOBS),
            *(given("", task_id=fake.tasks[f"poll_{kind}"].id) for kind in polled),
            given("", task_id=fake.tasks["poll_fails"].id),
            given("nowhere"),
        )
    problems = [
        problem
        for s, execution in zip(JOBS, executions, strict=False)
        for problem in s.problems(execution, fake.tasks[s.name].starts, len(fake.of("start_job", s.name)))
    ]
    assert problems == []
    *well, failing, nowhere = executions[len(JOBS) :]
    assert [execution.status for execution in well] == ["COMPLETED"] * len(polled)
    assert failing.output["code"] == "remote_unreachable"
    assert nowhere.output["code"] == "remote_refused"
    assert fake.broken == []
    assert [fault for fault in fake.faults if 0 < fault.count < 5] == []
    assert "s3cret" not in repr([execution.output for execution in executions])


@pytest.mark.parametrize("skew", [-300.0, 300.0])
async def test_a_task_is_named_in_three_ways(tmp_path: Path, skew: float) -> None:
    """By its id, its federated id or its name: a lost start is found by each, whatever the clocks say."""
    fake = FakeInformatica()
    fake.skew = skew
    names = {"by_id": {}, "by_name": {}, "by_federated": {"task_federated_id": "fed-by_federated"}}
    for name in names:
        fake.run_of_another(fake.add(name), Course(lasts=300))
        fake.faults += at("start_job", "lose_after_commit", subject=name)
    names["by_id"] = {"task_id": fake.tasks["by_id"].id}
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", *(given(name, **more) for name, more in names.items()))
        bad = await worker.run("run", given("a", task_id="b") | {"task_name": "a"}, {"task_type": "MTT"},
                               given("a", task_type="OTHER"))  # fmt: skip
    assert [(e.status, e.output.get("run_id")) for e in executions] == [("COMPLETED", 2)] * 3
    assert [execution.output["code"] for execution in bad] == ["invalid_input"] * 3
    sent = [asked.body for asked in fake.of("start_job")]
    assert {"@type": "job", "taskId": fake.tasks["by_id"].id, "taskType": "MTT"} in sent
    assert {"@type": "job", "taskFederatedId": "fed-by_federated", "taskType": "MTT"} in sent
    assert {"@type": "job", "taskName": "by_name", "taskType": "MTT"} in sent
    assert fake.broken == []


async def test_a_stop_is_only_of_what_is_ours_alone(tmp_path: Path) -> None:
    """It ends all that runs of a task: another's run is not stopped with ours, unless that is asked for."""
    fake = FakeInformatica()
    for name in ("shared", "wanted", "both", "unwanted"):
        fake.run_of_another(fake.add(name, FOREVER)) if name in ("shared", "both") else fake.add(name, FOREVER)
    late = {"wait": {**WAIT, "on_timeout": "cancel"}}
    async with serving(fake, tmp_path) as worker:
        (unwanted,) = worker.submit("run", given("unwanted", wait={**WAIT, "timeout_s": 1e9}))
        await until(lambda: fake.tasks["unwanted"].starts == 1)
        shared, wanted, both = await worker.run(
            "run",
            given("shared") | late,
            given("wanted", clean_stop=False) | late,
            given("both", stop_even_if_shared=True) | late,
        )
        unwanted.status = "CANCELED"
        await until(lambda: fake.tasks["unwanted"].runs[0].stopped_at < math.inf)
        refused, stopped, nothing = await worker.run(
            "stop",
            given("shared") | {"wait": None},
            given("shared", stop_even_if_shared=True) | {"wait": None},
            given("unwanted", run_id=1) | {"wait": None},
        )
    assert (shared.output["code"], fake.tasks["shared"].starts) == ("cancel_unsupported", 1)
    assert [(e.output["code"], e.output["outcome"]) for e in (wanted, both)] == [("timed_out", "cancelled")] * 2
    assert (refused.output["code"], refused.output["live_runs"]) == ("not_alone", [1, 2])
    assert (stopped.output, nothing.status) == ({"stopping": True, "live_runs": [1, 2]}, "COMPLETED")
    asked = [(a.query, a.body["taskName"]) for a in fake.of("stop_job")]
    assert ({}, "wanted") in asked
    assert ({"cleanStop": "true"}, "both") in asked
    assert [name for _, name in asked].count("shared") == 1
    assert fake.broken == []


async def test_a_callback_ends_the_wait_and_is_confirmed(tmp_path: Path) -> None:
    """Sent early, forged, twice and late: only what the log says counts; a lost one is made up for by polls."""
    fake = FakeInformatica(tick=0.0)
    for name in ("called", "early", "forged"):
        fake.add(name, FOREVER)
    http = {"port": 0, "public_url": HOOKS, "callback_port": 0}
    waits = {"completion": "callback", "wait": {**WAIT, "poll_initial_s": 1000, "poll_max_s": 1000, "timeout_s": 3000}}
    async with serving(fake, tmp_path, leaps=False, http=http) as worker, httpx.AsyncClient(trust_env=False) as web:

        async def call(address: str, run: float, status: str = "COMPLETED") -> int:
            body = {"@type": "callbackUrlResponse", "objectName": "taskName", "runId": run, "status": status}
            url = f"http://127.0.0.1:{worker.daemon.callback_port}{address.removeprefix(HOOKS)}"
            return (await web.post(url, content=json.dumps(body))).status_code

        async def before_the_answer(moment: str, asked: Any) -> None:
            if (asked.operation, asked.subject, moment) == ("start_job", "early", "done"):
                fake.tasks["early"].runs[0].course = Course(lasts=0, listed_after=0)
                assert await call(asked.body["callbackURL"], 1) == 200

        fake.at = before_the_answer
        called, early, forged = worker.submit("run", *(given(name) | waits for name in ("called", "early", "forged")))
        await until(
            lambda: all(fake.tasks[n].starts == 1 and fake.of("log", "") for n in ("called", "early", "forged"))
        )
        address = fake.tasks["called"].runs[0].callback
        assert address.startswith(f"{HOOKS}/callbacks/")
        assert await call(f"{address}x", 1) == 404
        assert await call(address, 99) == 200
        assert await call(fake.tasks["forged"].runs[0].callback, math.inf) == 200
        assert await call(fake.tasks["forged"].runs[0].callback, 1, "COMPLETED") == 200
        fake.tasks["called"].runs[0].course = Course(lasts=0, listed_after=0)
        assert [await call(address, 1) for _ in range(3)] == [200] * 3
        await until(lambda: called.status == early.status == "COMPLETED")
        assert await call(address, 1) == 200
        # It said that it is done, and the log knows of no end.
        assert forged.status == "IN_PROGRESS"
        forged.status = "CANCELED"
        await until(lambda: fake.tasks["forged"].runs[0].stopped_at < math.inf)
    assert called.output["completed_via"] == "callback"
    assert [fake.tasks[name].starts for name in ("called", "early", "forged")] == [1, 1, 1]
    assert "callbacks/" not in repr(called.output)


async def test_without_an_address_nothing_is_started(tmp_path: Path) -> None:
    """`completion = "callback"` needs http.public_url; the message says so."""
    fake = FakeInformatica()
    fake.add("called")
    async with serving(fake, tmp_path) as worker:
        (execution,) = await worker.run("run", given("called", completion="callback"))
    assert (execution.output["code"], fake.of("start_job")) == ("callbacks_unavailable", [])
    assert "http.public_url" in execution.output["message"]


ENDED = "2022-04-04T20:23:57.000"
DONE = {"status": "SUCCESS", "endTime": ENDED}
WORDS: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "plain": ([{"status": "STARTING"}, {"status": "RUNNING"}, DONE], "", "succeeded"),
    "table": ([{"executionState": "QUEUED"}, {"executionState": "SUCCEEDED", "endTime": ENDED}], "", "succeeded"),
    "no_end": ([{"status": "SUCCESS", "endTime": None}, DONE], "", "succeeded"),
    "fails": (
        [{"status": "FAILED", "endTime": ENDED, "errorMessage": "WES_internal_error"}], "remote_failed", "failed",
    ),
    "fails_by_table": (
        [{"executionState": "FAILED", "endTime": ENDED, "firstErrorMessage": "WES_internal_error"}],
        "remote_failed", "failed",
    ),
    "cancelled": ([{"executionState": "CANCELLED", "endTime": ENDED}], "remote_cancelled", "cancelled"),
    "unknown_yet": ([{}, {}, {"status": "RUNNING"}, DONE], "", "succeeded"),
    "never_known": ([{}], "remote_unknown", "unknown"),
    "strange": ([{"status": "PONDERING"}], "timed_out", "timed_out"),
    "for_ever": ([{"status": "RUNNING"}], "timed_out", "timed_out"),
}  # fmt: skip
STARTS = {"lose_before": 0, "503": 0, "lose_after_commit": 1, "garbage_json": 1, "xml": 1}


async def test_each_scenario_of_a_code_task_ends_as_it_must(tmp_path: Path) -> None:
    """Both spellings of each field are read; a start whose answer is lost is never sent again unless that is asked."""
    fake = FakeInformatica()
    fake.code_tasks = {name: words for name, (words, _, _) in WORDS.items()}
    for kind in STARTS:
        fake.code_tasks[f"lost_{kind}"] = WORDS["plain"][0]
        fake.faults += at("start_code_task", kind, subject=f"lost_{kind}")
    for name in ("again", "busy", "7"):
        fake.code_tasks[name] = WORDS["plain"][0]
    fake.faults += at("start_code_task", "503", subject="again") + at("start_code_task", "429", subject="busy")
    fake.code_tasks["faulty"] = WORDS["plain"][0]
    fake.faults += [fault for kind in ("503", "xml", "401") for fault in at("code_task_status", kind, subject="faulty")]

    def code(name: str | int, **more: Any) -> dict[str, Any]:
        return {"code_task_id": name, "wait": WAIT, **more}

    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("code", *(code(name) for name in WORDS))
        lost = await worker.run("code", *(code(f"lost_{kind}") for kind in STARTS))
        others = await worker.run(
            "code", code("again", resend_on_ambiguous=True), code("busy"), code(7), code("faulty")
        )
        (nowhere,) = await worker.run("code", code("nowhere"))
    found = {name: (e.output.get("code", ""), e.output["outcome"]) for name, e in zip(WORDS, executions, strict=True)}
    assert found == {name: (code, outcome) for name, (_, code, outcome) in WORDS.items()}
    by_name = dict(zip(WORDS, executions, strict=True))
    assert {by_name[n].output["error_message"] for n in ("fails", "fails_by_table")} == {"WES_internal_error"}
    assert [e.output["code"] for e in lost] == ["ambiguous_start"] * len(STARTS)
    assert {kind: fake.code_starts(f"lost_{kind}") for kind in STARTS} == STARTS
    assert [(e.status, fake.code_starts(n)) for e, n in zip(others, ("again", "busy", "7", "faulty"), strict=True)] == [
        ("COMPLETED", 1)
    ] * 4
    assert nowhere.output["code"] == "remote_refused"
    assert {"codeTaskId": 7} in [asked.body for asked in fake.of("start_code_task")]
    assert fake.broken == []


async def test_a_code_task_is_asked_for_and_cancelled(tmp_path: Path) -> None:
    """Asked for once, as it stands; cancelled where the connection says by which path, and left running otherwise."""
    fake = FakeInformatica()
    fake.code_tasks["long"] = [{"status": "RUNNING", "sessionLogUrl": "logservice/api/v1//jobs/6p/logs"}]
    late = {"code_task_id": "long", "wait": {**WAIT, "on_timeout": "cancel"}}
    async with serving(fake, tmp_path / "without") as worker:
        (left,) = await worker.run("code", late)
        (seen, unknown) = await worker.run("look", {"job_id": left.output["job_id"]}, {"job_id": "nope"})
    async with serving(fake, tmp_path / "with", cancel_path="/disnext/api/v1/CodeTask/Cancel/{job_id}") as worker:
        (cancelled,) = await worker.run("code", late)
    assert (left.output["code"], cancelled.output["code"]) == ("cancel_unsupported", "timed_out")
    assert (cancelled.output["outcome"], len(fake.of("cancel_code_task"))) == ("cancelled", 1)
    assert (seen.output["outcome"], seen.output["raw_status"]) == ("unknown", "RUNNING")
    assert seen.output["session_log_url"] == "logservice/api/v1/jobs/6p/logs"
    assert unknown.output["code"] == "remote_refused"
    assert fake.broken == []


@pytest.mark.parametrize(("auth", "jwt"), [("v2", False), ("v3", False), ("v3", True), ("ids", False)])
async def test_all_share_a_session_which_is_renewed_once_and_ended(tmp_path: Path, auth: str, jwt: bool) -> None:
    """Whichever the login: one for thirty executions, one more when it is over, a logout at the end."""
    fake = FakeInformatica(jwt=jwt)
    for number in range(30):
        fake.add(f"t{number}", FOREVER)
    base = {"base_url": "{url}/saas"} if auth == "ids" else {}
    async with serving(fake, tmp_path, auth=auth, **base) as worker:
        patient = {**WAIT, "timeout_s": 1e9}
        executions = worker.submit("run", *(given(f"t{number}", wait=patient) for number in range(30)))
        await until(lambda: all(task.starts == 1 for task in fake.tasks.values()))
        assert fake.tokens == 1
        fake.expire_tokens()
        await until(lambda: fake.tokens == 2)
        (finding,) = await check_connections(worker.daemon.catalogue.tasks.values())
        assert finding == (True, f"connection org: Informatica accepts {USER}; the session is valid for 29 min")
        for task in fake.tasks.values():
            task.runs[0].course = Course(lasts=1)
        await until(lambda: all(execution.status == "COMPLETED" for execution in executions))
    # The third is that of the check, which is a connection of its own.
    assert [asked.operation for asked in fake.asked if asked.operation in LOGINS] == [f"login_{auth}"] * 3
    assert len(fake.of(f"logout_{auth}")) == (0 if auth == "ids" else 2)
    assert fake.broken == []


async def test_a_refused_login_is_told_and_not_repeated(tmp_path: Path) -> None:
    """Bad passwords lock accounts: one attempt for all; the password is in no message, though the fake repeats it."""
    fake = FakeInformatica()
    fake.add("a")
    async with serving(fake, tmp_path, password=f"{PASSWORD}-wrong", auth="v2") as worker:
        executions = await worker.run("run", *(given("a", key=str(n)) for n in range(5)))
    assert {execution.output["code"] for execution in executions} == {"login_refused"}
    assert len(fake.asked) == 1
    assert "s3cret" not in repr([execution.output for execution in executions])


async def test_without_the_servers_own_time_no_start_is_sent_again(tmp_path: Path) -> None:
    """Nothing found since a time by our own clock proves nothing; what is found is ours all the same."""
    fake = FakeInformatica()
    timeless(fake)
    fake.add("Lost")
    fake.add("Done")
    fake.faults += at("start_job", "lose_before", subject="Lost") + at("start_job", "lose_after_commit", subject="Done")
    async with serving(fake, tmp_path) as worker:
        lost, done = await worker.run(
            "run", given("Lost", resend_on_ambiguous=True), given("Done", resend_on_ambiguous=True)
        )
    assert (lost.output["code"], len(fake.of("start_job", "Lost"))) == ("ambiguous_start", 1)
    assert (done.status, done.output["correlation"]) == ("COMPLETED", "adopted")

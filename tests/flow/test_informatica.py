"""Informatica jobs and code tasks through the real daemon, the sandbox and a fake organization."""

from __future__ import annotations

import io
import json
import math
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from product_live_handlers.informatica.code_task import informatica_code_task, informatica_code_task_status
from product_live_handlers.informatica.job import informatica_job, informatica_job_stop
from product_live_worker import sandbox
from product_live_worker.executors.connections import check_connections
from product_live_worker.sandbox.records import FINAL
from support.connectors import Scenario, both_have, cancelled, is_waiting, retried, timeless, two_workers
from support.fake_informatica import (
    AT_ONCE,
    FIRST_PAUSE,
    LOGINS,
    LONGEST_CALLING,
    LONGEST_PAUSE,
    OVER_API,
    PASSWORD,
    USER,
    Course,
    FakeInformatica,
    Task,
)
from support.job_clock import leaping
from support.journals import allow, query, refuse
from support.remotes import Asked, Fault
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio

HANDLERS = [informatica_job, informatica_job_stop, informatica_code_task, informatica_code_task_status]
LEAPING = [leaping(one) for one in HANDLERS]
TASKS = {
    "run": "informatica.job",
    "stop": "informatica.job_stop",
    "code": "informatica.code_task",
    "look": "informatica.code_task_status",
}
WAIT = {"timeout_s": 900, "poll_initial_s": 15, "poll_max_s": 60}
PATIENT = {**WAIT, "timeout_s": 1e9}
FOREVER = Course(lasts=math.inf)
CANCEL_PATH = "/disnext/api/v1/CodeTask/Cancel/{job_id}"
HOOKS = "https://hooks.example.com"
ENDED = "2022-04-04T20:23:57.000"
DONE = {"status": "SUCCESS", "endTime": ENDED}


def sections_of(url: str, **account: Any) -> dict[str, Any]:
    """Give the settings of a worker with a task for each handler."""
    section = {"login_url": url, "username": USER, "password": PASSWORD, "max_in_flight": 20, **account}
    tasks = {
        name: {"handler": handler, "watch": 0.05, "settings": {"connection": "org"}} for name, handler in TASKS.items()
    }
    return {"budget": {"requests_per_minute": 0}, "tasks": tasks, "connections": {"org": section}}


@asynccontextmanager
async def serving(
    fake: FakeInformatica, state: Path, *, leaps: bool = True, http: dict[str, Any] | None = None, **account: Any
) -> AsyncIterator[RunningWorker]:
    """Run a worker with a task for each handler."""
    async with fake.served() as url:
        more = {
            name: value.replace("{url}", url) if isinstance(value, str) else value for name, value in account.items()
        }
        sections = {**sections_of(url, **more), "http": http or {"port": 0}}
        world = new_world(*TASKS, limit=0)
        async with running_worker(LEAPING if leaps else HANDLERS, state, world=world, **sections) as worker:
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
    Scenario(name="only_xml", given={}, faults=at("log", "xml", count=99), code="poll_failed",
             outcome="unknown", posts=1, says="Informatica answered 200 in XML or HTML where JSON was asked for"),
    Scenario(name="busy", given={}, faults=at("start_job", "429", count=3), posts=4),
    Scenario(name="redirected", given={}, faults=at("start_job", "redirect"), code="remote_refused", outcome="-",
             starts=0, posts=1, says="redirect (307), which is not followed"),
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
        for status in ("400", "403", "404", "405", "409")
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
    fake.code_tasks["7"] = [{"status": "RUNNING"}, DONE]
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", *(given(name, **more) for name, more in names.items()))
        (code,) = await worker.run("code", {"code_task_id": "7", "wait": WAIT})
        bad = await worker.run("run", given("a", task_id="b") | {"task_name": "a"}, {"task_type": "MTT"},
                               given("a", task_type="OTHER"))  # fmt: skip
    assert [(e.status, e.output.get("run_id")) for e in executions] == [("COMPLETED", 2)] * 3
    assert (code.status, fake.code_starts("7")) == ("COMPLETED", 1)
    assert [execution.output["code"] for execution in bad] == ["invalid_input"] * 3
    sent = [asked.body for asked in fake.of("start_job")]
    assert {"@type": "job", "taskId": fake.tasks["by_id"].id, "taskType": "MTT"} in sent
    assert {"@type": "job", "taskFederatedId": "fed-by_federated", "taskType": "MTT"} in sent
    assert {"@type": "job", "taskName": "by_name", "taskType": "MTT"} in sent
    assert fake.broken == []


OTHERS = [
    (Scenario(name="in_the_ui", given={}, starts=0, posts=1, code="ambiguous_start", outcome="unknown"), {}),
    (Scenario(name="beside_ours", given={}, posts=1, more={"correlation": "adopted", "run_id": 2}), {}),
    *[
        (Scenario(name=name, given={"resend_on_ambiguous": True}, plan=plan, posts=2, more={"run_id": 2}), who)
        for name, plan, who in (
            ("in_the_ui_then_ours", Course(), {}),
            ("by_a_schedule_of_ours", Course(), {"by": USER, "context": "SCHEDULER"}),
            ("over_the_api_and_done", Course(lasts=0, listed_after=0), {"context": OVER_API}),
        )
    ],
    # Only its row in the log says who started it.
    (Scenario(name="over_the_api", given={"resend_on_ambiguous": True}, plan=FOREVER, starts=0, posts=1,
              code="remote_unknown", outcome="unknown", says="started by somebody@example.com"), {"context": OVER_API}),
    (Scenario(name="untold", given={"resend_on_ambiguous": True}, plan=Course(told=False), starts=0, posts=1,
              code="ambiguous_start", outcome="unknown"), {}),
]  # fmt: skip


async def test_the_run_of_another_is_never_taken_for_ours(tmp_path: Path) -> None:
    """Begun while our start was lost, it is told by who started it and how; where nobody says that, nothing is done."""
    fake = FakeInformatica()
    who = {scenario.name: others for scenario, others in OTHERS}
    for scenario, _ in OTHERS:
        fake.add(scenario.name, scenario.plan)
        kind = "lose_after_commit" if scenario.name == "beside_ours" else "lose_before"
        fake.faults += at("start_job", kind, subject=scenario.name)

    async def meanwhile(moment: str, asked: Asked) -> None:
        if (asked.operation, moment) == ("start_job", "arrived") and not fake.tasks[asked.subject].runs:
            fake.run_of_another(fake.tasks[asked.subject], **who[asked.subject])
        if (asked.operation, asked.subject) == ("log", "over_the_api") and "runId" in asked.query:
            # It is waited for, so it has been adopted.
            fake.tasks["over_the_api"].runs[0].course = ENDED_WELL

    fake.at = meanwhile
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", *(given(s.name) | s.given for s, _ in OTHERS))
    problems = [
        problem
        for (s, _), execution in zip(OTHERS, executions, strict=True)
        for problem in s.problems(execution, fake.tasks[s.name].starts, len(fake.of("start_job", s.name)))
    ]
    assert problems == []
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


CALLED = {"completion": "callback", "wait": {**WAIT, "poll_initial_s": 1000, "poll_max_s": 1000, "timeout_s": 3000}}
LISTENING = {"port": 0, "public_url": HOOKS, "callback_port": 0}
ENDED_WELL = Course(lasts=0, listed_after=0)


def listening(fake: FakeInformatica, state: Path, **more: Any) -> AbstractAsyncContextManager[RunningWorker]:
    """Run a worker that can be called back, on the true clock: only a call ends its waits in a test's time."""
    return serving(fake, state, leaps=False, http=LISTENING, **more)


def connect(fake: FakeInformatica, worker: RunningWorker) -> None:
    """Let the public address lead to the worker."""
    fake.hooks = (HOOKS, f"http://127.0.0.1:{worker.daemon.callback_port}")


async def test_a_callback_ends_the_wait_and_is_confirmed(tmp_path: Path) -> None:
    """Sent early, forged, twice and late: only what the log says counts, and each is answered by 200 the first time."""
    fake = FakeInformatica(tick=0.0)
    called, early, forged = (fake.add(name, FOREVER) for name in ("called", "early", "forged"))
    early_calls: list[int] = []

    async def before_the_answer(moment: str, asked: Asked) -> None:
        if (asked.operation, asked.subject, moment) == ("start_job", "early", "done"):
            early_calls.extend(await fake.call_back(early))
        if (asked.operation, asked.subject, moment) == ("log", "early", "answered"):
            # The list is behind the call: without that, the next look would be in a quarter of an hour.
            early.runs[0].course = ENDED_WELL

    fake.at = before_the_answer
    async with listening(fake, tmp_path) as worker:
        connect(fake, worker)
        ended, before, still = worker.submit("run", *(given(name) | CALLED for name in ("called", "early", "forged")))
        await until(lambda: all(is_waiting(worker, e) for e in (ended, still)) and before.status in FINAL)
        # It says that the run is done, and the log knows of no end.
        assert await fake.call_back(forged) == [200]
        assert await post(fake, forged, runId=math.inf) == 200
        # The document's sample, which is no JSON.
        sample = json.loads((SEEDS / "callback.json").read_text(encoding="utf-8"))["as_it_stands"]
        assert await post(fake, forged, sample) == 200
        # Of another run, and to an address that nobody was given.
        assert await post(fake, called, runId=99) == 200
        assert await post(fake, called, beside="x") == 404
        called.runs[0].course = ENDED_WELL
        assert [await fake.call_back(called) for _ in range(3)] == [[200]] * 3
        await until(lambda: ended.status in FINAL)
        assert await fake.call_back(called) == [200]
        assert still.status == "IN_PROGRESS"
        still.status = "CANCELED"
        await until(lambda: forged.runs[0].stopped_at < math.inf)
    assert [(e.status, e.output["completed_via"]) for e in (ended, before)] == [("COMPLETED", "callback")] * 2
    assert early_calls == [200]
    assert called.runs[0].callback.startswith(f"{HOOKS}/callbacks/")
    assert [task.starts for task in (called, early, forged)] == [1, 1, 1]


async def post(fake: FakeInformatica, task: Task, text: str = "", *, beside: str = "", **said: Any) -> int:
    """Send what Informatica would not, to a task's address or beside it; gives the status."""
    body = {"@type": "callbackUrlResponse", "objectName": "taskName", "status": "COMPLETED", **said}
    async with httpx.AsyncClient(trust_env=False) as web:
        url = task.runs[-1].callback.replace(*fake.hooks) + beside
        return (await web.post(url, content=text or json.dumps(body))).status_code


async def test_a_call_is_repeated_until_it_is_stored(tmp_path: Path) -> None:
    """Three times at once, then ever later: while the journal cannot be written the answer is not 200."""
    fake = FakeInformatica(tick=0.0)
    task = fake.add("called", FOREVER)
    async with listening(fake, tmp_path) as worker:
        connect(fake, worker)
        (execution,) = worker.submit("run", given("called") | CALLED)
        await until(lambda: is_waiting(worker, execution))
        task.runs[0].course = ENDED_WELL
        refuse(tmp_path / "worker.db", "INSERT", "callback_bodies")

        async def mend(attempts: int) -> None:
            if attempts == AT_ONCE + 2:
                allow(tmp_path / "worker.db", "INSERT", "callback_bodies")

        began = fake.now
        assert await fake.call_back(task, after=mend) == [503] * (AT_ONCE + 2) + [200]
        assert fake.now - began == FIRST_PAUSE * 3
        await until(lambda: execution.status in FINAL)
    assert (execution.status, execution.output["completed_via"], task.starts) == ("COMPLETED", "callback", 1)


async def test_a_call_whose_answer_came_too_late_is_repeated_and_counts_once(tmp_path: Path) -> None:
    """After 30 seconds Informatica has heard nothing: what it repeats is known already, and answered by 200."""
    fake = FakeInformatica(tick=0.0)
    task = fake.add("called", FOREVER)
    async with listening(fake, tmp_path) as worker:
        connect(fake, worker)
        (execution,) = worker.submit("run", given("called") | CALLED)
        await until(lambda: is_waiting(worker, execution))
        task.runs[0].course = ENDED_WELL
        assert await fake.call_back(task, unheard=5) == [0] * 5 + [200]
        await until(lambda: execution.status in FINAL)
        assert query(tmp_path / "worker.db", "SELECT count(*) FROM callback_bodies") == [(1,)]
    assert (execution.status, execution.output["completed_via"], task.starts) == ("COMPLETED", "callback", 1)


async def test_a_call_while_the_worker_is_down_reaches_the_next_one(tmp_path: Path) -> None:
    """The address outlives the worker, and Informatica's patience the time between two of them."""
    fake = FakeInformatica(tick=0.0)
    task, world = fake.add("called", FOREVER), new_world(*TASKS, limit=0)
    async with fake.served() as org, sandbox.serve(world) as url, AsyncExitStack() as later:
        sections = {**sections_of(org), "http": LISTENING, "drain": {"timeout": 0.1}}
        async with running_worker(HANDLERS, tmp_path, world=world, url=url, **sections) as worker:
            connect(fake, worker)
            (execution,) = worker.submit("run", given("called") | CALLED)
            await until(lambda: is_waiting(worker, execution))
        task.runs[0].course = ENDED_WELL

        async def restart(attempts: int) -> None:
            if attempts == AT_ONCE + 3:
                again = running_worker(HANDLERS, tmp_path, world=world, url=url, **sections)
                connect(fake, await later.enter_async_context(again))

        assert await fake.call_back(task, after=restart) == [0] * (AT_ONCE + 3) + [200]
        await until(lambda: execution.status in FINAL)
    assert (execution.status, task.starts) == ("COMPLETED", 1)


async def test_a_call_that_never_arrives_only_delays(tmp_path: Path) -> None:
    """After half an hour Informatica gives up, and the looks that go on all the while find the end."""
    fake = FakeInformatica()
    task = fake.add("called")
    async with serving(fake, tmp_path, http=LISTENING) as worker:
        fake.hooks = (HOOKS, "http://127.0.0.1:1")
        (execution,) = await worker.run("run", given("called", completion="callback"))
        began = fake.now
        calls = await fake.call_back(task)
    assert set(calls) == {0}
    assert LONGEST_CALLING - LONGEST_PAUSE < fake.now - began <= LONGEST_CALLING
    assert (execution.status, execution.output["completed_via"], task.starts) == ("COMPLETED", "poll", 1)


async def test_without_an_address_nothing_is_started(tmp_path: Path) -> None:
    """`completion = "callback"` needs http.public_url; the message says so."""
    fake = FakeInformatica()
    fake.add("called")
    async with serving(fake, tmp_path) as worker:
        (execution,) = await worker.run("run", given("called", completion="callback"))
    assert (execution.output["code"], fake.of("start_job")) == ("callbacks_unavailable", [])
    assert "http.public_url" in execution.output["message"]


SEEDS = Path(__file__).parents[1] / "support" / "seeds"
SAMPLES = json.loads((SEEDS / "code_task.json").read_text(encoding="utf-8"))["samples"]
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
    "as_sampled": ([SAMPLES["running"], SAMPLES["failed"]], "remote_failed", "failed"),
    "cancelled": ([{"executionState": "CANCELLED", "endTime": ENDED}], "remote_cancelled", "cancelled"),
    "unknown_yet": ([{}, {}, {"status": "RUNNING"}, DONE], "", "succeeded"),
    "never_known": ([{}], "remote_unknown", "unknown"),
    "strange": ([{"status": "PONDERING"}], "timed_out", "timed_out"),
    "for_ever": ([{"status": "RUNNING"}], "timed_out", "timed_out"),
}  # fmt: skip
REFUSED = ("400", "403", "404", "409")
STARTS = {
    "lose_before": 0,
    "reset_mid_body": 1,
    "503_after_commit": 1,
    "503": 0,
    "lose_after_commit": 1,
    "garbage_json": 1,
    "xml": 1,
}


async def test_each_scenario_of_a_code_task_ends_as_it_must(tmp_path: Path) -> None:
    """Both spellings of each field are read; a start whose answer is lost is never sent again unless that is asked."""
    fake = FakeInformatica()
    fake.code_tasks = {name: words for name, (words, _, _) in WORDS.items()}
    for kind in STARTS:
        fake.code_tasks[f"lost_{kind}"] = WORDS["plain"][0]
        fake.faults += at("start_code_task", kind, subject=f"lost_{kind}")
    for name in ("again", "busy", "over", "7", "only_xml", "redirected", *(f"refused_{n}" for n in REFUSED)):
        fake.code_tasks[name] = WORDS["plain"][0]
    fake.faults += at("code_task_status", "xml", subject="only_xml", count=99)
    for status in REFUSED:
        fake.faults += at("start_code_task", status, subject=f"refused_{status}")
    fake.faults += at("start_code_task", "503", subject="again") + at("start_code_task", "429", subject="busy")
    fake.faults += at("start_code_task", "401", subject="over") + at(
        "start_code_task", "redirect", subject="redirected"
    )
    fake.code_tasks["faulty"] = WORDS["plain"][0]
    fake.faults += [fault for kind in ("503", "xml", "401") for fault in at("code_task_status", kind, subject="faulty")]

    def code(name: str | int, **more: Any) -> dict[str, Any]:
        return {"code_task_id": name, "wait": WAIT, **more}

    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("code", *(code(name) for name in WORDS))
        lost = await worker.run("code", *(code(f"lost_{kind}") for kind in STARTS))
        others = await worker.run(
            "code", code("again", resend_on_ambiguous=True), code("busy"), code("over"), code(7), code("faulty")
        )
        refused = await worker.run("code", *(code(f"refused_{status}") for status in REFUSED), code("nowhere"))
        only_xml, redirected = await worker.run("code", code("only_xml"), code("redirected"))
    found = {name: (e.output.get("code", ""), e.output["outcome"]) for name, e in zip(WORDS, executions, strict=True)}
    assert found == {name: (code, outcome) for name, (_, code, outcome) in WORDS.items()}
    by_name = dict(zip(WORDS, executions, strict=True))
    assert by_name["as_sampled"].output["error_message"].startswith("WES_internal_error_Failed to start cluster")
    assert {by_name[n].output["error_message"] for n in ("fails", "fails_by_table")} == {"WES_internal_error"}
    assert [e.output["code"] for e in lost] == ["ambiguous_start"] * len(STARTS)
    assert {kind: fake.code_starts(f"lost_{kind}") for kind in STARTS} == STARTS
    assert [
        (e.status, fake.code_starts(n)) for e, n in zip(others, ("again", "busy", "over", "7", "faulty"), strict=True)
    ] == [("COMPLETED", 1)] * 5
    assert [(e.output["code"], e.output["status_code"], e.output["error_code"]) for e in refused] == [
        ("remote_refused", int(status), f"CODE_{status}") for status in (*REFUSED, "404")
    ]
    assert [fake.code_starts(f"refused_{status}") for status in REFUSED] == [0] * len(REFUSED)
    assert (redirected.output["code"], fake.code_starts("redirected")) == ("remote_refused", 0)
    assert only_xml.output["code"] == "poll_failed"
    assert "Informatica answered 200 in XML or HTML where JSON was asked for" in only_xml.output["message"]
    assert {"codeTaskId": 7} in [asked.body for asked in fake.of("start_code_task")]
    assert fake.broken == []


async def test_an_answer_that_takes_too_long_is_lost(tmp_path: Path) -> None:
    """The request may have been done: a job is looked for, and was; of a code task nobody can know."""
    fake = FakeInformatica()
    task = fake.add("slow")
    fake.code_tasks["slow"] = [DONE]
    fake.faults += at("start_job", "slow", seconds=1.5) + at("start_code_task", "slow", seconds=1.5)
    async with serving(fake, tmp_path, read_timeout=0.5) as worker:
        (job,), (code,) = worker.submit("run", given("slow")), worker.submit("code", {"code_task_id": "slow"})
        await until(lambda: job.status in FINAL and code.status in FINAL)
    assert (job.status, job.output["correlation"], task.starts) == ("COMPLETED", "adopted", 1)
    assert (code.output["code"], fake.code_starts("slow")) == ("ambiguous_start", 1)


async def test_a_code_task_is_asked_for_and_cancelled(tmp_path: Path) -> None:
    """Asked for once, as it stands; cancelled where the connection says by which path, and left running otherwise."""
    fake = FakeInformatica()
    fake.code_tasks["long"] = [{"status": "RUNNING", "sessionLogUrl": "logservice/api/v1//jobs/6p/logs"}]
    late = {"code_task_id": "long", "wait": {**WAIT, "on_timeout": "cancel"}}
    async with serving(fake, tmp_path / "without") as worker:
        (left,) = await worker.run("code", late)
        (seen, unknown) = await worker.run("look", {"job_id": left.output["job_id"]}, {"job_id": "nope"})
    async with serving(fake, tmp_path / "with", cancel_path=CANCEL_PATH) as worker:
        (cancelled,) = await worker.run("code", late)
    assert (left.output["code"], cancelled.output["code"]) == ("cancel_unsupported", "timed_out")
    assert (cancelled.output["outcome"], len(fake.of("cancel_code_task"))) == ("cancelled", 1)
    assert (seen.output["outcome"], seen.output["raw_status"]) == ("unknown", "RUNNING")
    assert seen.output["session_log_url"] == "logservice/api/v1/jobs/6p/logs"
    assert unknown.output["code"] == "remote_refused"
    assert fake.broken == []


async def test_the_end_of_a_job_may_be_quicker_than_its_stop(tmp_path: Path) -> None:
    """Told to end at the deadline, a run that ends well first has succeeded; of a code task the same."""
    fake = FakeInformatica()
    task = fake.add("raced", FOREVER)
    fake.code_tasks["raced"] = [{"status": "RUNNING"}]

    async def quicker(moment: str, asked: Asked) -> None:
        if moment != "done":
            return
        if asked.operation == "stop_job":
            task.runs[0].course, task.runs[0].stopped_at = Course(lasts=1), math.inf
        if asked.operation == "cancel_code_task":
            fake.code_jobs["job0"].words = [DONE]

    fake.at = quicker
    late = {**WAIT, "on_timeout": "cancel"}
    async with serving(fake, tmp_path, cancel_path=CANCEL_PATH) as worker:
        (job,) = await worker.run("run", given("raced", wait=late))
        (code,) = await worker.run("code", {"code_task_id": "raced", "wait": late})
    assert [(e.status, e.output["outcome"]) for e in (job, code)] == [("COMPLETED", "succeeded")] * 2
    assert (len(fake.of("stop_job")), len(fake.of("cancel_code_task"))) == (1, 1)
    assert (task.starts, fake.code_starts("raced")) == (1, 1)


@pytest.mark.parametrize("task", ["run", "code"])
async def test_a_retry_by_the_platform_adopts_the_job(tmp_path: Path, task: str) -> None:
    """Given up there by its response timeout, the execution comes again under a new id: nothing starts anew."""
    fake = FakeInformatica()
    adopted = fake.add("adopted", FOREVER)
    fake.code_tasks["adopted"] = [{"status": "RUNNING"}]

    def finish() -> None:
        for run in adopted.runs:
            run.course = Course(lasts=1)
        for job in fake.code_jobs.values():
            job.words = [DONE]

    input = given("adopted", wait=PATIENT) if task == "run" else {"code_task_id": "adopted", "wait": PATIENT}
    async with serving(fake, tmp_path) as worker:
        first, again = await retried(worker, input, finish, task=task)
    starts, posts = (
        (adopted.starts, fake.of("start_job"))
        if task == "run"
        else (fake.code_starts("adopted"), fake.of("start_code_task"))
    )
    assert again.output["remote_id"] == (f"{adopted.id}:1" if task == "run" else "job0")
    assert (again.status, starts, len(posts), first.patches) == ("COMPLETED", 1, 1, [])


@pytest.mark.parametrize(
    ("path", "policy", "said"),
    [
        (True, "cancel", "remote job cancelled"),
        (True, "leave_running", "the remote job is left running"),
        (False, "cancel", "the remote job cannot be cancelled, and runs on"),
    ],
)
async def test_a_code_task_is_cancelled_with_its_execution_where_the_connection_says_how(
    tmp_path: Path, path: bool, policy: str, said: str
) -> None:
    """No document names the request: without `cancel_path` the job goes on, and the log says so."""
    fake = FakeInformatica()
    fake.code_tasks["long"] = [{"status": "RUNNING"}]
    more = {"cancel_path": CANCEL_PATH} if path else {}
    async with serving(fake, tmp_path, **more) as worker:
        input = {"code_task_id": "long", "wait": {**PATIENT, "on_cancel": policy}}
        lines = await cancelled(worker, input, task="code")
    done = said == "remote job cancelled"
    assert said in lines
    assert fake.code_jobs["job0"].words[0]["status"] == ("CANCELLED" if done else "RUNNING")
    assert (fake.code_starts("long"), len(fake.of("cancel_code_task"))) == (1, int(done))


async def test_two_workers_start_one_task_one_after_the_other(tmp_path: Path) -> None:
    """By the lease in their journal: each finds its own run though all answers are lost; code tasks need none."""
    fake, world = FakeInformatica(), new_world(*TASKS, limit=0)
    task = fake.add("shared", FOREVER)
    fake.faults += at("start_job", "lose_after_commit", subject="shared", count=6)
    fake.code_tasks["shared"] = [{"status": "RUNNING"}]
    code = {"code_task_id": "shared", "wait": PATIENT}
    async with fake.served() as org, two_workers(LEAPING, tmp_path, world, sections_of(org)) as workers:
        now = time.monotonic()
        runs = [world.submit("run", given("shared", key=str(n), wait=PATIENT), now) for n in range(6)]
        codes = [world.submit("code", {**code, "key": str(n)}, now) for n in range(6)]
        await both_have(workers, 6)
        await until(lambda: task.starts == 6 and fake.code_starts("shared") == 6)
        for run in task.runs:
            run.course = Course(lasts=1)
        for job in fake.code_jobs.values():
            job.words = [DONE]
        await until(lambda: all(execution.status in FINAL for execution in (*runs, *codes)))
    assert sorted(e.output["run_id"] for e in runs) == [1, 2, 3, 4, 5, 6]
    assert sorted(e.output["job_id"] for e in codes) == sorted(fake.code_jobs)
    assert (task.starts, fake.code_starts("shared"), fake.broken) == (6, 6, [])


@pytest.mark.parametrize(("auth", "jwt"), [("v2", False), ("v3", False), ("v3", True), ("ids", False)])
async def test_all_share_a_session_which_is_renewed_once_and_ended(tmp_path: Path, auth: str, jwt: bool) -> None:
    """Whichever the login: one for fifty executions, one more when it is over, a logout at the end."""
    fake = FakeInformatica(jwt=jwt)
    for number in range(25):
        fake.add(f"t{number}", FOREVER)
        fake.code_tasks[f"c{number}"] = [{"status": "RUNNING"}]
    base = {"base_url": "{url}/saas"} if auth == "ids" else {}
    async with serving(fake, tmp_path, auth=auth, **base) as worker:
        executions = worker.submit("run", *(given(f"t{number}", wait=PATIENT) for number in range(25)))
        executions += worker.submit("code", *({"code_task_id": f"c{n}", "wait": PATIENT} for n in range(25)))
        await until(lambda: all(task.starts == 1 for task in fake.tasks.values()) and len(fake.code_jobs) == 25)
        assert fake.tokens == 1
        fake.expire_tokens()
        await until(lambda: fake.tokens == 2)
        (finding,) = await check_connections(worker.daemon.catalogue.tasks.values())
        assert finding == (True, f"connection org: Informatica accepts {USER}; the session is valid for 29 min")
        for task in fake.tasks.values():
            task.runs[0].course = Course(lasts=1)
        for job in fake.code_jobs.values():
            job.words = [DONE]
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

"""Snowflake tasks through the real daemon, the sandbox and a fake account: each scenario once, all in one worker."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from product_live_handlers.snowflake.task import snowflake_task
from product_live_worker import sandbox
from product_live_worker.sandbox.records import FINAL
from support.connectors import Scenario, both_have, cancelled, left_behind, retried, two_workers
from support.fake_snowflake import FakeSnowflake, Plan, Run
from support.job_clock import leaping
from support.remotes import Fault
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio

HANDLER = leaping(snowflake_task)
WAIT = {"timeout_s": 900, "poll_initial_s": 3, "poll_max_s": 60}
PATIENT = {**WAIT, "timeout_s": 1e9}
FOREVER = Plan(lasts=math.inf)


def connection(url: str, **more: Any) -> dict[str, Any]:
    """Give the section of the fake account."""
    return {"account_url": url, "auth": "pat", "token": "s3cret-pat", "max_in_flight": 20, **more}


def oauth(url: str) -> dict[str, Any]:
    """Give the section of a user whose tokens expire."""
    login = {"token_url": f"{url}/oauth/token", "client_id": "me", "client_secret": "s3cret-client"}
    return {"account_url": url, "auth": "oauth", "max_in_flight": 20, **login}


@asynccontextmanager
async def serving(fake: FakeSnowflake, state: Path, **account: Any) -> AsyncIterator[RunningWorker]:
    """Run a worker whose task `run` executes tasks of the account."""
    async with fake.served() as url:
        section = oauth(url) if account.pop("oauth", False) else connection(url, **account)
        tasks = {"run": {"handler": "snowflake.task", "watch": 0.05, "settings": {"connection": "lake"}}}
        world = new_world("run", limit=0)
        async with running_worker([HANDLER], state, world=world, budget={"requests_per_minute": 0},
                                  tasks=tasks, connections={"lake": section}) as worker:  # fmt: skip
            yield worker


def given(task: str, **more: Any) -> dict[str, Any]:
    """Give an input."""
    return {"database": "SALES", "schema": "PUBLIC", "task": task, "wait": WAIT, **more}


def at(operation: str, kind: str, **more: Any) -> tuple[Fault, ...]:
    """Give a fault."""
    return (Fault(kind, operation, **more),)


EXECUTE, CURRENT, COMPLETE = "executeTask", "getCurrentGraphs", "getCompleteGraphs"
NEVER_LISTED = Plan(visible_after=math.inf)
SCENARIOS = [
    Scenario(name="SUCCESS", given={}, posts=1, more={"raw_status": "SUCCEEDED", "correlation": "inferred"}),
    Scenario(name="ASYNC", given={"async_exec": True}, posts=1),
    Scenario(
        name="FAILS", given={}, plan=Plan(end="FAILED", error=(2043, "SQL compilation error")),
        code="remote_failed", outcome="failed", posts=1,
        more={"error_code": "2043", "error_message": "FAILS: SQL compilation error"},
    ),
    Scenario(name="AUTO_RETRY", given={}, plan=Plan(attempts=["FAILED"]), posts=1, more={"raw_status": "SUCCEEDED"}),
    Scenario(
        name="CANCELLED_THERE", given={}, plan=Plan(end="CANCELLED"), code="remote_cancelled", outcome="cancelled",
    ),
    Scenario(name="SKIPPED_ROOT", given={}, plan=NEVER_LISTED, code="remote_skipped", outcome="skipped", posts=1),
    Scenario(name="VANISHES", given={}, plan=Plan(unlisted=True), code="remote_skipped", outcome="skipped", posts=1),
    Scenario(name="LATE_TO_SHOW", given={}, plan=Plan(delay=0, visible_after=40, lasts=900), posts=1),
    Scenario(
        name="STRANGE", given={}, plan=Plan(end="PONDERING"), code="timed_out", outcome="timed_out",
        more={"raw_status": "PONDERING"},
    ),
    Scenario(name="TIMEOUT_LEAVES", given={}, plan=FOREVER, code="timed_out", outcome="timed_out"),
    Scenario(
        name="TIMEOUT_CANNOT_CANCEL", given={"wait": {**WAIT, "on_timeout": "cancel"}}, plan=FOREVER,
        code="cancel_unsupported", outcome="timed_out",
    ),
    *[
        Scenario(name=f"LOST_BEFORE_{kind}", given={}, faults=at(EXECUTE, kind), posts=2, more={"outcome": "succeeded"})
        for kind in ("lose_before", "503", "500")
    ],
    *[
        Scenario(name=f"LOST_AFTER_{kind.upper()}", given={}, faults=at(EXECUTE, kind), posts=1,
                 more={"correlation": "adopted"})
        for kind in ("lose_after_commit", "reset_mid_body", "503_after_commit", "garbage_json", "xml")
    ],
    Scenario(name="BUSY", given={}, faults=at(EXECUTE, "429", count=3), posts=4),
    Scenario(name="SESSION_OVER", given={}, faults=at(EXECUTE, "401"), posts=2),
    Scenario(name="NEVER_ANSWERED", given={}, faults=at(EXECUTE, "lose_before", count=9),
             code="ambiguous_start", outcome="unknown", starts=0, posts=3),
    *[
        Scenario(name=f"REFUSED_{status}", given={}, faults=at(EXECUTE, status), code="remote_refused", outcome="-",
                 starts=0, posts=1, more={"status_code": int(status), "error_code": "390000", "request_id": "r-1"})
        for status in ("400", "403", "404", "405", "409")
    ],
    Scenario(name="REDIRECTED", given={}, faults=at(EXECUTE, "redirect"), code="remote_refused", outcome="-", starts=0),
    *[
        Scenario(name=f"POLL_{kind.upper()}", given={}, faults=at(operation, kind, after=2, count=3), posts=1)
        for operation, kind in (
            (CURRENT, "lose_before"), (CURRENT, "503"), (CURRENT, "garbage_json"), (CURRENT, "xml"),
            (CURRENT, "401"), (COMPLETE, "429"),
        )
    ],
    Scenario(name="ONLY_XML", given={}, faults=at(CURRENT, "xml", after=2, count=99), code="poll_failed",
             outcome="unknown", says="Snowflake answered 200 in XML or HTML where JSON was asked for"),
    Scenario(name="POLL_FAILS", given={}, faults=at(CURRENT, "500", after=2, count=99),
             code="poll_failed", outcome="unknown"),
    Scenario(name="UNREACHABLE", given={}, faults=at("fetchTask", "503", count=99), code="remote_unreachable",
             outcome="-", starts=0, posts=0),
    Scenario(name="NOT_THERE", given={"task": "NOWHERE"}, code="remote_refused", outcome="-", starts=0, posts=0),
]  # fmt: skip


async def test_each_scenario_ends_as_it_must(tmp_path: Path) -> None:
    """Success, failures, lost answers, refusals, faults while polling: never two starts, and one at each success."""
    fake = FakeSnowflake()
    for scenario in SCENARIOS:
        fake.add(scenario.name, scenario.plan, task_auto_retry_attempts=1 if "RETRY" in scenario.name else 0)
        for fault in scenario.faults:
            fault.subject = scenario.name
            fake.faults.append(fault)
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", *(given(s.name) | s.given for s in SCENARIOS))
    problems = [
        problem
        for scenario, execution in zip(SCENARIOS, executions, strict=True)
        for problem in scenario.problems(
            execution, fake.tasks[scenario.name].starts, len(fake.of(EXECUTE, scenario.name))
        )
    ]
    assert problems == []
    assert [fault for fault in fake.faults if 0 < fault.count < 5] == []
    assert [problem for problem in fake.broken if "'PONDERING' is not" not in problem] == []
    told = repr([execution.output for execution in executions])
    assert "s3cret" not in told


@pytest.mark.parametrize(("end", "code"), [("SUCCEEDED", ""), ("FAILED", "remote_failed")])
async def test_each_retry_by_snowflake_itself_is_waited_for(tmp_path: Path, end: str, code: str) -> None:
    """A run that has failed twice, and is live again each time, ends as its third attempt does; it is started once."""
    fake = FakeSnowflake()
    task = fake.add("T", Plan(lasts=400, attempts=["FAILED", "FAILED"], end=end), task_auto_retry_attempts=2)
    async with serving(fake, tmp_path) as worker:
        steady = {**WAIT, "timeout_s": 9000, "poll_multiplier": 1}
        (execution,) = await worker.run("run", given("T", wait=steady))
    assert (execution.output.get("code", ""), execution.output["raw_status"]) == (code, end)
    assert (task.starts, len(fake.of(EXECUTE))) == (1, 1)
    assert fake.now >= task.runs[0].ends()


async def test_what_runs_already(tmp_path: Path) -> None:
    """Queued behind it, joined, or refused, as the input says; the run of another is never taken for ours."""
    fake = FakeSnowflake()
    policies = ("queue", "attach", "fail")
    for policy in policies:
        fake.run_of_another(fake.add(policy.upper(), Plan(delay=0, lasts=400)))
        fake.tasks[policy.upper()].plan = Plan(lasts=50)
    # The schedule's next run is listed as well, days ahead.
    ahead = fake.run_of_another(fake.tasks["QUEUE"], Plan(delay=86400))
    ahead.number, ahead.replaced = ahead.number + 86_400_000, False
    fake.tasks["QUEUE"].runs.reverse()
    fake.now += 10
    async with serving(fake, tmp_path) as worker:
        queued, attached, failed = await worker.run(
            "run", *(given(p.upper(), if_already_running=p, wait={**WAIT, "timeout_s": 9000}) for p in policies)
        )
    theirs = fake.tasks["ATTACH"].runs[0]
    assert (queued.status, queued.output["correlation"], fake.tasks["QUEUE"].starts) == ("COMPLETED", "inferred", 1)
    assert queued.output["remote_id"] == str(fake.tasks["QUEUE"].runs[-1].number)
    assert (attached.output["remote_id"], attached.output["correlation"]) == (str(theirs.number), "adopted")
    assert (failed.output["code"], fake.tasks["FAIL"].starts, fake.tasks["ATTACH"].starts) == ("already_running", 0, 0)
    assert fake.broken == []


async def test_two_executions_of_one_task_are_started_one_after_the_other(tmp_path: Path) -> None:
    """By a lease: each finds its own run, though the system does not say which is whose."""
    fake = FakeSnowflake()
    task = fake.add("SHARED", Plan(delay=0, lasts=30))
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", *(given("SHARED", key=str(n)) for n in range(5)))
    ids = [execution.output.get("remote_id") for execution in executions]
    assert sorted(ids) == sorted(str(run.number) for run in task.runs)
    assert (task.starts, fake.broken) == (5, [])


async def test_a_retry_of_the_last_run_is_found_under_its_old_id(tmp_path: Path) -> None:
    """A retry has the id of the run that failed; what changed tells it apart. A child is refused before the start."""
    fake = FakeSnowflake()
    task = fake.add("AGAIN", Plan(delay=0, lasts=10))
    failed = fake.run_of_another(task, Plan(delay=0, lasts=10, end="FAILED"))
    fake.add("CHILD", predecessors=["AGAIN"])
    fake.now += 60
    async with serving(fake, tmp_path) as worker:
        again, child = await worker.run("run", given("AGAIN", retry_last=True), given("CHILD"))
    assert (again.status, again.output["remote_id"], task.starts) == ("COMPLETED", str(failed.number), 1)
    assert (child.output["code"], fake.tasks["CHILD"].starts) == ("not_a_root_task", 0)
    assert fake.of(EXECUTE)[0].query == {"asyncExec": "false", "retryLast": "true"}


@pytest.mark.parametrize("skew", [-300.0, 300.0])
async def test_clocks_may_differ(tmp_path: Path, skew: float) -> None:
    """What is new is told by the server's own clock: a lost start is found, one that never arrived is sent again."""
    fake = FakeSnowflake()
    fake.skew = skew
    kinds = {"lose_after_commit": 1, "lose_before": 2}
    for kind in kinds:
        fake.run_of_another(fake.add(kind.upper(), Plan(delay=0, lasts=10)))
        fake.faults += at(EXECUTE, kind, subject=kind.upper())
    fake.now += 60
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", *(given(kind.upper()) for kind in kinds))
    assert [execution.status for execution in executions] == ["COMPLETED"] * 2
    assert [task.starts for task in fake.tasks.values()] == [1, 1]
    assert [len(fake.of(EXECUTE, kind.upper())) for kind in kinds] == list(kinds.values())


async def test_with_sql_a_run_is_cancelled_and_remembered(tmp_path: Path) -> None:
    """At the deadline, and with the execution that nobody wants; what is not listed is found in the history."""
    fake = FakeSnowflake()
    for name, plan in (("LATE", FOREVER), ("UNWANTED", FOREVER), ("UNLISTED", Plan(unlisted=True))):
        fake.add(name, plan)
    race = fake.add("RACE", Plan(lasts=math.inf))
    policy = {"wait": {**WAIT, "on_timeout": "cancel"}}
    async with serving(fake, tmp_path, sql=True) as worker:
        (unwanted,) = worker.submit("run", given("UNWANTED", wait={**WAIT, "timeout_s": 1e9}))
        await until(lambda: bool(fake.of(CURRENT, "UNWANTED")) and fake.tasks["UNWANTED"].starts == 1)
        late, found, raced = worker.submit("run", given("LATE") | policy, given("UNLISTED"), given("RACE") | policy)

        async def quicker(moment: str, asked: Any) -> None:
            if moment == "arrived" and asked.operation == "SubmitStatement" and "RACE" in str(asked.body):
                fake.finish(race)

        fake.at = quicker
        await until(lambda: all(execution.status in ("COMPLETED", "FAILED") for execution in (late, found, raced)))
        unwanted.status = "CANCELED"
        await until(lambda: fake.tasks["UNWANTED"].runs[0].cancelled < math.inf)
    assert (late.output["code"], late.output["outcome"]) == ("timed_out", "cancelled")
    assert (found.status, found.output["raw_status"]) == ("COMPLETED", "SUCCEEDED")
    assert (raced.status, raced.output["outcome"]) == ("COMPLETED", "succeeded")
    assert unwanted.patches == []
    assert fake.broken == []


async def test_fifty_executions_make_one_login_and_renew_it_once(tmp_path: Path) -> None:
    """All of one connection share the token; when it expires in the middle of the waits, one fetches the next."""
    fake = FakeSnowflake()
    for number in range(50):
        fake.add(f"T{number}", Plan(delay=0, lasts=math.inf))
    async with serving(fake, tmp_path, oauth=True) as worker:
        executions = worker.submit("run", *(given(f"T{number}", wait=PATIENT) for number in range(50)))
        await until(lambda: all(task.starts == 1 for task in fake.tasks.values()))
        assert fake.tokens == 1
        fake.expire_tokens()
        await until(lambda: fake.tokens == 2)
        for task in fake.tasks.values():
            fake.finish(task)
        await until(lambda: all(execution.status == "COMPLETED" for execution in executions))
    assert (fake.tokens, len(fake.of("login"))) == (2, 2)
    assert all(task.starts == 1 for task in fake.tasks.values())


async def test_a_retry_by_the_platform_adopts_the_run(tmp_path: Path) -> None:
    """Given up there by its response timeout, the execution comes again under a new id: nothing starts anew."""
    fake = FakeSnowflake()
    task = fake.add("ADOPTED", FOREVER)
    async with serving(fake, tmp_path) as worker:
        first, again = await retried(worker, given("ADOPTED", wait=PATIENT), lambda: fake.finish(task))
    assert (again.status, again.output["remote_id"]) == ("COMPLETED", str(task.runs[0].number))
    assert (task.starts, len(fake.of(EXECUTE)), first.patches) == (1, 1, [])


async def test_a_retry_adopts_what_a_dead_worker_had_started(tmp_path: Path) -> None:
    """Killed while it waited, the worker comes back after the platform has given up: the retry has the same run."""
    fake, world = FakeSnowflake(), new_world("run", limit=0)
    task = fake.add("LEFT", Plan(delay=0, lasts=60))
    run = fake.run_of_another(task)
    input = given("LEFT", eventCorrelationId="job-1")
    async with fake.served() as account, sandbox.serve(world) as url:
        left = await left_behind(tmp_path, world, url, input, started(fake, run))
        left.status = "TIMED_OUT"
        again = world.submit("run", input, time.monotonic())
        async with running_worker([HANDLER], tmp_path, world=world, url=url, **sections(account)):
            await until(lambda: again.status == "COMPLETED")
    assert (again.output["remote_id"], task.starts, left.patches) == (str(run.number), 0, [])


def sections(account: str, **more: Any) -> dict[str, Any]:
    """Give the settings of a worker that comes later."""
    return {
        "budget": {"requests_per_minute": 0},
        "tasks": {"run": {"handler": "snowflake.task", "settings": {"connection": "lake"}}},
        "connections": {"lake": connection(account, **more)},
    }


def started(fake: FakeSnowflake, run: Run, **more: Any) -> dict[str, Any]:
    """Give the checkpoint of an execution whose run is known."""
    remote = {"run_id": run.number, "root": f"id-{fake.name_of(run)}", "retries": 0}
    return {"phase": "started", "began": fake.now, "sent": 1, "remote": remote, "correlation": "inferred", **more}


LONG = 7200.0
DOWN = {
    # The checkpoint, whether SQL may be used, and the code with which it ends.
    ("posting", False): "ambiguous_start",
    ("posting", True): "",
    ("accepted", False): "remote_unknown",
    ("accepted", True): "",
    ("started", False): "remote_unknown",
    ("started", True): "",
}


@pytest.mark.parametrize(("phase", "sql"), DOWN)
async def test_a_worker_that_was_away_for_more_than_an_hour(tmp_path: Path, phase: str, sql: bool) -> None:
    """At whichever checkpoint: the lists have forgotten the run, the history knows it, and nothing is started anew."""
    fake, world = FakeSnowflake(), new_world("run", limit=0)
    task = fake.add("LONG_AGO", Plan(delay=0, lasts=60))
    fake.now -= LONG
    run = fake.run_of_another(task)
    date = fake.now - 1
    fake.now += LONG
    baseline = {"root": "id-LONG_AGO", "date": date, "dated": True, "at": date, "known": {}, "retries": 0}
    known = {"phase": phase, "began": date, "sent": 1, "baseline": baseline, "looked_at": date}
    if phase == "started":
        known = started(fake, run, began=date, seen_at=date)
    async with fake.served() as account, sandbox.serve(world) as url:
        input = given("LONG_AGO", wait={**WAIT, "timeout_s": 90_000})
        execution = await left_behind(tmp_path, world, url, input, known)
        async with running_worker([HANDLER], tmp_path, world=world, url=url, **sections(account, sql=sql)):
            await until(lambda: execution.status in FINAL)
    output, code = execution.output, DOWN[phase, sql]
    assert (output.get("code", ""), output["outcome"]) == (code, "unknown" if code else "succeeded"), output
    assert output["remote_id"] == (str(run.number) if phase == "started" or not code else "")
    assert (task.starts, fake.of(EXECUTE)) == (0, [])
    assert fake.broken == []


FETCH = "fetchResult"
RESULTS = [
    Scenario(name="LATER", given={}, posts=1, more={"correlation": "inferred"}),
    Scenario(name="NOT_KEPT", given={}, posts=1, more={"correlation": "inferred"}),
    *[
        Scenario(name=f"RESULT_{kind.upper()}", given={}, faults=at(FETCH, kind), posts=1)
        for kind in ("lose_before", "lose_after_commit", "reset_mid_body", "429", "401", "500", "503", "garbage_json",
                     "xml", "redirect")
    ],
    *[
        Scenario(name=f"NO_RESULT_{kind.upper()}", given={}, faults=at(FETCH, kind, count=99), posts=1)
        for kind in ("lose_before", "reset_mid_body", "429")
    ],
]  # fmt: skip


async def test_whatever_becomes_of_an_accepted_start_it_is_sent_once(tmp_path: Path) -> None:
    """After the 202 its result may be lost, late, torn, refused for now or forgotten: the run is found in the lists."""
    fake = FakeSnowflake()
    for scenario in RESULTS:
        fake.add(scenario.name)
        fake.accepts[f"{EXECUTE} {scenario.name}"] = 2
        fake.faults += [Fault(f.kind, f.operation, scenario.name, f.count) for f in scenario.faults]
    fake.gone.add(f"{EXECUTE} NOT_KEPT")
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", *(given(s.name) for s in RESULTS))
    problems = [
        problem
        for s, execution in zip(RESULTS, executions, strict=True)
        for problem in s.problems(execution, fake.tasks[s.name].starts, len(fake.of(EXECUTE, s.name)))
    ]
    assert problems == []
    assert [s.name for s in RESULTS if not fake.of(FETCH, s.name)] == []
    assert [fault for fault in fake.faults if 0 < fault.count < 50] == []
    assert fake.broken == []


async def test_who_is_queued_keeps_the_lease_until_its_run_begins(tmp_path: Path) -> None:
    """An execution of the task before that would replace the run that waits; so each has its own, and none is lost."""
    fake = FakeSnowflake()
    theirs = fake.run_of_another(fake.add("SHARED", Plan(delay=0, lasts=300)))
    task = fake.tasks["SHARED"]
    task.plan = Plan(delay=0, lasts=50)
    fake.now += 10
    async with serving(fake, tmp_path) as worker:
        policy = {**WAIT, "timeout_s": 9000}
        executions = await worker.run("run", *(given("SHARED", key=str(n), wait=policy) for n in range(3)))
    ours = [run for run in task.runs if run is not theirs]
    assert [execution.status for execution in executions] == ["COMPLETED"] * 3
    assert sorted(e.output["remote_id"] for e in executions) == sorted(str(run.number) for run in ours)
    assert (task.starts, [run.replaced for run in ours]) == (3, [False] * 3)
    assert fake.broken == []


@pytest.mark.parametrize(("sql", "phase"), [(True, "accepted"), (True, "started"), (False, "started")])
async def test_an_execution_that_is_cancelled(tmp_path: Path, sql: bool, phase: str) -> None:
    """Its own run is ended where SQL may be used; one that is still queued is left, and so is what runs before it."""
    fake = FakeSnowflake(tick=0.0)
    task = fake.add("T", FOREVER)
    task.plan = Plan(delay=0, lasts=math.inf)
    if phase == "accepted":
        fake.run_of_another(task)
    async with serving(fake, tmp_path, sql=sql) as worker:
        said = await cancelled(worker, given("T", wait=PATIENT, start_grace_s=1e9), phase=phase)
    done = sql and phase == "started"
    told = "remote job cancelled" if done else "the remote job cannot be cancelled, and runs on"
    assert told in said
    assert [run.cancelled < math.inf for run in task.runs] == ([done] if phase == "started" else [False, False])
    assert (task.starts, len(fake.of("SubmitStatement"))) == (1, int(done))


async def test_two_workers_start_one_task_one_after_the_other(tmp_path: Path) -> None:
    """By the lease in their journal: each execution has a run of its own, whichever worker has it."""
    fake, world = FakeSnowflake(), new_world("run", limit=0)
    task = fake.add("SHARED", FOREVER)
    async with fake.served() as account, two_workers([HANDLER], tmp_path, world, sections(account)) as workers:
        executions = [
            world.submit("run", given("SHARED", key=str(n), wait=PATIENT), time.monotonic()) for n in range(6)
        ]
        await both_have(workers, 3)
        # Ours wait for one another until the first one ends.
        task.plan = Plan(delay=0, lasts=30)
        fake.finish(task)
        await until(lambda: all(execution.status in FINAL for execution in executions))
    assert sorted(e.output.get("remote_id", "") for e in executions) == sorted(str(run.number) for run in task.runs)
    assert (task.starts, fake.broken) == (6, [])

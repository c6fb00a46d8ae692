"""Snowflake tasks through the real daemon, the sandbox and a fake account: each scenario once, all in one worker."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from product_live_handlers.snowflake.task import snowflake_task
from product_live_worker import sandbox
from product_live_worker.model.execution import State, idempotency_key
from support.connectors import Scenario, leaping
from support.fake_snowflake import FakeSnowflake, Plan
from support.journals import an_execution, in_state, opened
from support.remotes import Fault
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio

HANDLER = leaping(snowflake_task)
WAIT = {"timeout_s": 900, "poll_initial_s": 3, "poll_max_s": 60}
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
    """What is new is told by the server's own clock."""
    fake = FakeSnowflake()
    fake.skew = skew
    fake.add("SKEWED")
    fake.faults += at(EXECUTE, "lose_after_commit")
    async with serving(fake, tmp_path) as worker:
        (execution,) = await worker.run("run", given("SKEWED"))
    assert (execution.status, fake.tasks["SKEWED"].starts) == ("COMPLETED", 1)


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
                race.runs[0].plan = Plan(lasts=1)

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
        patient = {**WAIT, "timeout_s": 1e9}
        executions = worker.submit("run", *(given(f"T{number}", wait=patient) for number in range(50)))
        await until(lambda: all(task.starts == 1 for task in fake.tasks.values()))
        assert fake.tokens == 1
        fake.expire_tokens()
        await until(lambda: fake.tokens == 2)
        for task in fake.tasks.values():
            task.runs[0].plan = Plan(lasts=1)
        await until(lambda: all(execution.status == "COMPLETED" for execution in executions))
    assert (fake.tokens, len(fake.of("login"))) == (2, 2)
    assert all(task.starts == 1 for task in fake.tasks.values())


async def test_a_retry_by_the_platform_adopts_the_run(tmp_path: Path) -> None:
    """Given up there by its response timeout, the execution comes again under a new id: nothing starts anew."""
    fake = FakeSnowflake()
    task = fake.add("ADOPTED", FOREVER)
    async with serving(fake, tmp_path) as worker:
        input = given("ADOPTED", eventCorrelationId="job-1", wait={**WAIT, "timeout_s": 1e9})
        (first,) = worker.submit("run", input)
        await until(lambda: task.starts == 1 and any(e.checkpoint for e in worker.daemon.journal.open_executions()))
        await until(
            lambda: any((e.checkpoint or {}).get("phase") == "started" for e in worker.daemon.journal.open_executions())
        )
        first.status = "TIMED_OUT"
        (again,) = worker.submit("run", input)
        await until(lambda: worker.daemon.journal.get(first.id) is None)
        await anyio.lowlevel.checkpoint()
        task.runs[0].plan = Plan(lasts=1)
        await until(lambda: again.status == "COMPLETED")
    assert (again.output["remote_id"], task.starts) == (str(task.runs[0].number), 1)
    assert first.patches == []


async def test_a_retry_adopts_what_a_dead_worker_had_started(tmp_path: Path) -> None:
    """Killed while it waited, the worker comes back after the platform has given up: the retry has the same run."""
    fake, world = FakeSnowflake(), new_world("run", limit=0)
    task = fake.add("LEFT", Plan(delay=0, lasts=60))
    run = fake.run_of_another(task)
    input = given("LEFT", eventCorrelationId="job-1")
    identity = world.task_called("run").id
    remote = {"run_id": run.number, "root": "id-LEFT", "retries": 0}
    started = {"phase": "started", "began": fake.now, "sent": 1, "remote": remote, "correlation": "inferred"}
    async with fake.served() as account, sandbox.serve(world) as url:
        (left,) = (world.submit("run", input, time.monotonic()),)
        world.poll(identity, time.monotonic())
        async with opened(tmp_path / "worker.db", platform=url) as journal:
            key = idempotency_key("run", input)
            row = an_execution(left.id, task="run", task_id=identity, input=input, idempotency_key=key,
                               on_repeat="adopt", checkpoint=started, claimed_at=time.time())  # fmt: skip
            await in_state(journal, State.RUNNING, row)
        left.status = "TIMED_OUT"
        again = world.submit("run", input, time.monotonic())
        sections = {
            "budget": {"requests_per_minute": 0},
            "tasks": {"run": {"handler": "snowflake.task", "settings": {"connection": "lake"}}},
            "connections": {"lake": connection(account)},
        }
        async with running_worker([HANDLER], tmp_path, world=world, url=url, **sections):
            await until(lambda: again.status == "COMPLETED")
    assert (again.output["remote_id"], task.starts, left.patches) == (str(run.number), 0, [])

"""Commerce Cloud jobs through the real daemon, the sandbox and a fake instance, all in one worker."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from product_live_handlers.salesforce.executions import salesforce_executions
from product_live_handlers.salesforce.job import salesforce_job
from product_live_worker.executors.connections import check_connections
from product_live_worker.sandbox.records import FINAL
from support.connectors import Scenario, both_have, cancelled, retried, timeless, two_workers
from support.fake_salesforce import CLIENT, SECRET, TOKEN_PATH, FakeSalesforce, Way
from support.job_clock import leaping
from support.remotes import Fault
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio

HANDLERS = [leaping(salesforce_job), leaping(salesforce_executions)]
WAIT = {"timeout_s": 600, "poll_initial_s": 5, "poll_max_s": 30}
CREATE, READ = "postJobsByIDExecutions", "getJobsByIDExecutionsByID"
FOREVER = Way(phases=(("running", math.inf),))
PATIENT = {**WAIT, "timeout_s": 1e9}


def sections(fake: FakeSalesforce, url: str, **account: Any) -> dict[str, Any]:
    """Give the settings of a worker with a task for each handler."""
    section = {
        "url": url, "token_url": f"{url}{TOKEN_PATH}", "client_id": CLIENT, "client_secret": SECRET,
        "ocapi_version": fake.version, "max_in_flight": 20, **account,
    }  # fmt: skip
    settings = {"connection": "shop"}
    tasks = {
        "run": {"handler": "salesforce.job", "watch": 0.05, "settings": settings},
        "look": {"handler": "salesforce.executions", "settings": settings},
    }
    return {"budget": {"requests_per_minute": 0}, "tasks": tasks, "connections": {"shop": section}}


@asynccontextmanager
async def serving(fake: FakeSalesforce, state: Path, **account: Any) -> AsyncIterator[RunningWorker]:
    """Run a worker with a task for each handler."""
    async with fake.served() as url:
        world = new_world("run", "look", limit=0)
        async with running_worker(HANDLERS, state, world=world, **sections(fake, url, **account)) as worker:
            yield worker


def given(job: str, **more: Any) -> dict[str, Any]:
    """Give an input."""
    return {"job_id": job, "wait": WAIT, **more}


def at(operation: str, kind: str, **more: Any) -> tuple[Fault, ...]:
    """Give a fault."""
    return (Fault(kind, operation, **more),)


NUMBERS = (400, 403, 404, 409)
"""A fault is its type: the documents and their samples differ in the number."""
REFUSALS = [
    f"{kind} {number}"
    for kind in ("JobInvalidException", "JobRestartException", "JobNotRestartableException", "JobExecutionException",
                 "JobNotFoundException", "SomethingForbiddenException")
    for number in NUMBERS
]  # fmt: skip


def cause(fault: str) -> dict[str, str]:
    """Give what a fault says beside the job."""
    return {"cause": "a step type is not known"} if fault.startswith("JobInvalid") else {}


SCENARIOS = [
    Scenario(name="Success", given={}, posts=1, more={"correlation": "exact", "exit_code": "OK", "exit_status": "ok"}),
    Scenario(name="CustomCode", given={}, plan=Way(exit=("NO_FILES", "", "ok")), more={"exit_code": "NO_FILES"}),
    Scenario(
        name="Fails", given={}, code="remote_failed", outcome="failed",
        plan=Way(exit=("ERROR", "", "error"), steps=(("OK", "fine", "ok"), ("ERROR", "no such file", "error"))),
        more={"error_code": "ERROR", "error_message": "no such file"},
    ),
    Scenario(name="Aborted", given={}, plan=Way(end="aborted"), code="remote_cancelled", outcome="cancelled"),
    Scenario(
        name="RetriesItself", given={},
        plan=Way(phases=(("running", 30.0), ("retrying", 30.0), ("restarted", 30.0), ("running", 30.0))),
    ),
    Scenario(
        name="Paused", given={"paused_fail_after_s": 60}, plan=Way(phases=(("paused", math.inf),)),
        code="remote_unknown", outcome="unknown",
    ),
    Scenario(name="Purged", given={}, plan=Way(phases=(("running", math.inf),), purged_after=60.0),
             code="remote_unknown", outcome="unknown", more={"raw_status": "purged"}),
    Scenario(name="NoExit", given={}, plan=Way(exit=None), code="remote_unknown", outcome="unknown"),
    Scenario(name="TimeoutLeaves", given={}, plan=FOREVER, code="timed_out", outcome="timed_out"),
    Scenario(name="CannotCancel", given={"wait": {**WAIT, "on_timeout": "cancel"}}, plan=FOREVER,
             code="cancel_unsupported", outcome="timed_out"),
    *[
        Scenario(name=f"LostBefore{kind}", given={}, faults=at(CREATE, kind), posts=2)
        for kind in ("lose_before", "503", "500")
    ],
    *[
        Scenario(name=f"LostAfter{kind}", given={}, faults=at(CREATE, kind), posts=1, more={"correlation": "adopted"})
        for kind in ("lose_after_commit", "reset_mid_body", "503_after_commit", "garbage_json", "xml")
    ],
    Scenario(name="NeverAnswered", given={}, faults=at(CREATE, "lose_before", count=9), code="ambiguous_start",
             outcome="unknown", starts=0, posts=2),
    Scenario(name="NoResend", given={"max_resends": 0}, faults=at(CREATE, "lose_before"), code="ambiguous_start",
             outcome="unknown", starts=0, posts=1),
    Scenario(name="Busy", given={}, faults=at(CREATE, "429", count=3), posts=4),
    Scenario(name="Redirected", given={}, faults=at(CREATE, "redirect"), code="remote_refused", outcome="-", starts=0,
             posts=1, says="redirect (307), which is not followed"),
    Scenario(name="TokenOver", given={}, faults=at(CREATE, "401"), posts=2),
    *[
        Scenario(name=f"Refused{fault.replace(' ', '')}", given={}, plan=Way(fault=fault), code="remote_refused",
                 outcome="-", starts=0, posts=1,
                 more={"error_code": fault.split()[0], "status_code": int(fault.split()[1]),
                       "fault_arguments": {"jobId": f"Refused{fault.replace(' ', '')}", **cause(fault)}})
        for fault in REFUSALS
    ],
    *[
        Scenario(name=f"Runs{number}", given={}, plan=Way(fault=f"JobAlreadyRunningException {number}"),
                 code="already_running", outcome="unknown", starts=0, posts=1)
        for number in NUMBERS
    ],
    Scenario(name="OnlyXml", given={}, faults=at(READ, "xml", count=99), code="poll_failed", outcome="unknown",
             says="Commerce Cloud answered 200 in XML or HTML where JSON was asked for"),
    *[
        Scenario(name=f"Poll{kind}", given={}, faults=at(READ, kind, count=3))
        for kind in ("lose_before", "503", "garbage_json", "xml", "429", "401")
    ],
    Scenario(name="PollFails", given={}, faults=at(READ, "500", count=99), code="poll_failed",
             outcome="unknown"),
    Scenario(name="Deleted", given={"delete_record_after": True}),
]  # fmt: skip


@pytest.mark.parametrize("version", ["v25_6", "v17_2"])
async def test_each_scenario_ends_as_it_must(tmp_path: Path, version: str) -> None:
    """Of both versions: never two starts, and one at each success; whichever field says where an execution stands."""
    fake = FakeSalesforce(version=version)
    for scenario in SCENARIOS:
        fake.add(scenario.name, scenario.plan)
        fake.faults += [Fault(f.kind, f.operation, scenario.name, f.count, f.after) for f in scenario.faults]
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", *(given(s.name) | s.given for s in SCENARIOS), given("Nowhere"))
    problems = [
        problem
        for scenario, execution in zip(SCENARIOS, executions[:-1], strict=True)
        for problem in scenario.problems(
            execution, fake.jobs[scenario.name].starts, len(fake.of(CREATE, scenario.name))
        )
    ]
    assert problems == []
    assert [fault for fault in fake.faults if 0 < fault.count < 5] == []
    assert fake.broken == []
    assert executions[-1].output["error_code"] == "JobNotFoundException"
    assert fake.jobs["Deleted"].executions == []
    assert "s3cret" not in repr([execution.output for execution in executions])


LONG_PENDING = Way(phases=(("pending", 300.0), ("running", 20.0)))


@pytest.mark.parametrize("before", [0, 450])
async def test_a_lost_start_is_found_while_it_is_pending(tmp_path: Path, before: int) -> None:
    """It has no start_time yet, by which executions are sorted: its creation says when it was, wherever it is."""
    fake = FakeSalesforce()
    job = fake.add("Pending", LONG_PENDING)
    for _ in range(before):
        fake.run_of_another(job, Way(phases=()))
    fake.faults += at(CREATE, "lose_after_commit")
    async with serving(fake, tmp_path) as worker:
        (found,) = await worker.run("run", given("Pending", wait={**WAIT, "timeout_s": 9000}))
    assert (found.status, found.output.get("correlation"), job.starts) == ("COMPLETED", "adopted", 1)
    assert (len(fake.of(CREATE)), fake.broken) == (1, [])


async def test_an_execution_without_any_time_keeps_a_start_from_being_sent_again(tmp_path: Path) -> None:
    """17.2 has no creation_date: what of ours is pending may be the lost start."""
    fake = FakeSalesforce(version="v17_2")
    job = fake.add("Pending", LONG_PENDING)
    fake.faults += at(CREATE, "lose_after_commit")
    async with serving(fake, tmp_path) as worker:
        (lost,) = await worker.run("run", given("Pending"))
    assert (lost.output["code"], job.starts, len(fake.of(CREATE))) == ("ambiguous_start", 1, 1)


async def test_what_runs_already(tmp_path: Path) -> None:
    """Refused, joined, or waited for, as the input says."""
    fake = FakeSalesforce()
    policies = ("fail", "attach", "wait_then_start")
    for policy in policies:
        fake.run_of_another(fake.add(policy), Way(phases=(("running", 300.0),)))
    async with serving(fake, tmp_path) as worker:
        inputs = (given(p, if_already_running=p, wait={**WAIT, "timeout_s": 9000}) for p in policies)
        failed, attached, waited = await worker.run("run", *inputs)
    assert (failed.output["code"], fake.jobs["fail"].starts) == ("already_running", 0)
    assert attached.output["execution_id"] == fake.jobs["attach"].executions[0].number
    assert (attached.output["correlation"], fake.jobs["attach"].starts) == ("adopted", 0)
    assert (waited.status, fake.jobs["wait_then_start"].starts) == ("COMPLETED", 1)
    assert waited.output["execution_id"] == fake.jobs["wait_then_start"].executions[1].number


async def test_parameters_and_system_jobs(tmp_path: Path) -> None:
    """Parameters as OCAPI writes them, a system job's own document; 17.2 knows neither, and is not asked."""
    fake, old = FakeSalesforce(), FakeSalesforce(version="v17_2")
    for one in (fake, old):
        one.add("Import")
        one.add("sfcc-site-archive-import")
    own = {"file_name": "site.zip"}
    async with serving(fake, tmp_path / "new") as worker:
        parameters, system, both = await worker.run(
            "run",
            given("Import", parameters={"SiteScope": '{"all_storefront_sites":true}'}),
            given("sfcc-site-archive-import", body=own),
            given("Import", parameters={"a": "b"}, body=own),
        )
    async with serving(old, tmp_path / "old") as worker:
        (refused,) = await worker.run("run", given("Import", parameters={"a": "b"}))
    sent = [asked.body for asked in fake.of(CREATE)]
    assert {"parameters": [{"name": "SiteScope", "value": '{"all_storefront_sites":true}'}]} in sent
    assert own in sent
    assert (parameters.status, system.status, both.output["code"]) == ("COMPLETED", "COMPLETED", "invalid_input")
    assert (refused.output["code"], old.of(CREATE)) == ("invalid_input", [])


@pytest.mark.parametrize("version", ["v25_6", "v17_2"])
async def test_executions_are_listed_read_and_deleted(tmp_path: Path, version: str) -> None:
    """As the version does it; what still runs is not deleted, and what is out of bounds is not asked."""
    fake = FakeSalesforce(version=version)
    job = fake.add("Nightly", Way(phases=(("running", 20.0),)))
    done = [fake.run_of_another(job) for _ in range(3)]
    fake.now += 60
    live = fake.run_of_another(job, FOREVER)

    def about(operation: str, **more: Any) -> dict[str, Any]:
        return {"operation": operation, "job_id": "Nightly", **more}

    async with serving(fake, tmp_path) as worker:
        listed, read, running, first, whole, *bad = await worker.run(
            "look",
            about("list", start=1, count=2),
            about("read", execution_id=done[0].number),
            about("delete", execution_id=live.number),
            about("list", start=0, count=1),
            about("list", start=0, count=200),
            about("list", start=-1),
            about("list", count=0),
            about("list", count=201),
            about("read"),
        )
        fake.faults += at("deleteJobsByIDExecutionsByID", "lose_after_commit")
        (deleted,) = await worker.run("look", about("delete", execution_id=done[0].number))
        (gone,) = await worker.run("look", about("read", execution_id=done[0].number))
    assert (listed.output["total"], len(listed.output["executions"])) == (4, 2)
    assert [len(execution.output["executions"]) for execution in (first, whole)] == [1, 4]
    assert read.output["executions"][0]["id"] == done[0].number
    assert (running.output["error_code"], running.output["status_code"]) == ("JobExecutionNotFinishedException", 403)
    assert [execution.output["code"] for execution in bad] == ["invalid_input"] * 4
    assert deleted.output["deleted"] is True
    assert (gone.output["error_code"], gone.output["status_code"]) == ("JobExecutionNotFoundException", 404)
    if version == "v17_2":
        assert fake.of("getJobsByIDExecutions")[0].line == (
            "GET", "/s/-/dw/data/v17_2/jobs/Nightly/executions", {"start": "1", "count": "2"}, None,
        )  # fmt: skip
    else:
        assert fake.of("postJobExecutionSearch")[0].body == {
            "query": {"term_query": {"fields": ["job_id"], "operator": "is", "values": ["Nightly"]}},
            "sorts": [{"field": "start_time", "sort_order": "desc"}],
            "start": 1,
            "count": 2,
        }
    assert fake.broken == []


async def test_a_retry_by_the_platform_adopts_the_execution(tmp_path: Path) -> None:
    """Given up there by its response timeout, the execution comes again under a new id: nothing starts anew."""
    fake = FakeSalesforce()
    job = fake.add("Adopted", FOREVER)

    def finish() -> None:
        for execution in job.executions:
            execution.way = Way(phases=(("running", 1.0),))

    async with serving(fake, tmp_path) as worker:
        first, again = await retried(worker, given("Adopted", wait=PATIENT), finish)
    assert (again.status, again.output["execution_id"]) == ("COMPLETED", job.executions[0].number)
    assert (job.starts, len(fake.of(CREATE)), first.patches) == (1, 1, [])


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("cancel", "the remote job cannot be cancelled, and runs on"),
        ("leave_running", "the remote job is left running"),
    ],
)
async def test_what_is_cancelled_here_runs_on_there_and_the_log_says_so(tmp_path: Path, policy: str, said: str) -> None:
    """OCAPI cannot end an execution: none of its requests is even tried."""
    fake = FakeSalesforce()
    job = fake.add("Unwanted", FOREVER)
    async with serving(fake, tmp_path) as worker:
        lines = await cancelled(worker, given("Unwanted", wait={**PATIENT, "on_cancel": policy}))
    assert said in lines
    assert (job.starts, job.executions[0].phase(fake.now)) == (1, "running")
    assert {asked.operation for asked in fake.asked} == {"login", "postJobExecutionSearch", CREATE, READ}


@pytest.mark.parametrize("version", ["v25_6", "v17_2"])
@pytest.mark.parametrize("skew", [-300.0, 300.0])
async def test_clocks_may_differ(tmp_path: Path, version: str, skew: float) -> None:
    """What is new is told by the server's own clock: a lost start is found, one that never arrived is sent again."""
    fake = FakeSalesforce(version=version)
    fake.skew = skew
    for name, kind in (("Lost", "lose_after_commit"), ("Never", "lose_before")):
        fake.run_of_another(fake.add(name, Way(phases=(("running", 1.0),))))
        fake.faults += at(CREATE, kind, subject=name)
    fake.now += 60
    async with serving(fake, tmp_path) as worker:
        executions = await worker.run("run", given("Lost"), given("Never"))
    assert [(e.status, fake.jobs[name].starts) for e, name in zip(executions, ("Lost", "Never"), strict=True)] == [
        ("COMPLETED", 1)
    ] * 2
    assert [e.output["execution_id"] for e in executions] == [job.executions[1].number for job in fake.jobs.values()]


async def test_two_workers_start_one_job_one_after_the_other(tmp_path: Path) -> None:
    """By the lease in their journal: a start that never arrived is not taken for the one that came after it."""
    fake, world = FakeSalesforce(), new_world("run", limit=0)
    job = fake.add("Shared", FOREVER)
    fake.faults += at(CREATE, "lose_before")
    more = {"if_already_running": "wait_then_start", "wait": PATIENT}
    async with fake.served() as url, two_workers(HANDLERS, tmp_path, world, sections(fake, url)) as workers:
        executions = [world.submit("run", given("Shared", key=str(n), **more), time.monotonic()) for n in range(6)]
        await both_have(workers, 3)
        await until(lambda: job.starts == 1)
        job.way = job.executions[0].way = Way(phases=(("running", 20.0),))
        await until(lambda: all(execution.status in FINAL for execution in executions))
    assert sorted(e.output.get("execution_id", "") for e in executions) == sorted(e.number for e in job.executions)
    assert (job.starts, fake.broken) == (6, [])


async def test_many_executions_share_one_login(tmp_path: Path) -> None:
    """Fifty make one; the token's end in the middle of their waits makes one more; a refused login is told once."""
    fake = FakeSalesforce()
    for number in range(50):
        fake.add(f"J{number}", Way(phases=(("running", math.inf),)))
    async with serving(fake, tmp_path / "good") as worker:
        executions = worker.submit("run", *(given(f"J{number}", wait=PATIENT) for number in range(50)))
        await until(lambda: all(job.starts == 1 for job in fake.jobs.values()))
        assert fake.tokens == 1
        fake.expire_tokens()
        await until(lambda: fake.tokens == 2)
        for job in fake.jobs.values():
            job.executions[0].way = Way(phases=(("running", 1.0),))
        await until(lambda: all(execution.status == "COMPLETED" for execution in executions))
        assert (fake.tokens, len(fake.of("login"))) == (2, 2)
    async with serving(fake, tmp_path / "bad", client_secret=f"{SECRET}-but-wrong") as worker:
        refused = await worker.run("run", *(given(f"J{number}") for number in range(5)))
    assert {execution.output["code"] for execution in refused} == {"login_refused"}
    assert len(fake.of("login")) == 3
    assert "s3cret" not in repr([execution.output for execution in refused])


async def test_an_answer_that_takes_too_long_is_lost(tmp_path: Path) -> None:
    """The request may have been done: it is looked for, and was."""
    fake = FakeSalesforce()
    job = fake.add("Slow")
    fake.faults += at(CREATE, "slow", seconds=3.0)
    async with serving(fake, tmp_path, read_timeout=1.0) as worker:
        (execution,) = await worker.run("run", given("Slow"))
        tasks = tuple(worker.daemon.catalogue.tasks.values())
        (finding,) = await check_connections(tasks)
    assert (execution.status, execution.output["correlation"], job.starts) == ("COMPLETED", "adopted", 1)
    assert finding[0] is True


async def test_without_the_servers_own_time_no_start_is_sent_again(tmp_path: Path) -> None:
    """Nothing found since a time by our own clock proves nothing; what is found is ours all the same."""
    fake = FakeSalesforce()
    timeless(fake)
    fake.add("Lost")
    fake.add("Done")
    fake.faults += at(CREATE, "lose_before", subject="Lost") + at(CREATE, "lose_after_commit", subject="Done")
    async with serving(fake, tmp_path) as worker:
        lost, done = await worker.run("run", given("Lost"), given("Done"))
    assert (lost.output["code"], len(fake.of(CREATE, "Lost"))) == ("ambiguous_start", 1)
    assert (done.status, done.output["correlation"]) == ("COMPLETED", "adopted")

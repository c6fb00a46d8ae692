"""`make demo-connectors`: each connector, from a task of the sandbox to a job of a fake system, and back."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx

from product_live_worker import registry
from product_live_worker.telemetry import log
from support.fake_informatica import PASSWORD, USER, Course, FakeInformatica
from support.fake_salesforce import CLIENT, SECRET, TOKEN_PATH, FakeSalesforce, Way
from support.fake_snowflake import PAT, FakeSnowflake, Plan
from support.remotes import Fault
from support.workers import RunningWorker, new_world, running_worker, until

WAIT = {"timeout_s": 60, "poll_initial_s": 0.5, "poll_max_s": 0.5}
HOOKS = "http://hooks.example.com"
PLACE = {"database": "SALES", "schema": "PUBLIC"}


class Act(NamedTuple):
    """One execution, and what is to be seen of it."""

    handler: str
    about: str
    given: dict[str, Any]
    connection: str


class Fakes(NamedTuple):
    """The systems."""

    snowflake: FakeSnowflake
    salesforce: FakeSalesforce
    informatica: FakeInformatica


ACTS = [
    Act("snowflake.task", "a graph runs, and ends well", {**PLACE, "task": "LOAD", "wait": WAIT}, "lake"),
    Act("snowflake.task", "the answer to the start is lost: found, not sent again",
        {**PLACE, "task": "LOST", "wait": WAIT}, "lake"),
    Act("snowflake.task", "a graph that fails", {**PLACE, "task": "BROKEN", "wait": WAIT}, "lake"),
    Act("snowflake.manage", "its tasks are listed", {**PLACE, "operation": "list", "like": "L%"}, "lake"),
    Act("salesforce.job", "a job runs, and ends well", {"job_id": "Nightly", "wait": WAIT}, "shop"),
    Act("salesforce.job", "a job that runs already", {"job_id": "Busy", "wait": WAIT}, "shop"),
    Act("salesforce.executions", "executions are searched for", {"operation": "list", "job_id": "Nightly"}, "shop"),
    Act("informatica.job", "a task ends with warnings",
        {"task_name": "warned", "task_type": "MTT", "wait": WAIT}, "org"),
    Act("informatica.job", "a task calls back when it is done",
        {"task_name": "calling", "task_type": "MTT", "completion": "callback"}, "org"),
    Act("informatica.job_stop", "what runs of a task is stopped", {"task_name": "long", "task_type": "MTT"}, "org"),
    Act("informatica.code_task", "a code task runs", {"code_task_id": "7", "wait": WAIT}, "org"),
    Act("informatica.code_task_status", "its job is asked for", {"job_id": "job0"}, "org"),
]  # fmt: skip


def new_fakes() -> Fakes:
    """Give the systems, with their jobs."""
    snowflake, salesforce, informatica = FakeSnowflake(tick=20), FakeSalesforce(tick=20), FakeInformatica(tick=20)
    snowflake.add("LOAD")
    snowflake.add("LOST")
    snowflake.add("BROKEN", Plan(end="FAILED", error=(2043, "SQL compilation error: no such table")))
    snowflake.faults.append(Fault("lose_after_commit", "executeTask", "LOST"))
    salesforce.add("Nightly")
    salesforce.run_of_another(salesforce.add("Busy", Way(phases=(("running", 1e9),))))
    informatica.add("warned", Course(state=2))
    informatica.add("calling", Course(lasts=1e9))
    informatica.run_of_another(informatica.add("long", Course(lasts=1e9)))
    informatica.code_tasks["7"] = [{"status": "RUNNING"}, {"status": "SUCCESS", "endTime": "2026-01-01T00:00:00.000"}]
    return Fakes(snowflake, salesforce, informatica)


def say(text: str) -> None:
    """Show a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def main() -> bool:
    """Play all acts; gives whether each ended as a fake of this kind must."""
    log.configure("error", "text")
    fakes = new_fakes()
    async with AsyncExitStack() as opened:
        lake, shop, org = [await opened.enter_async_context(fake.served()) for fake in fakes]
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="product-live-demo-")))
        connections = {
            "lake": {"account_url": lake, "auth": "pat", "token": PAT},
            "shop": {"url": shop, "token_url": f"{shop}{TOKEN_PATH}", "client_id": CLIENT, "client_secret": SECRET},
            "org": {"login_url": org, "username": USER, "password": PASSWORD, "auth": "v2"},
        }
        places = {act.handler: act.connection for act in ACTS}
        worker = await opened.enter_async_context(
            running_worker(
                registry.load().values(),
                directory,
                world=new_world(*places, limit=0),
                budget={"requests_per_minute": 0},
                http={"port": 0, "public_url": HOOKS, "callback_port": 0},
                connections=connections,
                tasks={name: {"settings": {"connection": place}} for name, place in places.items()},
            )
        )
        say("A Product-Live, three fake systems and a worker run in this process; nothing leaves the machine.\n")
        good = [await _play(worker, fakes, act) for act in ACTS]
        starts = fakes.snowflake.tasks["LOST"].starts
        say(f"\nThe start whose answer was lost happened {starts} time(s).")
    return all(good) and starts == 1


async def _play(worker: RunningWorker, fakes: Fakes, act: Act) -> bool:
    began = time.monotonic()
    (execution,) = worker.submit(act.handler, {**act.given, "eventCorrelationId": f"{act.handler} {act.about}"})
    if act.given.get("completion") == "callback":
        await _call_back(worker, fakes.informatica)
    await until(lambda: execution.status in ("COMPLETED", "FAILED"))
    output = execution.output
    said = output.get("message") or ", ".join(_short(output, lambda value: value not in (None, "", [], 0, {})))
    say(f"{act.handler:<30}{execution.status:<11}{time.monotonic() - began:4.1f} s  {act.about}\n{'':<30}{said[:150]}")
    return (execution.status == "FAILED") is (act.about in ("a graph that fails", "a job that runs already"))


def _short(output: dict[str, Any], matters: Callable[[Any], bool]) -> list[str]:
    names = ("outcome", "remote_id", "correlation", "completed_via", "raw_status", "status", "stopping", "total")
    found = [f"{name}={output[name]}" for name in names if name in output and matters(output[name])]
    return found + [
        f"{len(value)} {name}" for name, value in output.items() if name in ("tasks", "executions") and value
    ]


async def _call_back(worker: RunningWorker, fake: FakeInformatica) -> None:
    """Do as Informatica does when a job is done."""
    task = fake.tasks["calling"]
    await until(lambda: task.starts == 1)
    await anyio.sleep(0.5)
    task.runs[0].course = Course(lasts=0, listed_after=0)
    path = task.runs[0].callback.removeprefix(HOOKS)
    async with httpx.AsyncClient(trust_env=False) as http:
        body = {"@type": "callbackUrlResponse", "runId": 1, "status": "COMPLETED"}
        await http.post(f"http://127.0.0.1:{worker.daemon.callback_port}{path}", json=body)


if __name__ == "__main__":
    raise SystemExit(0 if anyio.run(main) else 1)

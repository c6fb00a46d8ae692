"""The worker is killed at each checkpoint of a remote job and around its start: one run, and its result."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_worker.sandbox.records import FINAL
from support.fake_informatica import PASSWORD, USER, FakeInformatica
from support.fake_salesforce import CLIENT, SECRET, TOKEN_PATH, FakeSalesforce
from support.fake_snowflake import PAT, FakeSnowflake
from support.plugins import install
from support.processes import Running, running
from support.remotes import Asked, Remote
from support.watched_sandbox import WatchedSandbox, watched_sandbox
from support.workers import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

MOST_LIVES = 12
WAIT = {"timeout_s": 1e6}


@dataclass
class Case:
    """One execution of a connector, and the workers that are killed while they have it."""

    task: str
    remote: Remote
    connection: Callable[[str], dict[str, Any]]
    start: str
    """The operation that starts."""
    given: dict[str, Any]
    starts: Callable[[], int]
    directory: Path
    killed: int = 0
    printed: list[str] = field(default_factory=list)

    async def play(self, *first: str) -> dict[str, Any]:
        """Kill a worker at each of these points, then at the first checkpoint of each; gives what is reported."""
        self.directory.mkdir()
        async with watched_sandbox(self.task) as sandbox, self.remote.served() as url:
            self.configure(url)
            execution = sandbox.world.submit(self.task, self.given, time.monotonic())
            for point in first:
                await self.kill(sandbox, point)
            # Each life sees a little of the job, and saves that.
            self.remote.tick = 25.0
            for _ in range(MOST_LIVES):
                if execution.status in FINAL:
                    break
                # It lives on where there is no checkpoint any more.
                async with self.worker(sandbox, KILL_AT="after checkpoint") as worker:
                    await self.until_over(worker, lambda: execution.status in FINAL)
            assert execution.status in FINAL
        return {**execution.output, "status": execution.status}

    async def until_over(self, worker: Running, is_final: Callable[[], bool]) -> None:
        """Wait for the worker's end, or for that of the execution."""
        async with anyio.create_task_group() as either:

            async def ended() -> None:
                self.killed += await worker.ended() == -signal.SIGKILL
                either.cancel_scope.cancel()

            either.start_soon(ended)
            await until(is_final)
            either.cancel_scope.cancel()
        self.printed.append(worker.output)

    async def kill(self, sandbox: WatchedSandbox, point: str) -> None:
        """Start a worker and see it killed at the point: a KILL_AT, or a moment of the request that starts."""
        is_moment = point in ("arrived", "done")
        async with self.worker(sandbox, **({} if is_moment else {"KILL_AT": point})) as worker:
            if is_moment:

                async def at(moment: str, asked: Asked) -> bool | None:
                    if (asked.operation, moment) != (self.start, point):
                        return None
                    worker.send(signal.SIGKILL)
                    await worker.ended()
                    return False

                self.remote.at = at
            assert await worker.ended() == -signal.SIGKILL, worker.output
            self.remote.at = None
            self.killed += 1
        self.printed.append(worker.output)

    def configure(self, url: str) -> None:
        """Write the settings."""
        section = {**self.connection(url), "max_in_flight": 4}
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in section.items())
        text = f'[connections.there]\n{lines}\n[tasks.{self.task}]\nsettings = {{ connection = "there" }}\n'
        (self.directory / "worker.toml").write_text(text, encoding="utf-8")

    def worker(self, sandbox: WatchedSandbox, **variables: str) -> AbstractAsyncContextManager[Running]:
        """Start the real command."""
        return running(
            "run",
            cwd=self.directory,
            variables={
                "PLW_CONFIG": "worker.toml",
                "PLW_API__BASE_URL": sandbox.url,
                "PLW_API__KEY": "sandbox-key",
                "PLW_BUDGET__REQUESTS_PER_MINUTE": "0",
                "PLW_HTTP__PORT": "0",
                "PLW_LOG__LEVEL": "debug",
                **install(self.directory / "plugin", "support.killed_connectors", self.task),
                **variables,
            },
        )


def snow(directory: Path) -> Case:
    """Give a case of Snowflake."""
    fake = FakeSnowflake()
    task = fake.add("T")
    given = {"database": "SALES", "schema": "PUBLIC", "task": "T", "wait": WAIT}
    account = {"auth": "pat", "token": PAT}
    return Case("snow", fake, lambda url: {"account_url": url, **account}, "executeTask", given,
                lambda: task.starts, directory)  # fmt: skip


def ocapi(directory: Path) -> Case:
    """Give a case of Commerce Cloud."""
    fake = FakeSalesforce()
    job = fake.add("Nightly")
    client = {"client_id": CLIENT, "client_secret": SECRET}
    given = {"job_id": "Nightly", "wait": WAIT}
    account = lambda url: {"url": url, "token_url": f"{url}{TOKEN_PATH}", **client}  # noqa: E731 (one line)
    return Case("ocapi", fake, account, "postJobsByIDExecutions", given, lambda: job.starts, directory)


def informatica(task: str, directory: Path, **given: Any) -> Case:
    """Give a case of Informatica."""
    fake = FakeInformatica()
    known = fake.add("load")
    fake.code_tasks["7"] = [{"status": "RUNNING"}, {"status": "SUCCESS", "endTime": "2022-04-04T20:23:57.000"}]
    account = {"username": USER, "password": PASSWORD, "auth": "v2"}
    is_job = task == "job"
    start = "start_job" if is_job else "start_code_task"
    starts = (lambda: known.starts) if is_job else (lambda: fake.code_starts("7"))
    given = {"wait": WAIT, **given}
    return Case(task, fake, lambda url: {"login_url": url, **account}, start, given, starts, directory)


async def test_killed_at_each_checkpoint_a_job_is_run_once(tmp_path: Path) -> None:
    """Before the start, as it is sent, when it is done, and at every checkpoint that follows: one start, its result."""
    load = {"task_name": "load", "task_type": "MTT", "resend_on_ambiguous": True}
    cases = [snow(tmp_path / "1"), ocapi(tmp_path / "2"), informatica("job", tmp_path / "3", **load)]
    ends: dict[str, dict[str, Any]] = {}

    async def play(case: Case) -> None:
        ends[case.task] = await case.play("before checkpoint", "arrived", "done")

    async with anyio.create_task_group() as playing:
        for case in cases:
            playing.start_soon(play, case)
    assert {task: (end["status"], end.get("outcome"), end.get("correlation")) for task, end in ends.items()} == {
        case.task: ("COMPLETED", "succeeded", "adopted") for case in cases
    }
    assert [case.starts() for case in cases] == [1, 1, 1]
    # The three above, and at least the adoption and the end.
    assert all(case.killed >= 5 for case in cases)
    assert [line for case in cases for text in case.printed for line in text.splitlines() if "s3cret" in line] == []


async def test_a_code_task_whose_start_was_interrupted_is_not_started_again(tmp_path: Path) -> None:
    """Nothing lists its jobs: killed between the start and its answer, it is told that nobody can know."""
    case = informatica("code_task", tmp_path / "1", code_task_id=7)
    end = await case.play("done")
    assert (end["status"], end["code"], case.starts()) == ("FAILED", "ambiguous_start", 1)

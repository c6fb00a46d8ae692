"""The worker is killed at each checkpoint of a remote job and around its start: one start, and its result."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_worker.sandbox.records import FINAL
from support.connectors import LONG, soon
from support.fake_informatica import PASSWORD, USER, FakeInformatica
from support.fake_salesforce import CLIENT, SECRET, TOKEN_PATH, FakeSalesforce
from support.fake_snowflake import PAT, FakeSnowflake
from support.plugins import install
from support.processes import Running, running
from support.remotes import Asked, Remote
from support.watched_sandbox import WatchedSandbox, watched_sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

WAIT = {"timeout_s": 1e6}


@dataclass(kw_only=True)
class Case:
    """One execution of a connector, and the workers that are killed while they have it."""

    task: str
    remote: Remote
    connection: Callable[[str], dict[str, Any]]
    start: str
    """The operation that starts."""
    given: dict[str, Any]
    starts: Callable[[], int]
    directory: Path = field(init=False)

    async def play(self, directory: Path, points: Iterable[str]) -> dict[str, Any]:
        """Kill a worker at each of these points, and let the next one live; gives what is reported."""
        self.directory = directory
        async with watched_sandbox(self.task) as sandbox, self.remote.served() as url:
            self.configure(url)
            execution = sandbox.world.submit(self.task, self.given, time.monotonic())
            for point in points:
                await self.kill(sandbox, point)
                assert execution.status not in FINAL, (point, execution.output)
            async with self.worker(sandbox):
                await soon(lambda: execution.status in FINAL)
        return {**execution.output, "status": execution.status}

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
            with anyio.fail_after(LONG):
                assert await worker.ended() == -signal.SIGKILL, (point, worker.output)
            self.remote.at = None

    def configure(self, url: str) -> None:
        """Write the settings."""
        section = {**self.connection(url), "max_in_flight": 4}
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in section.items())
        text = f'[connections.there]\n{lines}\n[tasks.{self.task}]\nsettings = {{ connection = "there" }}\n'
        self.directory.mkdir()
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


def snow() -> Case:
    """Give a case of Snowflake."""
    fake = FakeSnowflake()
    task = fake.add("T")
    return Case(
        task="snow", remote=fake, start="executeTask", starts=lambda: task.starts,
        connection=lambda url: {"account_url": url, "auth": "pat", "token": PAT},
        given={"database": "SALES", "schema": "PUBLIC", "task": "T", "wait": WAIT},
    )  # fmt: skip


def ocapi() -> Case:
    """Give a case of Commerce Cloud."""
    fake = FakeSalesforce()
    job = fake.add("Nightly")
    client = {"client_id": CLIENT, "client_secret": SECRET}
    return Case(
        task="ocapi", remote=fake, start="postJobsByIDExecutions", starts=lambda: job.starts,
        connection=lambda url: {"url": url, "token_url": f"{url}{TOKEN_PATH}", **client},
        given={"job_id": "Nightly", "wait": WAIT},
    )  # fmt: skip


def job() -> Case:
    """Give a case of an Informatica job."""
    fake = FakeInformatica()
    task = fake.add("load")
    given = {"task_name": "load", "task_type": "MTT", "resend_on_ambiguous": True, "wait": WAIT}
    return Case(task="job", remote=fake, start="start_job", starts=lambda: task.starts, connection=org, given=given)


def code_task() -> Case:
    """Give a case of an Informatica code task."""
    fake = FakeInformatica()
    fake.code_tasks["7"] = [*[{"status": "RUNNING"}] * 3, {"status": "SUCCESS", "endTime": "2022-04-04T20:23:57.000"}]
    given = {"code_task_id": 7, "wait": WAIT}
    return Case(
        task="code_task", remote=fake, start="start_code_task", starts=lambda: fake.code_starts("7"), connection=org,
        given=given,
    )  # fmt: skip


def org(url: str) -> dict[str, Any]:
    """Give the section of the organization."""
    return {"login_url": url, "username": USER, "password": PASSWORD, "auth": "v2"}


SENT = ("after checkpoint posting", "done")
"""It is not sent, and nobody knows that; it is done, and nobody has heard of it."""
KNOWN = ("after checkpoint started", "before checkpoint ended", "after checkpoint ended")
WELL, AMBIGUOUS = ("COMPLETED", ""), ("FAILED", "ambiguous_start")
CASES: dict[str, tuple[Callable[[], Case], tuple[str, ...], tuple[str, str], int]] = {
    # How each is killed, how it ends all the same, and how often its job was started.
    "snow": (snow, ("before checkpoint posting", *SENT, *KNOWN), WELL, 1),
    "snow, accepted": (snow, ("after checkpoint accepted",), WELL, 1),
    "ocapi": (ocapi, (*SENT, *KNOWN), WELL, 1),
    "job": (job, (*SENT, *KNOWN), WELL, 1),
    # Nothing lists a code task's jobs: between the start and its checkpoint nobody can know.
    "code_task": (code_task, KNOWN, WELL, 1),
    "code_task, unsent": (code_task, SENT[:1], AMBIGUOUS, 0),
    "code_task, unheard": (code_task, SENT[1:], AMBIGUOUS, 1),
}


async def test_killed_at_each_checkpoint_a_job_is_started_once(tmp_path: Path) -> None:
    """Before and after each is written, as the start is sent and when it is done: one start, and its result."""
    ends: dict[str, Any] = {}

    async def play(name: str, directory: Path) -> None:
        new, points, _, _ = CASES[name]
        case = new()
        end = await case.play(directory, points)
        ends[name] = (end["status"], end.get("code", "")), case.starts(), end["outcome"]

    async with anyio.create_task_group() as playing:
        for name in CASES:
            playing.start_soon(play, name, tmp_path / name)
    assert ends == {
        name: (end, starts, "succeeded" if end == WELL else "unknown") for name, (_, _, end, starts) in CASES.items()
    }

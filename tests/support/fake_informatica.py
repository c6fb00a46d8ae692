"""Informatica's logins, jobs, activity lists and code tasks, as this project reads them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from support.contracts import contract
from support.remotes import Asked, Remote, Reply

IICS = contract("informatica")
USER = "me@example.com"
PASSWORD = "s3cret-password"  # noqa: S105 (of the fake)
OVER_API = "REST_API"
"""The run context of what is started over the API."""
LOGINS = {"login_v2", "login_v3", "login_ids"}
HEADERS = {"code": "ids-session-id", "v3": "infa-session-id", "v2": "icsessionid"}
AT_ONCE = 3
"""Repetitions of a call without a pause."""
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_CALLING = 30.0, 180.0, 1800.0
"""Seconds between the repetitions that follow, growing, and until the last one."""
PATIENCE = 30.0
"""Seconds in which a call must be answered."""


@dataclass
class Course:
    """How the runs of a task go, in seconds of the virtual clock."""

    lasts: float = 60.0
    state: int = 1
    stopped: bool = False
    error: str = "No errors encountered."
    listed_after: float = 10.0
    """From its end on, in the log."""
    monitored: bool = True
    named: bool = True
    """Whether lists give the task's id."""
    told: bool = True
    """Whether lists say who started it, and how."""
    log: str | bytes = "session log: all is well"


@dataclass(eq=False)
class Run:
    """A run of a task."""

    number: int
    at: float
    course: Course
    by: str
    context: str
    callback: str = ""
    stopped_at: float = math.inf

    def ends(self) -> float:
        """Give when it is over."""
        return min(self.at + self.course.lasts, self.stopped_at)


@dataclass(eq=False)
class Task:
    """A task, and how often it was truly started."""

    name: str
    course: Course
    id: str
    runs: list[Run] = field(default_factory=list)
    starts: int = 0


@dataclass(eq=False)
class CodeJob:
    """A job of a code task; `words` are what it is called at each look, the last one for ever."""

    id: str
    task: str
    words: list[dict[str, Any]]


def pauses() -> Iterator[float]:
    """Give the seconds before each repetition of a call that was not answered as it must be."""
    yield from (0.0,) * AT_ONCE
    pause, total = FIRST_PAUSE, 0.0
    while total + pause <= LONGEST_CALLING:
        yield pause
        total, pause = total + pause, min(pause * 2, LONGEST_PAUSE)


async def _nothing(_: int) -> None:
    """Let the next attempt follow."""


class FakeInformatica(Remote):
    """An organization."""

    def __init__(self, *, tick: float = 5.0, jwt: bool = False) -> None:
        super().__init__(tick=tick)
        self.jwt = jwt
        self.given: list[str] = []
        self.tasks: dict[str, Task] = {}
        self.code_tasks: dict[str, list[dict[str, Any]]] = {}
        self.code_jobs: dict[str, CodeJob] = {}
        self.hooks = ("", "")
        """The public address of the callbacks, and where on this machine it leads to."""

    def add(self, name: str, course: Course | None = None) -> Task:
        """Add a task."""
        self.tasks[name] = Task(name, course or Course(), f"T{len(self.tasks):07}")
        return self.tasks[name]

    def run_of_another(
        self, task: Task, course: Course | None = None, *, by: str = "somebody@example.com", context: str = "ICS_UI"
    ) -> Run:
        """Let somebody else run it."""
        run = Run(len(task.runs) + 1, self.now + self.skew, course or task.course, by=by, context=context)
        task.runs.append(run)
        return run

    # Remote

    def route(self, asked: Asked) -> None:
        """See Remote."""
        asked.operation, asked.values = IICS.route(asked.method, asked.path)
        body = asked.body if isinstance(asked.body, dict) else {}
        named = [t for t in self.tasks.values() if self._is(t, body, asked.query)]
        asked.subject = named[0].name if named else ""
        if asked.operation == "start_code_task":
            asked.subject = str(body.get("codeTaskId"))
        if "job" in asked.values and asked.values["job"] in self.code_jobs:
            asked.subject = self.code_jobs[asked.values["job"]].task

    def _is(self, task: Task, body: dict[str, Any], query: dict[str, str]) -> bool:
        told = (body.get("taskId"), body.get("taskFederatedId"), body.get("taskName"), query.get("taskId"))
        return (task.id, f"fed-{task.name}", task.name) == (
            told[0] or task.id,
            told[1] or f"fed-{task.name}",
            told[2] or task.name,
        ) and (any(told[:3]) or told[3] == task.id)

    def request_problems(self, asked: Asked) -> list[str]:
        """See Remote."""
        problems = IICS.request_problems(asked.operation, asked.query, asked.body)
        return problems if asked.headers.get("accept") == "application/json" else [*problems, "accept is not JSON"]

    def reply_problems(self, asked: Asked, reply: Reply) -> list[str]:
        """See Remote."""
        if asked.operation == "session_log":
            return []
        return IICS.response_problems(asked.operation, reply.status, reply.body)

    def error(self, status: int, asked: Asked) -> Any:
        """See Remote."""
        if "/v3/" in asked.path or "/v1/" in asked.path:
            return {
                "error": {"code": f"CODE_{status}", "message": f"error {status}", "requestId": "r-1", "details": []}
            }
        return {"@type": "error", "code": f"CODE_{status}", "description": f"error {status}", "statusCode": status}

    def answer(self, asked: Asked) -> Reply:
        """See Remote."""
        if asked.operation in LOGINS:
            return self._login(asked)
        kind = "code" if "/disnext/" in asked.path else "v3" if "/v3/" in asked.path else "v2"
        if not self._knows(asked.headers.get(HEADERS[kind], "")):
            return Reply(401, self.error(401, asked))
        reply: Reply = getattr(self, f"_{asked.operation}")(asked)
        return reply

    def _knows(self, session: str) -> bool:
        return session in self.given and session not in self.expired

    def expire_tokens(self) -> None:
        """Let all sessions be over."""
        self.expired |= set(self.given)

    def _login(self, asked: Asked) -> Reply:
        if (asked.body.get("username"), asked.body.get("password")) != (USER, PASSWORD):
            text = f"no user with {asked.body.get('password')}"
            if asked.operation == "login_v3":
                return Reply(401, {"error": {"code": "AUTH_02", "message": text, "requestId": "r-2"}})
            return Reply(400, {"@type": "error", "code": "AUTH_02", "description": text, "statusCode": 400})
        session = self.token()
        if self.jwt:
            claims = base64.urlsafe_b64encode(json.dumps({"exp": 4_000_000_000}).encode()).decode().rstrip("=")
            session = f"s3cret.{claims}.{self.tokens}"
        self.given.append(session)
        base = f"{self.url}/saas"
        if asked.operation == "login_v2":
            return Reply(200, {"icSessionId": session, "serverUrl": base, "orgUuid": "o"})
        if asked.operation == "login_ids":
            return Reply(200, {"sessionId": session, "sessionExpireTime": "2099-01-01T00:00:00.000Z", "orgId": "o"})
        other = {"name": "Other", "baseApiUrl": "https://other.example.com/saas"}
        return Reply(
            200,
            {
                "userInfo": {"sessionId": session, "id": "u"},
                "products": [other, {"name": "Integration Cloud", "baseApiUrl": base}],
            },
        )

    # Jobs

    def _start_job(self, asked: Asked) -> Reply:
        task = self.tasks.get(asked.subject)
        if task is None:
            return Reply(404, self.error(404, asked))
        task.starts += 1
        run = self.run_of_another(task, by=USER, context=OVER_API)
        run.callback = asked.body.get("callbackURL", "")
        named = {"taskId": task.id, "taskFederatedId": f"fed-{task.name}", "taskName": task.name}
        return Reply(200, {"@type": "job", **named, "taskType": asked.body["taskType"], "runId": run.number})

    def _stop_job(self, asked: Asked) -> Reply:
        for run in self.tasks[asked.subject].runs:
            if run.ends() > self.now + self.skew:
                run.stopped_at = self.now + self.skew + 10
        return Reply(200, {"@type": "success", "code": "", "description": "Job stop request submitted."})

    def _monitor(self, asked: Asked) -> Reply:
        return Reply(
            200,
            [
                {
                    "@type": "activityMonitorEntry",
                    "id": f"m{task.id}{run.number}",
                    "taskId": task.id if run.course.named else None,
                    "taskName": task.name,
                    "runId": run.number,
                    "startTime": "2020-01-01T00:00:00.000Z",
                    "executionState": "RUNNING",
                    # Its document has no startedBy.
                    **({"runContextType": run.context} if run.course.told else {}),
                }
                for task in self.tasks.values()
                for run in task.runs
                if run.course.monitored and run.ends() > self.now + self.skew
            ],
        )

    def _log(self, asked: Asked) -> Reply:
        rows = [
            self._row(task, run)
            for task in self.tasks.values()
            for run in reversed(task.runs)
            if asked.query.get("taskId") in (None, task.id)
            and asked.query.get("runId") in (None, str(run.number))
            and self.now + self.skew >= run.ends() + run.course.listed_after
        ]
        # Of one row, some have seen the object alone.
        if len(rows) == 1 and "runId" in asked.query:
            return Reply(200, rows[0])
        return Reply(200, rows[: int(asked.query.get("rowLimit", "200"))])

    def _row(self, task: Task, run: Run) -> dict[str, Any]:
        return {
            "@type": "activityLogEntry",
            "id": f"{task.id}-{run.number}",
            "type": "MTT",
            "objectId": task.id,
            "objectName": task.name,
            "runId": run.number,
            "startTime": "2020-01-01T00:00:00.000Z",
            "startTimeUtc": _time(run.at),
            "endTimeUtc": _time(run.ends()),
            "state": run.course.state if run.stopped_at == math.inf else 3,
            "isStopped": run.course.stopped or run.stopped_at < math.inf,
            "successSourceRows": 12,
            "failedSourceRows": 0,
            "successTargetRows": 11,
            "failedTargetRows": 1,
            "errorMsg": run.course.error,
            **({"startedBy": run.by, "runContextType": run.context} if run.course.told else {}),
            "entries": [{"@type": "activityLogEntry", "runId": 0, "state": 1}],
        }

    def _session_log(self, asked: Asked) -> Reply:
        entries = {f"{task.id}-{run.number}": run for task in self.tasks.values() for run in task.runs}
        log = entries[asked.path.split("/")[-2]].course.log
        return Reply(200, log, {"content-type": "text/plain" if isinstance(log, str) else "application/zip"})

    def _lookup(self, asked: Asked) -> Reply:
        name = str(asked.body["objects"][0]["id"]).removeprefix("fed-")
        found = [{"id": f"fed-{name}", "path": f"Default/{name}", "type": "MTT"}] if name in self.tasks else []
        return Reply(200, {"objects": found})

    def _valid_session(self, asked: Asked) -> Reply:
        good = self._knows(asked.body["icToken"]) and asked.body["userName"] == USER
        return Reply(200, {"@type": "validatedToken", "timeUntilExpire": 29, "isValidToken": good})

    def _logout_v2(self, asked: Asked) -> Reply:
        self.expired.add(asked.headers["icsessionid"])
        return Reply(200, {"@type": "success"})

    def _logout_v3(self, asked: Asked) -> Reply:
        self.expired.add(asked.headers["infa-session-id"])
        return Reply(200)

    # Callbacks

    async def call_back(
        self,
        task: Task,
        *,
        status: str = "COMPLETED",
        unheard: int = 0,
        after: Callable[[int], Awaitable[None]] = _nothing,
    ) -> list[int]:
        """Tell of the end of a task's last run until that is answered by 200, or for half an hour of the virtual clock.

        The answers to the first `unheard` attempts come too late; `after` each attempt its number is told. Gives the
        statuses, 0 where there was none in time.
        """
        run, heard = task.runs[-1], list[int]()
        body = {
            "@type": "callbackUrlResponse", "endTime": _time(run.ends() if run.ends() < math.inf else self.now),
            "objectId": task.id, "objectName": task.name, "runId": run.number, "status": status,
        }  # fmt: skip
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as web:
            for pause in (0.0, *pauses()):
                self.now += pause
                try:
                    said = (await web.post(run.callback.replace(*self.hooks), json=body)).status_code
                except httpx.TransportError:
                    said = 0
                if len(heard) < unheard:
                    self.now, said = self.now + PATIENCE, 0
                heard.append(said)
                if said == 200:
                    break
                await after(len(heard))
        return heard

    # Code tasks

    def _start_code_task(self, asked: Asked) -> Reply:
        words = self.code_tasks.get(asked.subject)
        if words is None:
            return Reply(404, self.error(404, asked))
        job = CodeJob(f"job{len(self.code_jobs)}", asked.subject, list(words))
        self.code_jobs[job.id] = job
        summary = {"summary": "Code Task started successfully", "codeTaskInstanceName": f"{asked.subject}-1"}
        return Reply(200, {**summary, "jobId": job.id, "sparkCodeTaskResponseBody": {"logLevel": "normal"}})

    def code_starts(self, task: str) -> int:
        """Count the true starts of a code task."""
        return sum(job.task == task for job in self.code_jobs.values())

    def _code_task_status(self, asked: Asked) -> Reply:
        job = self.code_jobs.get(asked.values["job"])
        if job is None:
            return Reply(404, self.error(404, asked))
        word = job.words[0] if len(job.words) == 1 else job.words.pop(0)
        return Reply(404, self.error(404, asked)) if not word else Reply(200, word)

    def _cancel_code_task(self, asked: Asked) -> Reply:
        self.code_jobs[asked.values["job"]].words = [{"status": "CANCELLED", "endTime": "2022-04-04T20:23:57.000"}]
        return Reply(200, {})


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

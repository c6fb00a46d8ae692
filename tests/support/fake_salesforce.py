"""OCAPI's job executions, of 17.2 and of 25.6, and the account manager's token, as this project reads them."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from support.contracts import contract
from support.remotes import Asked, Remote, Reply, snake

OCAPI = contract("ocapi")
CLIENT = "client-1"
SECRET = "s3cret:client/+"  # noqa: S105 (of the fake)
TOKEN_PATH = "/dwsso/oauth2/access_token"  # noqa: S105 (an address)


@dataclass
class Way:
    """How the executions of a job go, in seconds of the virtual clock."""

    phases: tuple[tuple[str, float], ...] = (("pending", 10.0), ("running", 60.0))
    """What it is, for how long each."""
    end: str = "finished"
    exit: tuple[str, str, str] | None = ("OK", "", "ok")
    steps: tuple[tuple[str, str, str], ...] = ()
    purged_after: float = math.inf
    fault: str = ""
    """Of the start."""


@dataclass(eq=False)
class Execution:
    """One execution of a job."""

    number: str
    client: str
    at: float
    way: Way
    body: Any = None

    def phase(self, now: float) -> str:
        """Give what it is."""
        left = now - self.at
        for name, lasts in self.way.phases:
            if left < lasts:
                return name
            left -= lasts
        return self.way.end

    @property
    def begins(self) -> float:
        """Give when it is pending no more."""
        phase, lasts = next(iter(self.way.phases), ("", 0.0))
        return self.at + lasts if phase == "pending" else self.at

    def is_over(self, now: float) -> bool:
        """Whether it runs no more."""
        return now - self.at >= sum(lasts for _, lasts in self.way.phases)


@dataclass(eq=False)
class Job:
    """A job, and how often it was truly started."""

    name: str
    way: Way = field(default_factory=Way)
    executions: list[Execution] = field(default_factory=list)
    starts: int = 0


class FakeSalesforce(Remote):
    """An instance."""

    def __init__(self, *, version: str = "v25_6", tick: float = 5.0) -> None:
        super().__init__(tick=tick)
        self.version = version
        self.jobs: dict[str, Job] = {}
        self.numbers = 40000

    def add(self, name: str, way: Way | None = None) -> Job:
        """Add a job."""
        self.jobs[name] = Job(name, way or Way())
        return self.jobs[name]

    def run_of_another(self, job: Job, way: Way | None = None) -> Execution:
        """Let somebody else run it."""
        return self._run(job, way or job.way, "somebody")

    @property
    def clock(self) -> float:
        """Its own time, by which all goes here."""
        return self.now + self.skew

    # Remote

    def route(self, asked: Asked) -> None:
        """See Remote."""
        if asked.path == TOKEN_PATH:
            asked.operation = "login"
            return
        found = re.fullmatch(rf"/s/-/dw/data/{self.version}(/.*)", asked.path)
        if found is None:
            raise LookupError(f"{asked.path} is no path of {self.version}")
        asked.operation, asked.values = OCAPI.route(asked.method, found[1])
        asked.subject = asked.values.get("job_id", "")
        if asked.operation == "postJobExecutionSearch":
            asked.subject = str(_terms(asked.body).get("job_id", ""))

    def request_problems(self, asked: Asked) -> list[str]:
        """See Remote."""
        if asked.operation == "login":
            return []
        problems = OCAPI.request_problems(asked.operation, asked.query, asked.body)
        wanted = {"accept": "application/json", "x-dw-client-id": CLIENT}
        wanted["content-type"] = "application/json; charset=UTF-8"
        return problems + [
            f"{name}: {asked.headers.get(name)!r}" for name in wanted if asked.headers.get(name) != wanted[name]
        ]

    def reply_problems(self, asked: Asked, reply: Reply) -> list[str]:
        """See Remote."""
        return [] if asked.operation == "login" else OCAPI.response_problems(asked.operation, reply.status, reply.body)

    def error(self, status: int, asked: Asked) -> Any:
        """See Remote."""
        kind = "InvalidAccessTokenException" if status == 401 else f"Fault{status}Exception"
        return self.fault(kind, f"fault {status}")

    def fault(self, kind: str, text: str, **arguments: Any) -> dict[str, Any]:
        """Give a fault, as the version writes its arguments."""
        if self.version != "v17_2":
            arguments = {name: {"type": "string", "value": value} for name, value in arguments.items()}
        number = self.version.removeprefix("v").replace("_", ".")
        return {"_v": number, "fault": {"arguments": arguments, "type": kind, "message": text}}

    def answer(self, asked: Asked) -> Reply:
        """See Remote."""
        if asked.operation == "login":
            return self._login(asked)
        if not self.is_good(asked.headers.get("authorization", "").removeprefix("Bearer ")):
            return Reply(401, self.error(401, asked))
        if asked.operation == "getJobsByIDExecutions" and self.version != "v17_2":
            return Reply(405, self.fault("MethodNotAllowedException", "gone since 17.4"))
        reply: Reply = getattr(self, f"_{snake(asked.operation.replace('ID', 'Id'))}")(asked)
        return reply

    def _login(self, asked: Asked) -> Reply:
        sent = base64.b64decode(asked.headers.get("authorization", "").removeprefix("Basic ")).decode()
        client, _, secret = sent.partition(":")
        if (client, unquote_plus(secret)) != (CLIENT, SECRET) or asked.body != {"grant_type": "client_credentials"}:
            # As careless as some are: it repeats what it was sent.
            return Reply(
                401, {"error": "invalid_client", "error_description": f"no client {client} {unquote_plus(secret)}"}
            )
        return Reply(200, {"access_token": self.token(), "token_type": "Bearer", "expires_in": 1799})

    # Operations

    def _post_jobs_by_id_executions(self, asked: Asked) -> Reply:
        job = self.jobs.get(asked.subject)
        if job is None:
            text = f"No job with ID '{asked.subject}' found."
            return Reply(404, self.fault("JobNotFoundException", text, jobId=asked.subject))
        if job.way.fault:
            kind, _, status = job.way.fault.partition(" ")
            cause = {"cause": "a step type is not known"} if kind == "JobInvalidException" else {}
            return Reply(int(status or 400), self.fault(kind, f"{kind} of {job.name}", jobId=job.name, **cause))
        if any(not execution.is_over(self.clock) for execution in job.executions):
            return Reply(400, self.fault("JobAlreadyRunningException", "runs already", jobId=job.name))
        job.starts += 1
        execution = self._run(job, job.way, CLIENT)
        execution.body = asked.body
        return Reply(202 if job.name.startswith("sfcc-") else 200, self._document(job, execution))

    def _run(self, job: Job, way: Way, client: str) -> Execution:
        self.numbers += 1
        job.executions.append(Execution(str(self.numbers), client, self.clock, way))
        return job.executions[-1]

    def _get_jobs_by_id_executions(self, asked: Asked) -> Reply:
        job = self.jobs.get(asked.subject)
        rows = [self._document(job, one) for one in job.executions] if job else []
        start, count = int(asked.query.get("start", "0")), int(asked.query.get("count", "25"))
        part = rows[start : start + count]
        return Reply(
            200, {"_v": "17.2", "_type": "job_execution_result", "count": len(part), "data": part, "total": len(rows)}
        )

    def _post_job_execution_search(self, asked: Asked) -> Reply:
        job = self.jobs.get(asked.subject)
        # What has no start yet is the last of all.
        found = sorted(
            job.executions if job else [], key=lambda one: (one.begins <= self.clock, one.begins), reverse=True
        )
        rows = [self._document(job, one) for one in found] if job else []
        if wanted := _terms(asked.body).get("status"):
            rows = [row for row in rows if row["status"] == wanted]
        start, count = asked.body.get("start", 0), asked.body.get("count", 25)
        part = rows[start : start + count]
        return Reply(200, {"_v": "25.6", "count": len(part), "hits": part, "start": start, "total": len(rows)})

    def _get_jobs_by_id_executions_by_id(self, asked: Asked) -> Reply:
        job, execution = self._find(asked)
        if job is None or execution is None or self.clock - execution.at >= execution.way.purged_after:
            return self._no_execution(asked)
        return Reply(200, self._document(job, execution))

    def _delete_jobs_by_id_executions_by_id(self, asked: Asked) -> Reply:
        job, execution = self._find(asked)
        if job is None or execution is None:
            return self._no_execution(asked)
        if not execution.is_over(self.clock):
            number = asked.values["id"]
            return Reply(403, self.fault("JobExecutionNotFinishedException", "not finished", executionId=number))
        job.executions.remove(execution)
        return Reply(204)

    def _find(self, asked: Asked) -> tuple[Job | None, Execution | None]:
        job = self.jobs.get(asked.subject)
        found = [one for one in job.executions if one.number == asked.values["id"]] if job else []
        return job, found[0] if found else None

    def _no_execution(self, asked: Asked) -> Reply:
        number = asked.values["id"]
        text = f"No Job execution with id '{number}' was found."
        return Reply(404, self.fault("JobExecutionNotFoundException", text, executionId=number))

    def _document(self, job: Job, execution: Execution) -> dict[str, Any]:
        phase, over = execution.phase(self.clock), execution.is_over(self.clock)
        row: dict[str, Any] = {
            "_type": "job_execution",
            "id": execution.number,
            "job_id": job.name,
            "client_id": execution.client,
            "duration": int((self.clock - execution.at) * 1000),
            "execution_status": phase,
            "status": phase.upper(),
            "execution_scopes": ["SiteGenesis"],
            "log_file_name": f"Job-{job.name}.log",
        }
        if phase != "pending":
            row["start_time"] = _time(execution.begins)
        if self.version != "v17_2":
            row["creation_date"] = _time(execution.at)
        if over and execution.way.exit and phase == "finished":
            code, message, status = execution.way.exit
            row |= {"end_time": _time(self.clock), "status": code}
            row["exit_status"] = {"code": code, "message": message, "status": status}
            row["step_executions"] = [
                {"id": str(n), "step_id": f"Step{n}", "execution_status": "finished", "status": code,
                 "exit_status": {"code": code, "message": message, "status": status}}
                for n, (code, message, status) in enumerate(execution.way.steps)
            ]  # fmt: skip
        if self.version == "v17_2" and int(execution.number) % 2:
            # Its list samples leave the one out, its other samples have both.
            row["status"] = row.pop("execution_status")
        return row


def _terms(body: Any) -> dict[str, Any]:
    query = (body or {}).get("query", {})
    terms = query.get("bool_query", {}).get("must", [query])
    found = [term["term_query"] for term in terms if "term_query" in term]
    return {term["fields"][0]: term["values"][0] for term in found}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

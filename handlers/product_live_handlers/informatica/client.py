"""One method for each operation of Informatica's APIs that jobs and code tasks need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from product_live_handlers.informatica.models import (
    CodeTaskStatus,
    LogEntry,
    MonitorEntry,
    StartedCodeTask,
    StartedJob,
)
from product_live_handlers.remote_http import (
    Answer,
    NoAnswer,
    Session,
    Wire,
    first_text,
    read_as,
    segment,
    signed,
)
from product_live_handlers.remote_job import Clock

SYSTEM = "Informatica"
Api = Literal["v2", "v3", "code"]
HEADERS: dict[Api, str] = {"v2": "icSessionId", "v3": "INFA-SESSION-ID", "code": "IDS-SESSION-ID"}
STALE = frozenset({"AUTH_01"})
"""Codes that say that the session is over, whatever the status."""


@dataclass(frozen=True)
class Signed:
    """A session, and where it counts."""

    id: str
    base: str
    root: str
    idle: float | None
    """Seconds for which each request prolongs it; None where its end is fixed."""


def explain(_: int, body: Any) -> tuple[str, str, dict[str, Any]]:
    """Say what an error says, of version 2 or 3."""
    error = body.get("error") if isinstance(body, dict) and isinstance(body.get("error"), dict) else body
    request = first_text(error, ("requestId",))
    details = {"request_id": request} if request else {}
    return first_text(error, ("code",)), first_text(error, ("description", "message")), details


class InformaticaClient:
    """An organization. Each method sends one request."""

    def __init__(
        self,
        wire: Wire,
        session: Session,
        *,
        username: str,
        login_url: str = "",
        cancel_path: str | None = None,
        auth: str = "v3",
        new_clock: Callable[[], Clock] = Clock,
    ) -> None:
        """`new_clock` gives each execution its time."""
        self.username = username
        self.account = f"{login_url} {username}"
        self.cancel_path = cancel_path
        self.session = session
        self.new_clock = new_clock
        self._wire = wire
        self._auth = auth

    async def check(self) -> list[str]:
        """Log in, and ask how long the session is valid."""
        found = await self._send("POST", "v2", "/api/v2/user/validSessionId", body=await self._validated())
        minutes = first_text(found.body, ("timeUntilExpire",))
        return [
            f"Informatica accepts {self.username}" + (f"; the session is valid for {minutes} min" if minutes else "")
        ]

    async def _validated(self) -> dict[str, Any]:
        name = (await self.session.get()).id
        return {"@type": "validatedToken", "userName": self.username, "icToken": name}

    async def logout(self) -> None:
        """End the session, if there is one."""
        if (current := self.session.peek()) is None or self._auth == "ids":
            return
        api: Api = "v2" if self._auth == "v2" else "v3"
        path = "/api/v2/user/logout" if api == "v2" else "/public/core/v3/logout"
        body = {"@type": "logout"} if api == "v2" else {}
        await self._wire.send("POST", f"{current.base}{path}", headers={HEADERS[api]: current.id}, content=body)

    async def start_job(self, job: Mapping[str, Any]) -> StartedJob:
        """Start a task: POST /api/v2/job."""
        answer = await self._send("POST", "v2", "/api/v2/job", body={"@type": "job", **job}, fresh=True)
        return read_as(StartedJob, _object(answer, "runId"), SYSTEM)

    async def stop_job(self, job: Mapping[str, Any], *, clean: bool) -> None:
        """Stop whatever runs of a task: POST /api/v2/job/stop."""
        query = {"cleanStop": True} if clean else None
        await self._send("POST", "v2", "/api/v2/job/stop", query, {"@type": "job", **job})

    async def activity_monitor(self, *, details: bool = False) -> tuple[list[MonitorEntry], float]:
        """List what runs in the organization, and give the server's time."""
        answer = await self._send("GET", "v2", "/api/v2/activity/activityMonitor", {"details": details})
        return [read_as(MonitorEntry, one, SYSTEM) for one in _entries(answer)], answer.date

    async def activity_log(
        self,
        task_id: str | None = None,
        run_id: int | None = None,
        *,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[LogEntry]:
        """List what has ended; a run is only known within its task."""
        query = {"taskId": task_id, "runId": run_id, "rowLimit": limit, "offset": offset}
        answer = await self._send("GET", "v2", "/api/v2/activity/activityLog", query)
        return [read_as(LogEntry, one, SYSTEM) for one in _entries(answer)]

    async def session_log(self, entry: str) -> bytes:
        """Give the log of a run that has ended, as text or as an archive."""
        path = f"/api/v2/activity/activityLog/{segment(entry)}/sessionLog"
        answer = await self._send("GET", "v2", path, raw=True)
        return bytes(answer.body)

    async def lookup(self, federated_id: str) -> str:
        """Give the name of a task, whose federated id is known; empty where it has none."""
        body = {"objects": [{"id": federated_id}]}
        found = (await self._send("POST", "v3", "/public/core/v3/lookup", body=body)).body
        objects = found.get("objects") if isinstance(found, dict) else None
        path = first_text(objects[0], ("path",)) if isinstance(objects, list) and objects else ""
        return path.rsplit("/", 1)[-1]

    async def start_code_task(self, code_task_id: str | int) -> StartedCodeTask:
        """Start a code task: POST /disnext/api/v1/CodeTask/Start."""
        path = "/disnext/api/v1/CodeTask/Start"
        answer = await self._send("POST", "code", path, body={"codeTaskId": code_task_id}, fresh=True)
        return read_as(StartedCodeTask, _object(answer, "jobId"), SYSTEM)

    async def code_task_status(self, job_id: str) -> CodeTaskStatus:
        """Ask for a code task's job: GET /disnext/api/v1/CodeTask/JobStatus/{jobId}."""
        answer = await self._send("GET", "code", f"/disnext/api/v1/CodeTask/JobStatus/{segment(job_id)}")
        return read_as(CodeTaskStatus, _object(answer), SYSTEM)

    async def cancel_code_task(self, job_id: str) -> None:
        """Cancel a code task's job, where the connection says how."""
        assert self.cancel_path is not None  # noqa: S101 (asked before)
        await self._send("POST", "code", self.cancel_path.replace("{job_id}", segment(job_id)))

    async def _send(
        self,
        method: str,
        api: Api,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        *,
        fresh: bool = False,
        raw: bool = False,
    ) -> Answer:
        async def send(session: Signed) -> Answer:
            url = f"{session.root if api == 'code' else session.base}{path}"
            headers = {HEADERS[api]: session.id}
            if "icToken" in (body or {}):
                body["icToken"] = session.id
            answer = await self._wire.send(
                method, url, headers=headers, params=query, content=body, fresh=fresh, raw=raw
            )
            if session.idle is not None:
                self.session.prolong(session.idle)
            return self._checked(answer)

        return await signed(self.session, send, lambda refused: refused.status == 401 or refused.code in STALE)

    def _checked(self, answer: Answer) -> Answer:
        """Raise the error that says success in its status."""
        body = answer.body if isinstance(answer.body, dict) else {}
        if body.get("@type") == "error" or isinstance(body.get("error"), dict):
            code, text, details = explain(answer.status, body)
            status = body.get("statusCode") if isinstance(body.get("statusCode"), int) else answer.status
            told, status = f"Informatica answered {code}: {text}", int(status or answer.status)
            raise self._wire.refused(told, status=status, code=code, details=details)
        return answer


def _object(answer: Answer, *needed: str) -> dict[str, Any]:
    if not isinstance(answer.body, dict) or any(answer.body.get(name) in (None, "") for name in needed):
        raise NoAnswer(f"Informatica answered with what has no {' and '.join(needed) or 'object'}")
    return answer.body


def _entries(answer: Answer) -> list[dict[str, Any]]:
    """Give the rows of a list; one that is none has nothing in it, but is there."""
    if answer.body is not None and not isinstance(answer.body, list | dict):
        raise NoAnswer("Informatica answered with what is no list of entries")
    found = answer.body if isinstance(answer.body, list) else [answer.body] if answer.body else []
    return [one if isinstance(one, dict) else {} for one in found]

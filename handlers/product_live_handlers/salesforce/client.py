"""One method for each operation on jobs of OCAPI's Data API, of 17.2 and of what came after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from product_live_handlers.remote_http import (
    Answer,
    Id,
    NoAnswer,
    Refused,
    Session,
    Wire,
    first_text,
    read_as,
    segment,
    signed,
)
from product_live_handlers.remote_job import Clock

STALE_TOKEN = "InvalidAccessTokenException"  # noqa: S105 (the name of a fault)
RUNNING = "JobAlreadyRunningException"
NOT_FOUND = "JobExecutionNotFoundException"
SEARCH_SINCE = (17, 4)
"""The version in which the list was replaced by a search."""
PARAMETERS_SINCE = (17, 4)
"""The version from which on a start takes a document."""
MOST = 200
"""Executions in one answer."""


SYSTEM = "Commerce Cloud"
NULL_IS_EMPTY = BeforeValidator(lambda given: [] if given is None else given)


class ExitStatus(BaseModel):
    """How an execution, or a step of it, ended."""

    model_config = ConfigDict(extra="allow")

    code: str | None = None
    message: str | None = None
    status: str | None = None


class StepExecution(BaseModel):
    """A step of an execution."""

    model_config = ConfigDict(extra="allow")

    id: str | None = None
    step_id: str | None = None
    step_type_id: str | None = None
    execution_scope: str | None = None
    execution_status: str | None = None
    status: str | None = None
    exit_status: ExitStatus | None = None


class JobExecution(BaseModel):
    """An execution, as 17.2 or a later version tells of it."""

    model_config = ConfigDict(extra="allow")

    id: Id
    job_id: str | None = None
    client_id: str | None = None
    status: str | None = None
    execution_status: str | None = None
    exit_status: ExitStatus | None = None
    creation_date: str | None = None
    start_time: str | None = None
    """None while it is pending."""
    end_time: str | None = None
    duration: int | None = None
    execution_scopes: Annotated[list[str], NULL_IS_EMPTY] = Field(default_factory=list)
    log_file_name: str | None = None
    log_file_path: str | None = None
    step_executions: Annotated[list[StepExecution], NULL_IS_EMPTY] = Field(default_factory=list)


class Executions(BaseModel):
    """A page of executions."""

    total: int = 0
    found: list[JobExecution]
    date: float = 0.0
    """The server's time, Unix seconds."""


def explain(_: int, body: Any) -> tuple[str, str, dict[str, Any]]:
    """Say what a fault says; its arguments are plain values in 17.2, and objects with a value later."""
    fault = body.get("fault") if isinstance(body, dict) else None
    if not isinstance(fault, dict):
        # The account manager's own errors.
        return first_text(body, ("error",)), first_text(body, ("error_description",)), {}
    given = fault.get("arguments")
    arguments = given if isinstance(given, dict) else {}
    plain = {name: value.get("value") if isinstance(value, dict) else value for name, value in arguments.items()}
    return first_text(fault, ("type",)), first_text(fault, ("message",)), {"fault_arguments": plain} if plain else {}


class OcapiClient:
    """An instance, by one version of the API."""

    def __init__(
        self,
        url: str,
        version: str,
        client_id: str,
        wire: Wire,
        session: Session,
        *,
        new_clock: Callable[[], Clock] = Clock,
    ) -> None:
        """`new_clock` gives each execution its time."""
        self.url = url
        self.client_id = client_id
        self.session = session
        self.new_clock = new_clock
        self._wire = wire
        year, _, minor = version.removeprefix("v").partition("_")
        self.searches = (int(year), int(minor)) >= SEARCH_SINCE
        """Whether executions are searched for, instead of listed."""
        self.takes_parameters = (int(year), int(minor)) >= PARAMETERS_SINCE

    async def check(self) -> list[str]:
        """Log in, and ask for executions of a job that need not be there."""
        await self.session.get()
        try:
            await self.executions("product-live-worker-check", count=1)
        except Refused as refused:
            if refused.status in (401, 403):
                raise
        return [f"Commerce Cloud accepts the client {self.client_id} at {self.url}"]

    async def executions(self, job: str, *, start: int = 0, count: int = MOST) -> Executions:
        """List or search the executions of a job, the latest first where the version can sort."""
        if self.searches:
            return await self.search(job, start=start, count=count)
        return await self.list(job, start=start, count=count)

    async def list(self, job: str, *, start: int | None = None, count: int | None = None) -> Executions:
        """Read job executions, of 17.2 and 17.3: GET /jobs/{job_id}/executions."""
        answer = await self._send("GET", f"/jobs/{segment(job)}/executions", {"start": start, "count": count})
        return _executions(answer, "data")

    async def search(
        self, job: str | None = None, *, status: str | None = None, start: int | None = None, count: int | None = None
    ) -> Executions:
        """Search job executions, since 17.4: POST /job_execution_search, the latest first."""
        terms = [
            {"term_query": {"fields": [name], "operator": "is", "values": [value]}}
            for name, value in (("job_id", job), ("status", status))
            if value is not None
        ]
        query: dict[str, Any] = {"match_all_query": {}}
        if terms:
            query = terms[0] if len(terms) == 1 else {"bool_query": {"must": terms}}
        body = {
            "query": query,
            "sorts": [{"field": "start_time", "sort_order": "desc"}],
            "start": start,
            "count": count,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return _executions(await self._send("POST", "/job_execution_search", body=given), "hits")

    async def create(self, job: str, body: Mapping[str, Any] | None = None) -> JobExecution:
        """Execute a job: POST /jobs/{job_id}/executions."""
        answer = await self._send("POST", f"/jobs/{segment(job)}/executions", body=body, fresh=True)
        return _execution(answer.body)

    async def read(self, job: str, execution: str) -> JobExecution:
        """Read an execution: GET /jobs/{job_id}/executions/{id}."""
        answer = await self._send("GET", f"/jobs/{segment(job)}/executions/{segment(execution)}")
        return _execution(answer.body)

    async def delete(self, job: str, execution: str) -> None:
        """Delete the record of an execution that has ended: DELETE /jobs/{job_id}/executions/{id}."""
        await self._send("DELETE", f"/jobs/{segment(job)}/executions/{segment(execution)}")

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        *,
        fresh: bool = False,
    ) -> Answer:
        async def send(token: str) -> Answer:
            headers = {
                "Authorization": f"Bearer {token}",
                "x-dw-client-id": self.client_id,
                "Content-Type": "application/json; charset=UTF-8",
            }
            url = f"{self.url}{path}"
            return await self._wire.send(method, url, headers=headers, params=query, content=body, fresh=fresh)

        return await signed(self.session, send, lambda refused: refused.status == 401 or refused.code == STALE_TOKEN)


def _execution(said: Any) -> JobExecution:
    if not isinstance(said, dict) or not isinstance(said.get("id"), str | int) or said["id"] == "":
        raise NoAnswer(f"{SYSTEM} answered with what is no execution")
    return read_as(JobExecution, {**said, "id": str(said["id"])}, SYSTEM)


def _executions(answer: Answer, name: str) -> Executions:
    body = answer.body if isinstance(answer.body, dict) else {}
    found = body.get(name) or []
    if not isinstance(found, list) or not isinstance(body.get("total", 0), int):
        raise NoAnswer(f"{SYSTEM} answered with what is no list of executions")
    executions = [_execution(one) for one in found]
    return Executions(total=body.get("total", len(found)), found=executions, date=answer.date)

"""`salesforce.job`: runs a Commerce Cloud job and waits for its end."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from product_live_handlers.remote_http import Id, Refused, RemoteError, moment
from product_live_handlers.remote_job import (
    Clock,
    JobInput,
    Json,
    Look,
    Machine,
    Occupied,
    Outcome,
    RemoteResult,
    Seen,
    WaitPolicy,
    connector,
)
from product_live_handlers.salesforce.client import (
    MOST,
    NOT_FOUND,
    RUNNING,
    ExitStatus,
    JobExecution,
    OcapiClient,
    StepExecution,
)
from product_live_handlers.salesforce.connection import SalesforceConnection, open_salesforce
from product_live_worker import Context, TaskFailed, resource

SKEW = 2.0
"""Seconds by which a start may be before the server's own time."""
MOST_PAGES = 25
GRACE = 30.0
"""Seconds in which an execution must be found that was started."""
LIVE = frozenset({"pending", "running", "pausing", "paused", "resuming", "resumed"}) | {
    *("restarting", "restarted", "retrying", "retried", "aborting")
}
PHASES = LIVE | {"finished", "aborted", "unknown"}

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class SalesforceJobInput(JobInput):
    """Which job, and how."""

    job_id: Id
    parameters: dict[Annotated[str, StringConstraints(min_length=1, max_length=256)], Text] = Field(
        default_factory=dict
    )
    body: dict[str, JsonValue] | None = None
    """The document of a system job (sfcc-…), instead of parameters."""
    if_already_running: Literal["fail", "attach", "wait_then_start"] = "fail"
    max_resends: int = Field(default=1, ge=0, le=5)
    delete_record_after: bool = False
    paused_fail_after_s: float = Field(default=3600, gt=0)

    @model_validator(mode="after")
    def _one_document(self) -> SalesforceJobInput:
        if self.parameters and self.body is not None:
            raise ValueError("parameters and body exclude each other")
        return self


WAIT = WaitPolicy(timeout_s=7200, poll_initial_s=5, poll_max_s=30, on_cancel="leave_running")


class SalesforceJobOutput(RemoteResult):
    """The execution; `remote_id` is its id."""

    job_id: str = ""
    execution_id: str = ""
    exit_code: str | None = None
    exit_status: Literal["ok", "error"] | None = None
    duration_ms: int | None = None
    execution_scopes: list[str] = Field(default_factory=list)
    log_file: str | None = None
    failed_steps: list[StepExecution] = Field(default_factory=list)


@connector("salesforce.job", timeout=7500)
async def salesforce_job(
    input: SalesforceJobInput,
    context: Context,
    client: Annotated[OcapiClient, resource(open_salesforce, connection=SalesforceConnection)],
) -> SalesforceJobOutput:
    """Run a Commerce Cloud job by OCAPI and wait until it has ended."""
    if (input.parameters or input.body) and not client.takes_parameters:
        text = "the connection's ocapi_version takes no parameters; it has to be v17_4 or later"
        raise TaskFailed(text, code="invalid_input")
    clock = client.new_clock()
    wait = input.wait or context.settings.wait or WAIT
    result = await Machine(SalesforceJob(input, client, clock), context, wait, clock=clock).run()
    if input.delete_record_after:
        try:
            await client.delete(input.job_id, result.execution_id)
        except RemoteError as error:
            context.log.warning("the record of the execution was not deleted", error=str(error))
    return result


class SalesforceJob:
    """See Job. One execution of a job runs at a time; whose a lost one is, client and time tell."""

    system = "Commerce Cloud"
    output = SalesforceJobOutput
    grace = GRACE
    failing = frozenset(Outcome) - {Outcome.SUCCEEDED, Outcome.WARNING}

    def __init__(self, input: SalesforceJobInput, client: OcapiClient, clock: Clock) -> None:
        self.if_already_running: str = input.if_already_running
        self.max_resends = input.max_resends
        self.lease = f"salesforce {client.url} {input.job_id}"
        self._input = input
        self._client = client
        self._clock = clock
        self._paused_since: float | None = None

    async def baseline(self) -> Json:
        """See Job."""
        page = await self._client.executions(self._input.job_id, count=MOST)
        ours = [one.id for one in page.found if one.client_id == self._client.client_id]
        return {"date": page.date or self._clock.now(), "dated": bool(page.date), "known": ours}

    async def start(self, baseline: Json) -> Json | None:
        """See Job."""
        body: dict[str, Any] | None = None
        if self._input.parameters:
            given = self._input.parameters.items()
            body = {"parameters": [{"name": name, "value": value} for name, value in given]}
        try:
            execution = await self._client.create(self._input.job_id, self._input.body or body)
        except Refused as refused:
            # By its type: the number is 400 in the documents, and 409 in their samples.
            if refused.code == RUNNING:
                raise Occupied(f"{self._input.job_id} runs already") from None
            raise
        return {"id": execution.id}

    async def look(self, baseline: Json) -> Look:
        """See Job."""
        known, client = baseline["known"], self._client.client_id
        new = {one.id: _began(one) for one in await self._all() if one.client_id == client and one.id not in known}
        ours = [id for id, at in new.items() if at is not None and at.timestamp() >= baseline["date"] - SKEW]
        undated = None in new.values()
        if len(ours) > 1 or (ours and undated):
            return Look(several=True)
        # By our own clock alone, what began since then cannot be told for sure.
        conclusive = baseline.get("dated", True) and not undated
        return Look(remote={"id": ours[0]} if ours else None, conclusive=conclusive)

    async def running(self) -> Json | None:
        """See Job."""
        live = [one for one in await self._all() if phase_of(one) in LIVE]
        return {"id": max(live, key=lambda one: one.start_time or one.creation_date or "").id} if live else None

    async def status(self, remote: Json) -> Seen:
        """See Job."""
        try:
            execution = await self._client.read(self._input.job_id, remote["id"])
        except Refused as refused:
            if refused.code != NOT_FOUND:
                raise
            text = "Its record is gone; how it ended cannot be known."
            return Seen(raw="purged", outcome=Outcome.UNKNOWN, fields={"error_message": text})
        phase = phase_of(execution)
        now = self._clock.now()
        self._paused_since = (self._paused_since or now) if phase == "paused" else None
        if self._paused_since is not None and now - self._paused_since >= self._input.paused_fail_after_s:
            return Seen(raw=execution.status or phase, outcome=Outcome.UNKNOWN, fields=fields_of(execution))
        outcome = outcome_of(execution)
        return Seen(
            raw=execution.status or phase,
            outcome=outcome,
            fields=fields_of(execution),
            strange=phase not in PHASES or (phase == "finished" and outcome is None),
        )

    async def cancel(self, remote: Json) -> bool:
        """See Job: OCAPI cannot end an execution."""
        return False

    async def pause(self, seconds: float) -> None:
        """See Job."""
        await self._clock.sleep(seconds)

    def name(self, remote: Json) -> str:
        """See Job."""
        return str(remote["id"])

    async def _all(self) -> list[JobExecution]:
        """Give all executions where they come in no order; where the latest come first, the two ends are enough."""
        page = await self._client.executions(self._input.job_id, start=0, count=MOST)
        found = page.found
        if self._client.searches:
            if page.total > len(found):
                # What is pending has no start to be sorted by. Half a page is left for what is started meanwhile.
                start = max(len(found), page.total - MOST // 2)
                found = found + (await self._client.executions(self._input.job_id, start=start, count=MOST)).found
            return found
        for _ in range(1, MOST_PAGES):
            if not page.found or len(found) >= page.total:
                break
            page = await self._client.executions(self._input.job_id, start=len(found), count=MOST)
            found = found + page.found
        return found


def _began(execution: JobExecution) -> datetime | None:
    """Give when an execution began or, while it is pending, was created."""
    return moment(execution.start_time) or moment(execution.creation_date)


def phase_of(execution: JobExecution) -> str:
    """Give where an execution stands; versions disagree on which field says so."""
    if execution.execution_status:
        return execution.execution_status.lower()
    word = (execution.status or "").lower()
    if word in PHASES:
        return word
    return "finished" if execution.exit_status is not None or execution.end_time else word or "unknown"


def outcome_of(execution: JobExecution) -> Outcome | None:
    """Give how an execution ended; None while it lives, or says nothing that is known."""
    phase = phase_of(execution)
    if phase == "aborted":
        return Outcome.CANCELLED
    if phase != "finished":
        return None
    exit_ = execution.exit_status.status if execution.exit_status is not None else None
    word = (exit_ or execution.status or "").lower()
    return {"ok": Outcome.SUCCEEDED, "error": Outcome.FAILED}.get(word, Outcome.UNKNOWN)


def fields_of(execution: JobExecution) -> dict[str, Any]:
    """Give what an output says of an execution."""
    exit_ = execution.exit_status
    failed = [s for s in execution.step_executions if s.exit_status is not None and s.exit_status.status == "error"]
    said = [s.exit_status.message or s.exit_status.code for s in failed if s.exit_status is not None]
    bad = exit_ is not None and exit_.status == "error"
    text = next((one for one in reversed(said) if one), None) or (exit_ and (exit_.message or exit_.code))
    return {
        "job_id": execution.job_id or "",
        "execution_id": execution.id,
        "exit_code": exit_.code if exit_ else None,
        "exit_status": exit_.status if exit_ and exit_.status in ("ok", "error") else None,
        "duration_ms": execution.duration,
        "execution_scopes": execution.execution_scopes,
        "log_file": execution.log_file_path or execution.log_file_name,
        "failed_steps": [_short(step) for step in failed],
        "started_at": moment(execution.start_time),
        "finished_at": moment(execution.end_time),
        "error_code": exit_.code if bad and exit_ else None,
        "error_message": text if bad else None,
    }


def _short(step: StepExecution) -> dict[str, Any]:
    known = step.model_dump(include=set(StepExecution.model_fields), exclude_none=True)
    exit_ = step.exit_status
    return {**known, "exit_status": exit_ and exit_.model_dump(include=set(ExitStatus.model_fields), exclude_none=True)}

"""`informatica.code_task` starts a code task and waits for its job; `informatica.code_task_status` asks for one."""

from __future__ import annotations

import re
from typing import Annotated, Any

from product_live_handlers.informatica.client import InformaticaClient
from product_live_handlers.informatica.connection import InformaticaConnection, open_informatica
from product_live_handlers.informatica.models import CodeTaskStatus
from product_live_handlers.remote_http import Id, Refused, moment
from product_live_handlers.remote_job import (
    Clock,
    ConnectorSettings,
    Given,
    JobInput,
    Json,
    Look,
    Machine,
    Outcome,
    RemoteResult,
    Seen,
    WaitPolicy,
    ask,
    bounded,
    connector,
)
from product_live_worker import Context, handler, resource

UNKNOWN_YET = 60.0
"""Seconds after its start in which a job may not be known yet."""
LIVE = frozenset({"STARTING", "QUEUED", "RUNNING"})
ENDS = {
    "SUCCESS": Outcome.SUCCEEDED,
    "SUCCEEDED": Outcome.SUCCEEDED,
    "COMPLETED": Outcome.SUCCEEDED,
    "FAILED": Outcome.FAILED,
    "CANCELLED": Outcome.CANCELLED,
    "CANCELED": Outcome.CANCELLED,
    "STOPPED": Outcome.CANCELLED,
}


class InformaticaCodeTaskInput(JobInput):
    """Which code task, and how."""

    code_task_id: str | int
    """Sent as it is given: the document says text, its sample has a number."""
    resend_on_ambiguous: bool = False
    """Whether a start whose answer was lost is sent again, though it may run twice then."""


WAIT = WaitPolicy(timeout_s=14400, poll_initial_s=15, poll_max_s=60)


class InformaticaCodeTaskOutput(RemoteResult):
    """The job; `remote_id` is its id."""

    job_id: str = ""
    instance_name: str | None = None
    run_id: int | None = None
    session_log_url: str | None = None
    status: dict[str, Any] | None = None
    """All that Informatica says of it."""


@connector("informatica.code_task", timeout=14700)
async def informatica_code_task(
    input: InformaticaCodeTaskInput,
    context: Context,
    client: Annotated[InformaticaClient, resource(open_informatica, connection=InformaticaConnection)],
) -> InformaticaCodeTaskOutput:
    """Start an Informatica code task and wait until its job has ended."""
    clock = client.new_clock()
    wait = input.wait or context.settings.wait or WAIT
    return await Machine(InformaticaCodeTask(input, client, clock), context, wait, clock=clock).run()


class InformaticaCodeTask:
    """See Job. Nothing lists jobs: a start whose answer is lost cannot be looked for."""

    system = "Informatica"
    output = InformaticaCodeTaskOutput
    lease = ""
    if_already_running = "queue"
    grace = 0.0
    failing = frozenset(Outcome) - {Outcome.SUCCEEDED}

    def __init__(self, input: InformaticaCodeTaskInput, client: InformaticaClient, clock: Clock) -> None:
        self.max_resends = 1 if input.resend_on_ambiguous else 0
        self._input = input
        self._client = client
        self._clock = clock
        self._asked_at: float | None = None
        self._ended_once = False

    async def baseline(self) -> Json:
        """See Job."""
        return {}

    async def start(self, baseline: Json) -> Json | None:
        """See Job."""
        started = await self._client.start_code_task(self._input.code_task_id)
        return {"job_id": started.job_id}

    async def look(self, baseline: Json) -> Look:
        """See Job."""
        return Look()

    async def running(self) -> Json | None:
        """See Job."""
        return None

    async def status(self, remote: Json) -> Seen:
        """See Job."""
        now = self._clock.now()
        self._asked_at = self._asked_at or now
        try:
            status = await self._client.code_task_status(remote["job_id"])
        except Refused as refused:
            if refused.status != 404:
                raise
            if now - self._asked_at < UNKNOWN_YET:
                return Seen(raw="not known yet")
            return Seen(raw="not known", outcome=Outcome.UNKNOWN, fields={"job_id": remote["job_id"]})
        word = word_of(status)
        outcome = ENDS.get(word)
        if outcome is not None and not status.end_time and not self._ended_once:
            # Ended, and without an end: it is asked for once more.
            self._ended_once, outcome = True, None
        strange = word not in LIVE and word not in ENDS
        return Seen(raw=word or "none", outcome=outcome, fields=fields_of(remote["job_id"], status), strange=strange)

    async def cancel(self, remote: Json) -> bool:
        """See Job."""
        if self._client.cancel_path is None:
            return False
        await self._client.cancel_code_task(remote["job_id"])
        return True

    async def pause(self, seconds: float) -> None:
        """See Job."""
        await self._clock.sleep(seconds)

    def name(self, remote: Json) -> str:
        """See Job."""
        return str(remote["job_id"])


class InformaticaCodeTaskStatusInput(Given):
    """Which job."""

    job_id: Id


@handler(
    "informatica.code_task_status",
    concurrency=20,
    timeout=300,
    explicit=True,
    on_crash="rerun",
    settings=ConnectorSettings,
)
async def informatica_code_task_status(
    input: InformaticaCodeTaskStatusInput,
    context: Context,
    client: Annotated[InformaticaClient, resource(open_informatica, connection=InformaticaConnection)],
) -> InformaticaCodeTaskOutput:
    """Ask how a code task's job stands; `outcome` is `unknown` while it runs."""
    status = await ask(lambda: client.code_task_status(input.job_id), clock=client.new_clock(), context=context)
    outcome = ENDS.get(word_of(status), Outcome.UNKNOWN)
    fields = fields_of(input.job_id, status)
    found = InformaticaCodeTaskOutput(
        **{**fields, "outcome": outcome, "remote_id": input.job_id, "raw_status": word_of(status)}
    )
    return InformaticaCodeTaskOutput.model_validate(bounded(found.model_dump(mode="json")))


def word_of(status: CodeTaskStatus) -> str:
    """Give the state: the samples call it otherwise than the table."""
    return (status.status or status.execution_state or "").strip().upper()


def fields_of(job_id: str, status: CodeTaskStatus) -> dict[str, Any]:
    """Give what an output says of a job."""
    said = status.error_message or status.first_error_message
    whole = status.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(CodeTaskStatus.model_fields))
    log = status.session_log_url
    return {
        "job_id": job_id,
        "instance_name": status.instance_name,
        "run_id": status.run_id,
        "session_log_url": re.sub(r"(?<!:)/{2,}", "/", log) if log else None,
        "status": whole,
        "started_at": moment(status.start_time),
        "finished_at": moment(status.end_time),
        "error_message": said or None,
    }

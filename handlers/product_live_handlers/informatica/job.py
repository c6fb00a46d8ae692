"""`informatica.job` runs a task (or a linear taskflow) and waits for it; `informatica.job_stop` stops one."""

from __future__ import annotations

import io
import json
import lzma
import zipfile
import zlib
from typing import Annotated, Any, Literal

import anyio
from pydantic import BaseModel, Field, JsonValue, model_validator

from product_live_handlers.bounds import clipped
from product_live_handlers.informatica.client import InformaticaClient
from product_live_handlers.informatica.connection import InformaticaConnection, open_informatica
from product_live_handlers.informatica.models import LogEntry, MonitorEntry, Row
from product_live_handlers.remote_http import NoAnswer, RemoteError, moment
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
    connector,
)
from product_live_worker import Callback, Context, TaskFailed, handler, resource

SKEW = 2.0
GRACE = 30.0
"""Seconds in which a run must be found that was started."""
LOST = 600.0
"""Seconds in neither list after which a run is given up."""
MONITORED = 4
"""Every so many empty looks, the monitor is asked too."""
SAFETY = 300.0
"""Seconds between two looks while a callback is awaited, which may be lost."""
CONFIRMING = 5.0
"""Seconds between two looks once it has come."""
ROWS = 200
UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)
"""What zipfile raises for an archive that is broken, encrypted, or packed in a way that it does not know."""
NO_ERROR = "No errors encountered."
ELSEWHERE = ("ICS_UI", "SCHEDULE")
"""How a run context begins that is not the API. The documents give no list: a word that is neither proves nothing."""
ENDS = {1: Outcome.SUCCEEDED, 2: Outcome.WARNING, 3: Outcome.FAILED}

TaskType = Literal["DMASK", "DRS", "DSS", "MTT", "PCS", "WORKFLOW"]


class _Task(Given):
    task_id: str | None = None
    """Eight characters; finds only tasks in the folder Default."""
    task_federated_id: str | None = None
    task_name: str | None = None
    task_type: TaskType

    @model_validator(mode="after")
    def _one(self) -> _Task:
        if len(self.named()) != 1:
            raise ValueError("give exactly one of task_id, task_federated_id and task_name")
        return self

    def named(self) -> dict[str, str]:
        """Give the task as the API names it."""
        names = {"taskId": self.task_id, "taskFederatedId": self.task_federated_id, "taskName": self.task_name}
        return {name: value for name, value in names.items() if value is not None}

    def body(self) -> dict[str, Any]:
        """Give what a start and a stop say of it."""
        return {**self.named(), "taskType": self.task_type}


class InformaticaJobInput(_Task, JobInput):
    """Which task, and how."""

    runtime: dict[str, JsonValue] | None = None
    """mtTaskRuntime: parameterFileName, parameterFileDir, … (the folder is on the Secure Agent)."""
    completion: Literal["poll", "callback"] = "poll"
    warning_is_failure: bool = False
    clean_stop: bool = True
    stop_even_if_shared: bool = False
    resend_on_ambiguous: bool = False
    fetch_session_log: bool = False
    session_log_max_bytes: int = Field(default=65536, ge=1, le=500_000)


WAIT = WaitPolicy(timeout_s=14400, poll_initial_s=15, poll_max_s=60)
WAIT_CALLED = WaitPolicy(timeout_s=14400, poll_initial_s=SAFETY, poll_max_s=SAFETY)


class InformaticaJobOutput(RemoteResult):
    """The run; `remote_id` is <task id>:<run id>."""

    task_id: str | None = None
    task_federated_id: str | None = None
    task_name: str | None = None
    task_type: str = ""
    run_id: int = 0
    log_entry_id: str | None = None
    success_source_rows: int = 0
    failed_source_rows: int = 0
    success_target_rows: int = 0
    failed_target_rows: int = 0
    completed_via: Literal["poll", "callback"] = "poll"
    session_log_excerpt: str | None = None


@connector("informatica.job", timeout=14700)
async def informatica_job(
    input: InformaticaJobInput,
    context: Context,
    client: Annotated[InformaticaClient, resource(open_informatica, connection=InformaticaConnection)],
) -> InformaticaJobOutput:
    """Run an Informatica task and wait until its run has ended."""
    clock = client.new_clock()
    wait = input.wait or context.settings.wait or (WAIT if input.completion == "poll" else WAIT_CALLED)
    result = await Machine(InformaticaJob(input, context, client, clock), context, wait, clock=clock).run()
    if input.fetch_session_log and result.log_entry_id:
        try:
            log = _text(await client.session_log(result.log_entry_id))
            result.session_log_excerpt = clipped(log, input.session_log_max_bytes)
            result.truncated = result.truncated or result.session_log_excerpt != log
        except RemoteError as error:
            context.log.warning("the session log was not fetched", error=str(error))
    return result


class InformaticaJob:
    """See Job. A run's number is unique within its task; a stop is of the task."""

    system = "Informatica"
    output = InformaticaJobOutput
    if_already_running = "queue"
    grace = GRACE

    def __init__(self, input: InformaticaJobInput, context: Context, client: InformaticaClient, clock: Clock) -> None:
        self.max_resends = 1 if input.resend_on_ambiguous else 0
        self.lease = f"informatica {client.account} {next(iter(input.named().values()))}"
        good = {Outcome.SUCCEEDED} | (set() if input.warning_is_failure else {Outcome.WARNING})
        self.failing = frozenset(Outcome) - good
        self._input = input
        self._context = context
        self._client = client
        self._clock = clock
        self._empty = 0
        self._alive_at: float | None = None
        self._state = "RUNNING"
        self._callback: Callback | None = None
        self._heard = 0
        self._called = False
        self._run: int | None = None

    async def baseline(self) -> Json:
        """See Job."""
        await self._listen()
        name = self._input.task_name
        if self._input.task_federated_id:
            name = await self._client.lookup(self._input.task_federated_id) or None
        this = {"task_id": self._input.task_id, "name": name}
        live, date = await self._client.activity_monitor()
        ended = await self._client.activity_log(self._input.task_id, limit=ROWS)
        known = sorted(_runs(this, live, ended))
        return {**this, "known": known, "date": date or self._clock.now(), "dated": bool(date)}

    async def _listen(self) -> None:
        if self._input.completion == "callback" and self._callback is None:
            try:
                self._callback = await self._context.callback()
            except RuntimeError as error:
                raise TaskFailed(str(error), code="callbacks_unavailable") from None

    async def start(self, baseline: Json) -> Json | None:
        """See Job."""
        await self._listen()
        body = self._input.body()
        if self._callback is not None:
            body["callbackURL"] = self._callback.url
        if self._input.runtime is not None:
            body["runtime"] = {"@type": "mtTaskRuntime", **self._input.runtime}
        started = await self._client.start_job(body)
        return {
            "task_id": started.task_id or self._input.task_id,
            "federated_id": started.task_federated_id or self._input.task_federated_id,
            "name": started.task_name or baseline["name"],
            "run_id": started.run_id,
        }

    async def look(self, baseline: Json) -> Look:
        """See Job."""
        # The live ones first: one that ends meanwhile is then in both lists, never in none.
        live, _ = await self._client.activity_monitor()
        ended = await self._client.activity_log(baseline["task_id"], limit=ROWS)
        found = _runs(baseline, live, ended)
        new = {run for run, at in found.items() if run not in baseline["known"] and _since(at, baseline["date"])}
        user = self._client.username
        said = {run: {_is_of(one, user) for one in _rows_of(run, baseline, live, ended)} for run in new}
        ours = [run for run in new if True in said[run] and False not in said[run]]
        rows: list[Row] = [*live, *ended]
        unread = any(
            _may_be(one, baseline) and _since(one.start_time_utc, baseline["date"]) and _is_of(one, user) is not False
            for one in rows
        )
        unsure = unread or any(said[run] == {None} for run in new)
        if len(ours) > 1 or (ours and unsure):
            return Look(several=True)
        if not ours:
            # By our own clock alone, what began since then cannot be told for sure.
            return Look(conclusive=baseline.get("dated", True) and not unsure)
        (run,) = ours
        ids = [one.of[0] for one in _rows_of(run, baseline, live, ended)]
        task_id = baseline["task_id"] or next((one for one in ids if one), None)
        remote = {"task_id": task_id, "federated_id": self._input.task_federated_id, "name": baseline["name"]}
        return Look(remote={**remote, "run_id": run, "found": True})

    async def running(self) -> Json | None:
        """See Job."""
        return None

    async def status(self, remote: Json) -> Seen:
        """See Job."""
        self._run = remote["run_id"]
        await self._listen()
        rows = await self._client.activity_log(
            remote["task_id"], remote["run_id"] if remote["task_id"] else None, limit=ROWS
        )
        entry = next((row for row in rows if row.run_id == remote["run_id"] and _fits(row, remote)), None)
        now = self._clock.now()
        self._alive_at = self._alive_at or now
        if entry is not None and remote.get("found") and _is_of(entry, self._client.username) is False:
            # The monitor did not say who had started it.
            who = entry.started_by or entry.run_context
            text = f"It was started by {who}, not by us; what became of our own start cannot be known. Look there."
            fields = {**self._fields(remote, entry), "error_message": text}
            return Seen(raw="run of another", outcome=Outcome.UNKNOWN, fields=fields)
        if entry is not None and (outcome := outcome_of(entry)) is not None:
            return Seen(raw=f"state {entry.state}", outcome=outcome, fields=self._fields(remote, entry))
        self._empty += 1
        if self._empty % MONITORED == 1 or self._called:
            live, _ = await self._client.activity_monitor()
            mine = next((one for one in live if one.run_id == remote["run_id"] and _lives(one, remote)), None)
            if mine is not None:
                self._alive_at, self._state = now, mine.execution_state or self._state
        if now - self._alive_at >= LOST:
            return Seen(raw="in no list", outcome=Outcome.UNKNOWN, fields=self._fields(remote, None))
        return Seen(raw=self._state, fields=self._fields(remote, None))

    async def cancel(self, remote: Json) -> bool:
        """See Job: a stop ends whatever runs of the task, so it must be ours alone."""
        if not self._input.stop_even_if_shared:
            live, _ = await self._client.activity_monitor()
            runs = [one.run_id for one in live if _lives(one, remote) or _may_be(one, remote)]
            if runs != [remote["run_id"]]:
                if runs:
                    text = "not stopped: a stop would end other runs of the task too"
                    self._context.log.warning(text, live=len(runs))
                return False
        await self._client.stop_job(self._input.body(), clean=self._input.clean_stop)
        return True

    async def pause(self, seconds: float) -> None:
        """See Job: until a callback says that there is something to ask for."""
        callback = self._callback
        if callback is None:
            await self._clock.sleep(seconds)
            return
        async with anyio.create_task_group() as first:

            async def sleep() -> None:
                await self._clock.sleep(min(seconds, CONFIRMING) if self._called else seconds)
                first.cancel_scope.cancel()

            async def hear() -> None:
                while not self._called:
                    for one in await callback.received(after=self._heard, timeout=seconds):
                        self._heard = one["number"]
                        self._called = self._called or self._is_about_us(one["body"])
                first.cancel_scope.cancel()

            if not self._called:
                first.start_soon(hear)
            first.start_soon(sleep)

    def _is_about_us(self, body: str) -> bool:
        """Whether a callback may be of our run; only a read says what became of it."""
        try:
            said = json.loads(body)
            run = int(said["runId"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            # Anybody may have sent it: infinite numbers and lists without a bottom as well.
            return True
        return run == self._run

    def name(self, remote: Json) -> str:
        """See Job."""
        return f"{remote['task_id'] or remote['name'] or ''}:{remote['run_id']}"

    def _fields(self, remote: Json, entry: LogEntry | None) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "task_id": remote["task_id"],
            "task_federated_id": remote["federated_id"],
            "task_name": remote["name"],
            "task_type": self._input.task_type,
            "run_id": remote["run_id"],
            "completed_via": "callback" if self._called else "poll",
        }
        if entry is None:
            return fields
        names = ("success_source_rows", "failed_source_rows", "success_target_rows", "failed_target_rows")
        said = entry.error_msg if entry.error_msg != NO_ERROR else None
        return fields | {
            **{name: getattr(entry, name) or 0 for name in names},
            "log_entry_id": entry.id,
            "started_at": moment(entry.start_time_utc),
            "finished_at": moment(entry.end_time_utc),
            "error_message": said or None,
        }


class InformaticaJobStopInput(_Task):
    """Which task to stop."""

    clean_stop: bool = True
    run_id: int | None = None
    """Stop only if this is its one live run."""
    stop_even_if_shared: bool = False


class InformaticaJobStopOutput(BaseModel):
    """What was asked for."""

    stopping: bool
    live_runs: list[int] = Field(default_factory=list)


@handler(
    "informatica.job_stop", concurrency=20, timeout=300, explicit=True, on_crash="rerun", settings=ConnectorSettings
)
async def informatica_job_stop(
    input: InformaticaJobStopInput,
    context: Context,
    client: Annotated[InformaticaClient, resource(open_informatica, connection=InformaticaConnection)],
) -> InformaticaJobStopOutput:
    """Stop what runs of an Informatica task, cleanly unless told otherwise; nothing is waited for."""

    async def once() -> InformaticaJobStopOutput:
        name = input.task_name
        if input.task_federated_id:
            name = await client.lookup(input.task_federated_id) or None
        this = {"task_id": input.task_id, "name": name}
        live, _ = await client.activity_monitor()
        runs = [one.run_id for one in live if _lives(one, this) and one.run_id is not None]
        unread = any(_may_be(one, this) for one in live)
        alone = not unread and (not runs or (len(runs) == 1 and input.run_id in (None, runs[0])))
        if not alone and not input.stop_even_if_shared:
            text = f"A stop ends all live runs of the task, and these are {runs[:10]}; set stop_even_if_shared to do so"
            raise TaskFailed(text, code="not_alone", output={"live_runs": runs[:100]})
        if runs:
            await client.stop_job(input.body(), clean=input.clean_stop)
        return InformaticaJobStopOutput(stopping=bool(runs), live_runs=runs[:100])

    return await ask(once, clock=client.new_clock(), context=context)


def _lives(entry: MonitorEntry, this: Json) -> bool:
    if this["task_id"] and entry.task_id:
        return bool(entry.task_id == this["task_id"])
    return this["name"] is not None and entry.task_name == this["name"]


def _fits(entry: LogEntry, this: Json) -> bool:
    if this["task_id"] and entry.object_id:
        return bool(entry.object_id == this["task_id"])
    return this["name"] is None or entry.object_name in (this["name"], None)


def _may_be(row: Row, this: Json) -> bool:
    """Whether a row that does not say which run it is could be of this task."""
    pairs = zip(row.of, (this["task_id"], this["name"]), strict=True)
    return row.run_id is None and all(not there or not ours or there == ours for there, ours in pairs)


def _runs(this: Json, live: list[MonitorEntry], ended: list[LogEntry]) -> dict[int, str | None]:
    """Give the task's runs, and when they began, where that is said in UTC."""
    found = {one.run_id: one.start_time_utc for one in live if _lives(one, this)}
    found |= {one.run_id: one.start_time_utc for one in ended if _fits(one, this) and (this["task_id"] or this["name"])}
    return {run: at for run, at in found.items() if run is not None}


def _rows_of(run: int, this: Json, live: list[MonitorEntry], ended: list[LogEntry]) -> list[Row]:
    """Give what both lists say of a run. Its number is its task's own: others have a run of the same number."""
    rows: list[Row] = [one for one in live if one.run_id == run and _lives(one, this)]
    return rows + [one for one in ended if one.run_id == run and _fits(one, this)]


def _is_of(row: Row, user: str) -> bool | None:
    """Whether a run was started by this user over the API, as far as its row says so; None where it says neither."""
    context = (row.run_context or "").upper()
    by = row.started_by.casefold() == user.casefold() if row.started_by else None
    how = True if "API" in context else False if context.startswith(ELSEWHERE) else None
    return None if by is None and how is None else False not in (by, how)


def _since(at: str | None, date: float) -> bool:
    began = moment(at)
    return began is None or began.timestamp() >= date - SKEW


def outcome_of(entry: LogEntry) -> Outcome | None:
    """Give how a run ended; None while its row says nothing that is known."""
    if entry.is_stopped:
        return Outcome.CANCELLED
    return ENDS.get(entry.state) if entry.state is not None else None


def _text(log: bytes) -> str:
    """Give a log, of an archive the first file; raises NoAnswer for an archive that cannot be read."""
    if zipfile.is_zipfile(io.BytesIO(log)):
        try:
            with zipfile.ZipFile(io.BytesIO(log)) as archive:
                first = next((name for name in archive.namelist() if not name.endswith("/")), None)
                with archive.open(first) if first else io.BytesIO() as member:
                    log = member.read(1_000_000)
        except UNREADABLE as error:
            raise NoAnswer(f"Informatica answered with an archive that cannot be read: {error}") from None
    return log.decode("utf-8", "replace")

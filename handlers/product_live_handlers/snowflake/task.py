"""`snowflake.task`: executes a task and waits for the run that comes of it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from product_live_handlers.remote_http import NoAnswer, Refused, moment, read_as
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
from product_live_handlers.snowflake.client import SYSTEM, Place, SnowflakeClient
from product_live_handlers.snowflake.connection import SnowflakeConnection, open_snowflake
from product_live_handlers.snowflake.models import Identifier, TaskRun, quoted
from product_live_worker import Context, TaskFailed, resource

SKEW = 2.0
"""Seconds by which the ids of runs, which are times, may be before the server's own time."""
GRAPHS = 1000
"""Runs that are listed, the latest first."""
MEMORY = 55 * 60.0
"""Seconds that may pass between two looks; Snowflake lists ended runs for an hour."""
HISTORY = "INFORMATION_SCHEMA.TASK_HISTORY(ROOT_TASK_ID => ?, RESULT_LIMIT => 10000)"
"""What Snowflake remembers for seven days: a row for each task of a graph, and each attempt."""
ISO = 'YYYY-MM-DD"T"HH24:MI:SS.FF3TZH:TZM'
ENDS = {
    "SUCCEEDED": Outcome.SUCCEEDED,
    "FAILED": Outcome.FAILED,
    "FAILED_AND_AUTO_SUSPENDED": Outcome.FAILED,
    "CANCELLED": Outcome.CANCELLED,
    "CANCELED": Outcome.CANCELLED,
    "SKIPPED": Outcome.SKIPPED,
}
LIVE = frozenset({"SCHEDULED", "EXECUTING"})
GRAPH = (
    "EXECUTING",
    "SCHEDULED",
    "FAILED",
    "FAILED_AND_AUTO_SUSPENDED",
    "CANCELLED",
    "CANCELED",
    "SUCCEEDED",
    "SKIPPED",
)
"""The states of tasks, the one first that makes the state of their graph."""


class SnowflakeTaskInput(JobInput):
    """Which task, and how."""

    database: Identifier
    schema_: Identifier = Field(alias="schema")
    task: Identifier
    retry_last: bool = False
    async_exec: bool = False
    if_already_running: Literal["queue", "attach", "fail"] = "queue"
    start_grace_s: float = Field(default=90, gt=0)
    vanish_grace_s: float = Field(default=120, gt=0)
    role: str | None = None
    warehouse: str | None = None


WAIT = WaitPolicy(timeout_s=14400, poll_initial_s=3, poll_max_s=60)


class SnowflakeTaskOutput(RemoteResult):
    """The run; `remote_id` is its run_id."""

    database: str = ""
    schema_: str = Field(default="", alias="schema")
    task: str = ""
    run: TaskRun | None = None
    request_ids: list[str] = Field(default_factory=list)


@connector("snowflake.task", timeout=14700)
async def snowflake_task(
    input: SnowflakeTaskInput,
    context: Context,
    client: Annotated[SnowflakeClient, resource(open_snowflake, connection=SnowflakeConnection)],
) -> SnowflakeTaskOutput:
    """Execute a Snowflake task and wait until its run, with the graph below it, has ended."""
    clock = client.new_clock()
    wait = input.wait or context.settings.wait or WAIT
    job = SnowflakeTask(input, client, clock, wait)
    return await Machine(job, context, wait, clock=clock).run()


class SnowflakeTask:
    """See Job. A run is found among the runs of its root task: the start does not say which it is."""

    system = "Snowflake"
    output = SnowflakeTaskOutput
    max_resends = 2
    failing = frozenset(Outcome) - {Outcome.SUCCEEDED, Outcome.WARNING}

    def __init__(self, input: SnowflakeTaskInput, client: SnowflakeClient, clock: Clock, wait: WaitPolicy) -> None:
        self.if_already_running: str = input.if_already_running
        self.grace = input.start_grace_s
        names = (input.database, input.schema_, input.task)
        self.lease = f"snowflake {client.url} {'.'.join(quoted(name) for name in names)}"
        self._input = input
        self._at = Place(input.database, input.schema_, input.role, input.warehouse)
        self._client = client
        self._clock = clock
        self._wait = wait
        self._requests: list[str] = []
        self._missing_since: float | None = None
        self._failed_at: float | None = None
        self._looked_at: float | None = None

    async def baseline(self) -> Json:
        """See Job."""
        task, date = await self._client.fetch_task(self._at, self._input.task)
        if task.predecessors:
            text = f"{self._input.task} is below {', '.join(task.predecessors)[:200]}; only a root task can be executed"
            raise TaskFailed(text, code="not_a_root_task")
        # The live ones first: one that ends meanwhile is then in both lists, never in none.
        live, ended = await self._live(task.id), await self._ended(task.id)
        known = {
            str(run.run_id): [run.state, run.completed_time] for run in (*live, *ended) if run.state != "SCHEDULED"
        }
        planned = [run.run_id for run in live if run.state == "SCHEDULED"]
        running = max((run for run in live if run.state == "EXECUTING"), key=lambda run: run.run_id, default=None)
        baseline = {
            "root": task.id,
            "date": date or self._clock.now(),
            # By our own clock alone, what began since then cannot be told for sure.
            "dated": bool(date),
            "at": self._clock.now(),
            "known": known,
            "planned": planned,
            "retries": task.task_auto_retry_attempts or 0,
        }
        if running is not None and self.if_already_running != "queue":
            text = f"{self._input.task} runs already, as run {running.run_id}"
            raise Occupied(text, {"run_id": running.run_id, **baseline, "known": {}})
        return baseline

    async def start(self, baseline: Json) -> Json | None:
        """See Job."""
        _, request = await self._client.execute_task(
            self._at, self._input.task, async_exec=self._input.async_exec, retry_last=self._input.retry_last
        )
        self._requests += [request] if request else []
        return None

    async def look(self, baseline: Json) -> Look:
        """See Job."""
        live, ended = await self._live(baseline["root"]), await self._ended(baseline["root"])
        now, looked_at = self._clock.now(), baseline.get("looked_at") or baseline["at"]
        # Of a long pause the lists show only what had begun before it, and still ran in their last hour.
        forgotten = now - looked_at > MEMORY
        remembered = await self._remembered(baseline) if forgotten else None
        forgotten = forgotten and remembered is None
        known, first = baseline["known"], (baseline["date"] - SKEW) * 1000
        runs = {run.run_id: run for run in (*(remembered or ()), *live, *ended)}
        new = [run_id for run_id, run in runs.items() if run_id >= first and str(run_id) not in known]
        if self._input.retry_last:
            before = [run for run_id, run in runs.items() if str(run_id) in known or run_id < first]
            new += [run.run_id for run in before if _retried(run, baseline)]
        # The schedule's next run is listed up to eight days ahead; ours is scheduled for now.
        there = baseline["date"] - baseline["at"]
        latest, asked = (there + now + SKEW) * 1000, (there + looked_at + self.grace) * 1000
        new = [run_id for run_id in new if runs[run_id].state != "SCHEDULED" or run_id <= latest]
        if new := [run_id for run_id in new if not forgotten or run_id <= asked]:
            ours = {"run_id": min(new), **{name: baseline[name] for name in ("root", "retries")}}
            if runs[min(new)].state == "SCHEDULED":
                # Until it runs, whoever executes the task replaces it.
                return Look(pending=True, scheduled=ours)
            return Look(remote=ours)
        pending = any(run.state == "EXECUTING" and str(run.run_id) in known for run in live)
        return Look(pending=pending, conclusive=baseline.get("dated", True) and not forgotten)

    async def running(self) -> Json | None:
        """See Job."""
        return None

    async def status(self, remote: Json) -> Seen:
        """See Job."""
        now = self._clock.now()
        run = _one(await self._live(remote["root"]), remote) or _one(await self._ended(remote["root"]), remote)
        gap = now - (self._looked_at or remote.get("seen_at") or now)
        if run is None:
            return await self._vanished(remote, now, gap)
        self._looked_at, self._missing_since = now, None
        if ENDS.get(run.state) is Outcome.FAILED and remote["retries"]:
            # Snowflake may be about to try again by itself.
            self._failed_at = self._failed_at or now
            if now - self._failed_at < self._wait.poll_max_s:
                return Seen(raw="FAILED, perhaps to be retried")
        else:
            self._failed_at = None
        return self._seen(run)

    async def _vanished(self, remote: Json, now: float, gap: float) -> Seen:
        self._missing_since = self._missing_since or now
        if self._client.sql:
            found = await self._recalled(remote)
            if found is not None:
                return self._seen(found)
        if gap > MEMORY:
            return Seen(raw="not listed any more", outcome=Outcome.UNKNOWN)
        if now - self._missing_since < self._input.vanish_grace_s:
            return Seen(raw="not listed")
        return Seen(raw="vanished", outcome=Outcome.SKIPPED)

    async def cancel(self, remote: Json) -> bool:
        """See Job: Snowflake ends what runs of the task, so it must be ours alone."""
        if not self._client.sql:
            return False
        running = {run.run_id for run in await self._live(remote["root"]) if run.state == "EXECUTING"}
        if running != {remote["run_id"]}:
            return False
        name = f"{self._at.database}.{self._at.schema}.{self._input.task}"
        await self._client.statement(self._at, "SELECT SYSTEM$USER_TASK_CANCEL_ONGOING_EXECUTIONS(?)", name)
        return True

    async def pause(self, seconds: float) -> None:
        """See Job."""
        await self._clock.sleep(seconds)

    def name(self, remote: Json) -> str:
        """See Job."""
        return str(remote["run_id"])

    def _seen(self, run: TaskRun) -> Seen:
        state = run.state.upper()
        place = {"database": self._at.database, "schema": self._at.schema, "task": self._input.task}
        code = run.first_error_code
        where = f"{run.first_error_task_name}: " if run.first_error_task_name else ""
        fields = {
            **place,
            "run": _short(run),
            "request_ids": self._requests,
            "started_at": moment(run.query_start_time),
            "finished_at": moment(run.completed_time),
            "error_code": None if code is None else str(code),
            "error_message": f"{where}{run.first_error_message}" if run.first_error_message else None,
        }
        return Seen(raw=run.state, outcome=ENDS.get(state), fields=fields, strange=state not in {*ENDS, *LIVE})

    async def _live(self, root: str | None) -> list[TaskRun]:
        return _of(root, await self._client.get_current_graphs(self._at, self._input.task, result_limit=GRAPHS))

    async def _ended(self, root: str | None) -> list[TaskRun]:
        return _of(root, await self._client.get_complete_graphs(self._at, self._input.task, result_limit=GRAPHS))

    async def _remembered(self, baseline: Json) -> list[TaskRun] | None:
        """Give the runs of which anything has begun since the baseline; None where the history cannot be asked."""
        if baseline["root"] is None:
            return None
        columns = "RUN_ID, IFF(COUNT_IF(STATE <> 'SCHEDULED') = 0, 'SCHEDULED', 'EXECUTING')"
        since = str(int((baseline["date"] - SKEW) * 1000))
        where = "(RUN_ID >= TO_NUMBER(?) OR QUERY_START_TIME >= TO_TIMESTAMP_LTZ(TO_NUMBER(?), 3)) GROUP BY RUN_ID"
        rows = await self._history(2, columns, f"{where} ORDER BY RUN_ID LIMIT 1000", baseline["root"], since, since)
        if rows is None:
            return None
        return [read_as(TaskRun, {"run_id": run_id, "state": state}, SYSTEM) for run_id, state in rows]

    async def _recalled(self, remote: Json) -> TaskRun | None:
        """Give a run that is in no list, as the history of its tasks has it."""
        if remote["root"] is None:
            return None
        begin, end = (f"TO_VARCHAR({name}, '{ISO}')" for name in ("QUERY_START_TIME", "COMPLETED_TIME"))
        columns = f"NAME, STATE, ERROR_CODE, ERROR_MESSAGE, {begin}, {end}"
        where = "RUN_ID = TO_NUMBER(?) ORDER BY ATTEMPT_NUMBER DESC"
        rows = await self._history(6, columns, where, remote["root"], str(remote["run_id"]))
        return run_of(remote["run_id"], rows or [])

    async def _history(self, width: int, columns: str, where: str, *bound: str) -> list[list[Any]] | None:
        """Ask for what was run of a graph, rows of so many columns; None where that is not allowed."""
        if not self._client.sql:
            return None
        database = self._at.database if re.fullmatch(r'[\w$"]+', self._at.database) else f'"{self._at.database}"'
        sql = f"SELECT {columns} FROM TABLE({database}.{HISTORY}) WHERE {where}"  # noqa: S608 (the name is an identifier by its pattern)
        try:
            rows = await self._client.statement(self._at, sql, *bound)
        except Refused:
            return None
        if any(len(row) != width for row in rows):
            raise NoAnswer(f"{SYSTEM} answered with rows that have not {width} columns")
        return rows


def _retried(run: TaskRun, baseline: Json) -> bool:
    """Whether a run of before the start has begun again since then."""
    if (before := baseline["known"].get(str(run.run_id))) is None:
        # It was in no list: what had ended over an hour ago, and lives or ends now, has begun again.
        return run.run_id not in baseline.get("planned", [])
    return [run.state, run.completed_time] != before and ENDS.get(before[0]) in (Outcome.FAILED, Outcome.CANCELLED)


def run_of(run_id: int, rows: list[list[Any]]) -> TaskRun | None:
    """Give a run as all tasks of its graph make it, of rows with the latest attempt first.

    A row is a task's name, state, error code and message, begin and end. A retry runs only what had failed.
    """
    last = {str(row[0]): row for row in reversed(rows)}.values()
    if not last:
        return None
    states = {str(row[1]).upper(): row for row in last}
    # What is not known is no end, whatever the others are.
    order = (*(states.keys() - ENDS.keys() - LIVE), *GRAPH)
    state = next(one for one in order if one in states)
    name, _, code, text, _, _ = states[state]
    failed = ENDS.get(state) is Outcome.FAILED
    began, ended = [str(row[4]) for row in last if row[4]], [str(row[5]) for row in last if row[5]]
    found = {
        "run_id": run_id,
        "state": state,
        "first_error_code": int(code) if failed and re.fullmatch("[0-9]{1,9}", str(code)) else None,
        "first_error_message": text if failed else None,
        "first_error_task_name": name if failed else None,
        "query_start_time": min(began, default=None),
        "completed_time": max(ended, default=None) if state not in LIVE else None,
    }
    return read_as(TaskRun, found, SYSTEM)


def _of(root: str | None, runs: list[TaskRun]) -> list[TaskRun]:
    # Snowflake lists runs of tasks of the same name in other schemas too.
    return [run for run in runs if root is None or run.root_task_id in (root, None)]


def _one(runs: list[TaskRun], remote: Json) -> TaskRun | None:
    found = [run for run in runs if run.run_id == remote["run_id"]]
    # Of several attempts under one id, the one that ended last.
    return max(found, key=lambda run: run.completed_time or "", default=None)


def _short(run: TaskRun) -> dict[str, Any]:
    return run.model_dump(include=set(TaskRun.model_fields), exclude_none=True)

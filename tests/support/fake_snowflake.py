"""Snowflake's Task API, its result API, two statements of its SQL API, and a token endpoint, as we read them."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from support.contracts import contract
from support.remotes import Asked, Remote, Reply, snake

TASKS, SQL = contract("snowflake"), contract("snowflake_sql")
PAT = "s3cret-pat"
LISTED = 3600.0
"""Seconds for which an ended graph is listed."""


@dataclass
class Plan:
    """How the runs of a task go, in seconds of the virtual clock."""

    delay: float = 10.0
    lasts: float = 60.0
    end: str = "SUCCEEDED"
    visible_after: float = 0.0
    error: tuple[int, str] | None = None
    attempts: list[str] = field(default_factory=list)
    """Ends of earlier attempts, that are retried under the same id."""
    unlisted: bool = False
    """Whether a skipped one leaves no trace."""


@dataclass(eq=False)
class Run:
    """One run of a task and its graph."""

    number: int
    requested: float
    plan: Plan
    begins: float
    cancelled: float = math.inf
    replaced: bool = False

    def ends(self) -> float:
        """Give when it is over."""
        return min(self.begins + self.plan.lasts * (1 + len(self.plan.attempts)), self.cancelled)

    def state(self, now: float) -> str:
        """Give what it is."""
        if now < self.begins:
            return "SCHEDULED"
        if now < self.ends():
            attempt = int((now - self.begins) // self.plan.lasts)
            # Between two attempts it is over for a moment.
            gap = attempt > 0 and (now - self.begins) % self.plan.lasts < self.plan.lasts / 8
            return self.plan.attempts[attempt - 1] if gap else "EXECUTING"
        return "CANCELLED" if self.cancelled <= self.begins + self.plan.lasts else self.plan.end


@dataclass(eq=False)
class FakeTask:
    """A task, its runs, and how often it was truly started."""

    name: str
    plan: Plan = field(default_factory=Plan)
    fields: dict[str, Any] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    starts: int = 0
    retries: int = 0


class FakeSnowflake(Remote):
    """An account."""

    def __init__(self, *, tick: float = 5.0) -> None:
        super().__init__(tick=tick)
        self.tasks: dict[str, FakeTask] = {}
        self.results: dict[str, tuple[int, Reply]] = {}
        self.accepts: dict[str, int] = {}
        """Operations that are answered by 202 first, and for how many looks; or "operation task" for one task's."""
        self.result_of: dict[str, str] = {}
        """The task that a result is of."""
        self.gone: set[str] = set()
        """Operations whose results are not kept; or "operation task"."""
        self.pages = 1000
        self.kinds: list[str] = []

    def add(self, name: str, plan: Plan | None = None, **fields: Any) -> FakeTask:
        """Add a task."""
        self.tasks[name] = FakeTask(name, plan or Plan(), fields)
        return self.tasks[name]

    def run_of_another(self, task: FakeTask, plan: Plan | None = None) -> Run:
        """Let somebody else, or the schedule, run it."""
        return self._run(task, plan or task.plan)

    def finish(self, task: FakeTask) -> None:
        """Let what runs end now, and what waits for it run a second each, one after the other."""
        at = self.now
        for run in task.runs:
            if run.state(self.now) in ("SCHEDULED", "EXECUTING"):
                run.begins = min(run.begins, at)
                run.plan = replace(run.plan, lasts=at - run.begins + 1)
                at = run.ends()

    def name_of(self, run: Run) -> str:
        """Give the task that a run is of."""
        return next(task.name for task in self.tasks.values() if run in task.runs)

    # Remote

    def route(self, asked: Asked) -> None:
        """See Remote."""
        if asked.path == "/oauth/token":
            asked.operation = "login"
            return
        known = SQL if asked.path.startswith("/api/v2/statements") else TASKS
        asked.operation, asked.values = known.route(asked.method, asked.path)
        asked.subject = asked.values.get("name", "")
        if asked.operation == "fetchResult":
            asked.subject = self.result_of.get(asked.values["result_handler"], "")
        if asked.operation == "createTask":
            asked.subject = str((asked.body or {}).get("name", ""))

    def request_problems(self, asked: Asked) -> list[str]:
        """See Remote."""
        if asked.operation == "login":
            return []
        known = SQL if asked.operation in SQL.operations else TASKS
        problems = known.request_problems(asked.operation, asked.query, asked.body)
        return problems + [
            f"{asked.operation}: the header {name} is {asked.headers.get(name)!r}"
            for name, wanted in (("accept", "application/json"), ("user-agent", "product-live-worker"))
            if asked.headers.get(name) != wanted
        ]

    def reply_problems(self, asked: Asked, reply: Reply) -> list[str]:
        """See Remote."""
        if asked.operation == "login":
            return []
        known = SQL if asked.operation in SQL.operations else TASKS
        return known.response_problems(asked.operation, reply.status, reply.body)

    def error(self, status: int, asked: Asked) -> Any:
        """See Remote."""
        return {"message": f"error {status}", "code": "390000", "error_code": "390000", "request_id": "r-1"}

    def answer(self, asked: Asked) -> Reply:
        """See Remote."""
        if asked.operation == "login":
            return Reply(200, {"access_token": self.token(), "token_type": "Bearer", "expires_in": 600})
        kind = asked.headers.get("x-snowflake-authorization-token-type", "")
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if not (self.is_good(token) or self.accepts_token(kind, token)):
            return Reply(401, self._error("390144", "the token is not valid"))
        self.kinds.append(kind)
        reply = getattr(self, f"_{snake(asked.operation)}")(asked)
        reply.headers.setdefault("X-Snowflake-Request-ID", f"req-{len(self.asked)}")
        return self._accepted(asked, reply)

    def accepts_token(self, kind: str, token: str) -> bool:
        """Whether a token is one that was not given here."""
        return kind == "PROGRAMMATIC_ACCESS_TOKEN" and token == PAT

    def _accepted(self, asked: Asked, reply: Reply) -> Reply:
        looks = self.accepts.get(f"{asked.operation} {asked.subject}", self.accepts.get(asked.operation, 0))
        if asked.operation == "fetchResult" or not looks:
            return reply
        handler = f"h{len(self.result_of)}"
        self.result_of[handler] = asked.subject
        if not self.gone & {asked.operation, f"{asked.operation} {asked.subject}"}:
            self.results[handler] = (looks, reply)
        body = {"code": "392604", "message": "in progress", "resultHandler": handler}
        own = {"X-Snowflake-Request-ID": reply.headers["X-Snowflake-Request-ID"]}
        return Reply(202, body, {"location": f"/api/v2/results/{handler}", **own})

    # Operations

    def _fetch_result(self, asked: Asked) -> Reply:
        handler = asked.values["result_handler"]
        if handler not in self.results:
            return Reply(404, self._error("390404", "no such result"))
        looks, reply = self.results[handler]
        if looks > 0:
            self.results[handler] = (looks - 1, reply)
            return Reply(202, {"code": "392604", "message": "in progress", "resultHandler": handler})
        if "page" in asked.query:
            page = int(asked.query["page"])
            return self._page(handler, reply.body, page)
        return reply

    def _list_tasks(self, asked: Asked) -> Reply:
        q = asked.query
        found = sorted(self.tasks.values(), key=lambda task: task.name)
        if q.get("rootOnly") == "true":
            found = [task for task in found if not task.fields.get("predecessors")]
        if "like" in q:
            pattern = q["like"].replace("%", "*").replace("_", "?").lower()
            found = [task for task in found if fnmatch.fnmatch(task.name.lower(), pattern)]
        if "startsWith" in q:
            found = [task for task in found if task.name.startswith(q["startsWith"])]
        if "fromName" in q:
            found = [task for task in found if task.name > q["fromName"]]
        if "showLimit" in q:
            found = found[: int(q["showLimit"])]
        rows = [self._task(task) for task in found]
        if len(rows) <= self.pages:
            return Reply(200, rows)
        handler = f"h{len(self.result_of)}"
        self.result_of[handler] = ""
        self.results[handler] = (0, Reply(200, rows))
        return self._page(handler, rows, 0)

    def _page(self, handler: str, rows: list[Any], page: int) -> Reply:
        last = (len(rows) - 1) // self.pages
        links = [f'</api/v2/results/{handler}?page=0>; rel="first"']
        links += [f'</api/v2/results/{handler}?page={page + 1}>; rel="next"'] if page < last else []
        part = rows[page * self.pages : (page + 1) * self.pages]
        return Reply(200, part, {"Link": ",".join([*links, f'</api/v2/results/{handler}?page={last}>; rel="last"'])})

    def _create_task(self, asked: Asked) -> Reply:
        name, mode = asked.body["name"], asked.query.get("createMode", "errorIfExists")
        if name in self.tasks and mode == "errorIfExists":
            return Reply(409, self._error("002002", f"Object '{name}' already exists."))
        if name not in self.tasks or mode == "orReplace":
            self.add(name, **{key: value for key, value in asked.body.items() if key != "name"})
        return _done()

    def _fetch_task(self, asked: Asked) -> Reply:
        return Reply(200, self._task(task)) if (task := self._of(asked)) else self._missing(asked)

    def _create_or_alter_task(self, asked: Asked) -> Reply:
        self.tasks.setdefault(asked.subject, FakeTask(asked.subject)).fields = dict(asked.body)
        return _done()

    def _delete_task(self, asked: Asked) -> Reply:
        if self.tasks.pop(asked.subject, None) is None and asked.query.get("ifExists") != "true":
            return self._missing(asked)
        return _done()

    def _execute_task(self, asked: Asked) -> Reply:
        if (task := self._of(asked)) is None:
            return self._missing(asked)
        if asked.query.get("retryLast") == "true":
            last = max(task.runs, key=lambda run: run.number, default=None)
            if last is None or last.state(self.now) not in ("FAILED", "CANCELLED"):
                return Reply(400, self._error("091090", "there is nothing to retry"))
            last.begins, last.plan, last.cancelled = self.now + task.plan.delay, task.plan, math.inf
            task.starts += 1
            return _done()
        self._run(task, task.plan)
        task.starts += 1
        return _done()

    def _run(self, task: FakeTask, plan: Plan) -> Run:
        live = [run for run in task.runs if run.state(self.now) == "EXECUTING"]
        for run in task.runs:
            # A run that waits is replaced.
            run.replaced = run.replaced or run.state(self.now) == "SCHEDULED"
        begins = max([self.now + plan.delay, *(run.ends() for run in live)])
        task.runs.append(Run(int((self.now + self.skew) * 1000), self.now, plan, begins))
        return task.runs[-1]

    def _resume_task(self, asked: Asked) -> Reply:
        return self._set(asked, "started")

    def _suspend_task(self, asked: Asked) -> Reply:
        return self._set(asked, "suspended")

    def _set(self, asked: Asked, state: str) -> Reply:
        if (task := self._of(asked)) is None:
            return self._missing(asked)
        task.fields["state"] = state
        return _done()

    def _fetch_task_dependents(self, asked: Asked) -> Reply:
        names, found = {asked.subject}, []
        while True:
            below = [task for task in self.tasks.values() if names & set(task.fields.get("predecessors") or [])]
            new = [task for task in below if task not in found]
            found += new
            names = {task.name for task in new}
            if not new or asked.query.get("recursive") == "false":
                return Reply(200, [self._task(task) for task in found])

    def _get_current_graphs(self, asked: Asked) -> Reply:
        return self._graphs(asked, lambda run: run.state(self.now) in ("SCHEDULED", "EXECUTING"))

    _get_current_graphs_deprecated = _get_current_graphs

    def _get_complete_graphs(self, asked: Asked) -> Reply:
        def is_listed(run: Run) -> bool:
            state = run.state(self.now)
            ended = state not in ("SCHEDULED", "EXECUTING") and not (state == "SKIPPED" or run.plan.unlisted)
            wanted = asked.query.get("errorOnly") != "true" or state in ("FAILED", "CANCELLED")
            return ended and wanted and self.now - run.ends() < LISTED

        return self._graphs(asked, is_listed)

    _get_complete_graphs_deprecated = _get_complete_graphs

    def _graphs(self, asked: Asked, is_listed: Any) -> Reply:
        if (task := self._of(asked)) is None:
            return self._missing(asked)
        limit = int(asked.query.get("resultLimit", "1000"))
        visible = [run for run in task.runs if not run.replaced and self.now >= run.requested + run.plan.visible_after]
        rows = [self._graph(task, run) for run in reversed(visible) if is_listed(run)]
        # Runs of a task of the same name in another schema are listed too.
        stranger = {"schema_name": None, "database_name": None, "root_task_id": "another"}
        rows += [{**row, **stranger, "schema_name": "OTHER", "database_name": "OTHER", "run_id": 1} for row in rows[:1]]
        return Reply(200, rows[:limit])

    def _set_tags(self, asked: Asked) -> Reply:
        return _done()

    _unset_tags = _set_tags

    def _get_tags(self, asked: Asked) -> Reply:
        return Reply(200, [])

    def _submit_statement(self, asked: Asked) -> Reply:
        sql, bound = asked.body["statement"], [one["value"] for one in asked.body["bindings"].values()]
        name = bound[0].rsplit(".", 1)[-1].removeprefix("id-")
        asked.subject = name
        task = self.tasks[name]
        rows: list[list[Any]] = [["done"]]
        if "CANCEL_ONGOING" in sql:
            for run in task.runs:
                if run.state(self.now) == "EXECUTING":
                    run.cancelled = self.now + 10
        elif "RUN_ID >=" in sql:
            begun = [run for run in task.runs if (run.begins + self.skew) * 1000 >= int(bound[2])]
            wanted = [run for run in task.runs if run.number >= int(bound[1]) or run in begun]
            rows = [[str(run.number), self._begun(run)] for run in wanted]
        else:
            run_id = int(bound[1])
            rows = [
                [name, run.state(self.now), None, None, self._time(run.begins), self._time(run.ends())]
                for run in task.runs
                if run.number == run_id
            ]
        return Reply(200, {"code": "090001", "statementHandle": "01a", "data": rows})

    def _begun(self, run: Run) -> str:
        return "SCHEDULED" if run.state(self.now) == "SCHEDULED" else "EXECUTING"

    # Words

    def _of(self, asked: Asked) -> FakeTask | None:
        return self.tasks.get(asked.subject)

    def _missing(self, asked: Asked) -> Reply:
        return Reply(404, self._error("002003", f"Object '{asked.subject}' does not exist or not authorized."))

    def _error(self, code: str, text: str) -> dict[str, str]:
        return {"message": text, "code": code, "error_code": code, "request_id": "r-1"}

    def _time(self, at: float) -> str:
        return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat()

    def _task(self, task: FakeTask) -> dict[str, Any]:
        return {
            "definition": "select 1",
            "id": f"id-{task.name}",
            "state": "started",
            "created_on": self._time(self.now),
            **task.fields,
            "name": task.name,
            "database_name": "SALES",
            "schema_name": "PUBLIC",
        }

    def _graph(self, task: FakeTask, run: Run) -> dict[str, Any]:
        state = run.state(self.now)
        row: dict[str, Any] = {
            "root_task_name": task.name,
            "database_name": "SALES",
            "schema_name": "PUBLIC",
            "state": state,
            "scheduled_time": self._time(run.number / 1000),
            "next_scheduled_time": self._time(run.number / 1000 + 3600),
            "root_task_id": f"id-{task.name}",
            "graph_version": 1,
            "run_id": run.number,
        }
        if state != "SCHEDULED":
            row["query_start_time"] = self._time(run.begins)
        if state not in ("SCHEDULED", "EXECUTING"):
            row["completed_time"] = self._time(run.ends())
        if state == "FAILED" and run.plan.error:
            row |= {"first_error_task_name": task.name, "first_error_code": run.plan.error[0]}
            row |= {"first_error_message": run.plan.error[1]}
        return row


def _done() -> Reply:
    return Reply(200, {"status": "Statement executed successfully."})

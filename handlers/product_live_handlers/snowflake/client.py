"""One method for each operation of Snowflake's Task API, and the two statements of its SQL API that tasks need."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from product_live_handlers.remote_http import (
    Answer,
    Busy,
    LoginRefused,
    NoAnswer,
    NotSent,
    Refused,
    Session,
    Wire,
    first_text,
    read_as,
    same_host,
    segment,
    signed,
)
from product_live_handlers.remote_job import Clock
from product_live_handlers.snowflake.models import Task, TaskRun

SYSTEM = "Snowflake"
MOST_PAGES = 200
LONGEST_RESULT = 600.0
"""Seconds in which a request that was accepted must have a result."""
REQUEST_ID = "X-Snowflake-Request-ID"
CreateMode = Literal["errorIfExists", "orReplace", "ifNotExists"]


class Place(NamedTuple):
    """Where tasks are, and as whom they are asked for there."""

    database: str
    schema: str
    role: str | None = None
    warehouse: str | None = None


def explain(_: int, body: Any) -> tuple[str, str, dict[str, Any]]:
    """Say what an error of Snowflake says."""
    request = first_text(body, ("request_id", "statementHandle"))
    details = {"request_id": request} if request else {}
    return first_text(body, ("code", "error_code")), first_text(body, ("message",)), details


class SnowflakeClient:
    """An account. Each method sends one request, and waits for the result of one that was only accepted."""

    def __init__(
        self,
        url: str,
        wire: Wire,
        session: Session,
        *,
        role: str | None = None,
        warehouse: str | None = None,
        sql: bool = False,
        new_clock: Callable[[], Clock] = Clock,
    ) -> None:
        """`sql`: whether the SQL API may be used; `new_clock` gives each execution its time."""
        self.url = url
        self.sql = sql
        self.session = session
        self.new_clock = new_clock
        self._wire = wire
        self._role = role
        self._warehouse = warehouse

    async def check(self) -> list[str]:
        """Ask for something that is not there: whoever is told so has been let in."""
        try:
            await self._send("GET", "/api/v2/results/product-live-worker-check")
        except Refused as refused:
            if refused.status in (401, 403):
                raise
        return [f"Snowflake accepts the login at {self.url}"]

    async def list_tasks(
        self,
        at: Place,
        *,
        root_only: bool | None = None,
        like: str | None = None,
        starts_with: str | None = None,
        show_limit: int | None = None,
        from_name: str | None = None,
    ) -> list[Task]:
        """List tasks: listTasks."""
        query = {"rootOnly": root_only, "like": like, "startsWith": starts_with, "showLimit": show_limit}
        found = await self._list(at, self._path(at), {**query, "fromName": from_name})
        return [read_as(Task, one, SYSTEM) for one in found]

    async def create_task(
        self, at: Place, task: Mapping[str, Any], *, create_mode: CreateMode | None = None
    ) -> dict[str, Any]:
        """Create a task: createTask."""
        return _object(await self._done("POST", self._path(at), at, {"createMode": create_mode}, task))

    async def fetch_task(self, at: Place, name: str) -> tuple[Task, float]:
        """Describe a task: fetchTask; gives the server's time too."""
        answer = await self._done("GET", self._path(at, name), at)
        return read_as(Task, _object(answer), SYSTEM), answer.date

    async def create_or_alter_task(self, at: Place, name: str, task: Mapping[str, Any]) -> dict[str, Any]:
        """Create a task, or make it this: createOrAlterTask."""
        return _object(await self._done("PUT", self._path(at, name), at, None, task))

    async def delete_task(self, at: Place, name: str, *, if_exists: bool | None = None) -> dict[str, Any]:
        """Drop a task: deleteTask."""
        return _object(await self._done("DELETE", self._path(at, name), at, {"ifExists": if_exists}))

    async def execute_task(
        self, at: Place, name: str, *, async_exec: bool | None = None, retry_last: bool | None = None
    ) -> tuple[dict[str, Any], str]:
        """Have it run now: executeTask; gives the id of the request too. Which run that is, Snowflake does not say."""
        query = {"asyncExec": async_exec, "retryLast": retry_last}
        path = self._path(at, name, ":execute")
        answer = await self._send("POST", path, at, query, fresh=True)
        request = answer.headers.get(REQUEST_ID, "")
        try:
            answer = await self._completed(answer, at)
        except (NotSent, Busy, LoginRefused) as error:
            # It is the look at the result that was not done; the start was taken.
            raise NoAnswer(f"Snowflake accepted the request, and its result cannot be read: {error}") from None
        except Refused as refused:
            if refused.status == 401 or 300 <= refused.status < 400:
                # Said by a login, or by something on the way: the start was taken.
                raise NoAnswer(f"Snowflake accepted the request, and its result cannot be read: {refused}") from None
            # A result that is no longer kept says nothing of the run.
            if refused.status != 404:
                raise
            return {}, request
        return _object(answer), request

    async def resume_task(self, at: Place, name: str) -> dict[str, Any]:
        """Have it run on its schedule again: resumeTask."""
        return _object(await self._done("POST", self._path(at, name, ":resume"), at))

    async def suspend_task(self, at: Place, name: str) -> dict[str, Any]:
        """End its schedule; what runs goes on: suspendTask."""
        return _object(await self._done("POST", self._path(at, name, ":suspend"), at))

    async def fetch_task_dependents(self, at: Place, name: str, *, recursive: bool | None = None) -> list[Task]:
        """List the tasks below it: fetchTaskDependents."""
        found = await self._list(at, self._path(at, name, "/dependents"), {"recursive": recursive})
        return [read_as(Task, one, SYSTEM) for one in found]

    async def get_current_graphs(
        self, at: Place, name: str, *, result_limit: int | None = None, deprecated: bool = False
    ) -> list[TaskRun]:
        """List runs that are live or planned: getCurrentGraphs, or getCurrentGraphsDeprecated."""
        path = self._path(at, name, "/current_graphs" if deprecated else "/current-graphs")
        return [read_as(TaskRun, one, SYSTEM) for one in await self._list(at, path, {"resultLimit": result_limit})]

    async def get_complete_graphs(
        self,
        at: Place,
        name: str,
        *,
        result_limit: int | None = None,
        error_only: bool | None = None,
        deprecated: bool = False,
    ) -> list[TaskRun]:
        """List runs that ended in the last hour: getCompleteGraphs, or getCompleteGraphsDeprecated."""
        path = self._path(at, name, "/complete_graphs" if deprecated else "/complete-graphs")
        query = {"resultLimit": result_limit, "errorOnly": error_only}
        return [read_as(TaskRun, one, SYSTEM) for one in await self._list(at, path, query)]

    async def set_tags(
        self, at: Place, name: str, tags: list[dict[str, Any]], *, if_exists: bool | None = None
    ) -> dict[str, Any]:
        """Set tags: setTags."""
        return _object(await self._done("POST", self._path(at, name, ":set-tags"), at, {"ifExists": if_exists}, tags))

    async def unset_tags(
        self, at: Place, name: str, tags: list[dict[str, Any]], *, if_exists: bool | None = None
    ) -> dict[str, Any]:
        """Take tags away: unsetTags."""
        return _object(await self._done("POST", self._path(at, name, ":unset-tags"), at, {"ifExists": if_exists}, tags))

    async def get_tags(self, at: Place, name: str, *, with_lineage: bool | None = None) -> list[dict[str, Any]]:
        """List tags: getTags."""
        return await self._list(at, self._path(at, name, ":get-tags"), {"withLineage": with_lineage})

    async def fetch_result(self, handler: str, *, page: int | None = None) -> Answer:
        """Look for the result of a request that was accepted: fetchResult; its status is 202 until it is there."""
        return await self._send("GET", f"/api/v2/results/{segment(handler)}", None, {"page": page})

    async def statement(self, at: Place, sql: str, *bound: str) -> list[list[Any]]:
        """Run a statement by the SQL API, with texts bound to its question marks; gives the rows."""
        body = {
            "statement": sql,
            "timeout": 60,
            "bindings": {str(number): {"type": "TEXT", "value": text} for number, text in enumerate(bound, 1)},
            "role": at.role or self._role,
            "warehouse": at.warehouse or self._warehouse,
        }
        given = {name: value for name, value in body.items() if value is not None}
        answer = await self._send("POST", "/api/v2/statements", None, None, given)
        handle = first_text(answer.body, ("statementHandle",))
        if answer.status == 202 and handle in ("", ".", ".."):
            raise NoAnswer("Snowflake accepted the statement, and names no handle for its result")
        clock, waited = self.new_clock(), 0.0
        while answer.status == 202 and waited < LONGEST_RESULT:
            waited += 1.0
            await clock.sleep(1.0)
            answer = await self._send("GET", f"/api/v2/statements/{segment(handle)}")
        rows = _object(answer).get("data") or []
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise NoAnswer("Snowflake answered with rows that are none")
        return rows

    # How they are sent

    def _path(self, at: Place, name: str | None = None, rest: str = "") -> str:
        tasks = f"/api/v2/databases/{segment(at.database)}/schemas/{segment(at.schema)}/tasks"
        return tasks if name is None else f"{tasks}/{segment(name)}{rest}"

    async def _send(
        self,
        method: str,
        path: str,
        at: Place | None = None,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        *,
        fresh: bool = False,
    ) -> Answer:
        role, warehouse = (at and at.role) or self._role, (at and at.warehouse) or self._warehouse
        named = {"X-Snowflake-Role": role, "X-Snowflake-Warehouse": warehouse}

        async def send(signature: Mapping[str, str]) -> Answer:
            headers = {**signature, **{name: value for name, value in named.items() if value}}
            url = f"{self.url}{path}"
            return await self._wire.send(method, url, headers=headers, params=query, content=body, fresh=fresh)

        return await signed(self.session, send, lambda refused: refused.status == 401)

    async def _done(
        self, method: str, path: str, at: Place, query: Mapping[str, Any] | None = None, body: Any = None
    ) -> Answer:
        return await self._completed(await self._send(method, path, at, query, body), at)

    async def _completed(self, answer: Answer, at: Place) -> Answer:
        """Wait for the result of a request that was only accepted."""
        clock, waited, interval = self.new_clock(), 0.0, 0.5
        while answer.status == 202:
            handler = first_text(answer.body, ("resultHandler",))
            location = answer.headers.get("location") or f"/api/v2/results/{handler}"
            if same_host(self.url, location) is None:
                raise NoAnswer("Snowflake accepted the request, and names no place on its own host for the result")
            if waited > LONGEST_RESULT:
                raise NoAnswer(f"Snowflake accepted the request, and has no result of it after {waited:.0f} s")
            await clock.sleep(interval)
            waited, interval = waited + interval, min(interval * 2, 5.0)
            answer = await self._send("GET", location, at)
        return answer

    async def _list(self, at: Place, path: str, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Give all pages of a list."""
        answer = await self._done("GET", path, at, query)
        found = _objects(answer)
        for _ in range(MOST_PAGES):
            following = re.search(r'<([^>]*)>\s*;\s*rel="?next"?', answer.headers.get("link", ""))
            if following is None:
                return found
            if same_host(self.url, following[1]) is None:
                raise NoAnswer("Snowflake names a next page that is not on its own host")
            answer = await self._done("GET", following[1], at)
            found += _objects(answer)
        raise NoAnswer(f"Snowflake has more than {MOST_PAGES} pages")


def _object(answer: Answer) -> dict[str, Any]:
    if not isinstance(answer.body, dict):
        raise NoAnswer("Snowflake answered with what is no object")
    return answer.body


def _objects(answer: Answer) -> list[dict[str, Any]]:
    if not isinstance(answer.body, list) or not all(isinstance(one, dict) for one in answer.body):
        raise NoAnswer("Snowflake answered with what is no list of objects")
    return answer.body

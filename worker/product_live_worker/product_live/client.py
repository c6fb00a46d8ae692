"""One method per verb of Product-Live's API; each answer becomes a value or a PlatformError.

Nothing is retried here: the stage that asked knows what is at stake, and a poll is a GET with an effect.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import httpx
from pydantic import BaseModel, ValidationError

from product_live_worker.model.errors import (
    AnswerUnreadable,
    KeyRefused,
    PlatformError,
    PlatformFailing,
    PlatformUnreachable,
    RateLimited,
    RequestRefused,
    SettingsError,
)
from product_live_worker.model.execution import Outcome
from product_live_worker.product_live.budget import Budget, Purpose, Slot
from product_live_worker.product_live.patience import Patience
from product_live_worker.product_live.wire import (
    FileRecord,
    PatchedExecution,
    Task,
    TaskDraft,
    TaskExecution,
    TaskPage,
)
from product_live_worker.telemetry.events import Emit, RequestAnswered

LARGEST_ANSWER = 20_000_000
"""Bytes of an answer that are read at most; the platform's engine allows 10 MB of input beside as much output."""
MARGIN = 2.0
"""Seconds after its total timeout in which a request given up may still arrive at the platform."""
KEEP_ALIVE = 3.0
"""Seconds after which an idle connection is not used again: a server that closes it meanwhile would cost a claim."""
NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
"""Failures after which the request has certainly not left this machine, or not passed the proxy."""
LONGEST_RETRY_AFTER = 3600.0
"""Seconds that a Retry-After is obeyed at most: one absurd date must not silence the worker until it is restarted."""
CONNECTIONS = 12
"""Connections at most; httpcore looks at each of them for each request."""
PAGE = 100
SMALLEST_PAGE = 10
TASKS = "/v1/data_factory/tasks"
EXECUTIONS = "/v1/data_factory/task_executions"
FILES = "/v1/data_factory/files"

Answer = TypeVar("Answer", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _Raw:
    status: int
    headers: httpx.Headers
    body: bytes
    secret: str = field(repr=False)

    def excerpt(self) -> str:
        """Give the beginning of the body as text, without the key that the request was sent with."""
        text = " ".join(self.body.replace(self.secret.encode(), b"***")[:2000].decode("utf-8", "replace").split())
        return text if len(text) <= 200 else text[:200] + "…"


class Client:
    """Speaks to one account of Product-Live; every request takes a slot of the budget first."""

    def __init__(
        self, http: httpx.AsyncClient, budget: Budget, *, read_key: Callable[[], str], total_timeout: float, emit: Emit
    ) -> None:
        """`read_key` is asked again after a 401, so that a key rotated in its file needs no restart."""
        self._http = http
        self._budget = budget
        self._read_key = read_key
        self._key = read_key()
        self._total_timeout = total_timeout
        self._emit = emit

    async def poll(self, task_id: str, slot: Slot) -> TaskExecution | None:
        """Claim the next execution of a task, or learn that there is none. Never to be sent twice for one slot."""
        raw = await self._send("poll", "GET", f"{TASKS}/{_segment(task_id)}/poll", Purpose.POLL, slot=slot, none=(404,))
        if raw is None or raw.body.strip() in (b"", b"null"):
            return None
        return _read(TaskExecution, raw)

    async def read_execution(self, execution_id: str, purpose: Purpose, *, order: float = 0.0) -> TaskExecution:
        """Read an execution's state at the platform."""
        path = f"{EXECUTIONS}/{_segment(execution_id)}"
        return _read(TaskExecution, await self._must("read_execution", "GET", path, purpose, order=order))

    async def update_execution(
        self,
        execution_id: str,
        outcome: Outcome,
        *,
        order: float = 0.0,
        still: Callable[[], Awaitable[None]] | None = None,
    ) -> str | None:
        """Report an outcome; gives the status that the platform has for the execution now, if it says one.

        `still` is called right before it is sent, and raises when it shall not be sent any more.
        """
        body = {"id": execution_id, "status": outcome.status.value, "output": outcome.output}
        path = f"{EXECUTIONS}/{_segment(execution_id)}"
        raw = await self._must("update_execution", "PATCH", path, Purpose.REPORT, body=body, order=order, still=still)
        # Any 2xx says the result was taken in; a body that cannot be read does not unsay it.
        try:
            return PatchedExecution.model_validate_json(raw.body).status
        except ValidationError:
            return None

    async def list_tasks(self) -> list[Task]:
        """List all custom tasks of the account, page by page."""
        found: dict[str, Task] = {}
        for page in range(1000):
            params = {"size": str(PAGE), "page": str(page)}
            raw = await self._must("list_tasks", "GET", TASKS, Purpose.DEFINE, params=params)
            tasks = _read(TaskPage, raw).data
            before = len(found)
            found |= {task.id: task for task in tasks}
            # A platform that gives smaller pages than asked for must not hide the tasks behind the first.
            if len(tasks) < SMALLEST_PAGE or len(found) == before:
                break
        return list(found.values())

    async def read_task(self, task_id: str) -> Task:
        """Read a task's definition."""
        return _read(Task, await self._must("read_task", "GET", f"{TASKS}/{_segment(task_id)}", Purpose.DEFINE))

    async def create_task(self, draft: TaskDraft) -> Task:
        """Create a task's definition."""
        return _read(Task, await self._must("create_task", "POST", TASKS, Purpose.DEFINE, body=_draft(draft)))

    async def update_task(self, task_id: str, draft: TaskDraft) -> Task:
        """Replace a task's definition."""
        body = {"id": task_id, **_draft(draft)}
        path = f"{TASKS}/{_segment(task_id)}"
        return _read(Task, await self._must("update_task", "PUT", path, Purpose.DEFINE, body=body))

    async def read_file(self, file_id: str) -> FileRecord:
        """Read what the platform knows of a file: above all, a fresh link to its content."""
        return _read(FileRecord, await self._must("read_file", "GET", f"{FILES}/{_segment(file_id)}", Purpose.FILES))

    async def write_log(self, path: str, correlation: str, *, emitter: str, message: str, severity: str) -> None:
        """Write a line into the log of the job with this correlation id; the key is not in it, whatever it says."""
        body = {
            "message": message.replace(self._key, "***"),
            "emitterName": emitter,
            "eventCorrelationId": correlation,
            "severity": severity,
            "messageType": "DEFAULT",
        }
        headers = {"cid": quote(correlation, safe=" !#$&'()*+,/:;=?@[]-._~")}
        await self._must("write_log", "POST", path, Purpose.LOG, body=body, headers=headers, resource="logs")

    @property
    def key(self) -> str:
        """The API key, for what speaks to the platform beside this client."""
        return self._key

    def reread_key(self) -> bool:
        """Read the key again, because it was refused; gives whether it is another one now."""
        before = self._key
        # A file that is away for a moment, in the middle of a rotation, is read at the next 401.
        with contextlib.suppress(SettingsError):
            self._key = self._read_key()
        return self._key != before

    async def _must(self, operation: str, method: str, path: str, purpose: Purpose, **more: Any) -> _Raw:
        raw = await self._send(operation, method, path, purpose, **more)
        assert raw is not None  # noqa: S101 (only `none` statuses give None, and none were named)
        return raw

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        purpose: Purpose,
        *,
        slot: Slot | None = None,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        order: float = 0.0,
        none: tuple[int, ...] = (),
        still: Callable[[], Awaitable[None]] | None = None,
        resource: str = "",
    ) -> _Raw | None:
        resource = resource or path.split("/")[3]
        with slot or await self._budget.slot(purpose, resource=resource, order=order) as held:
            await held.use(still)
            kind = {"Content-Type": "application/json"} if body is not None else {}
            request = self._http.build_request(
                method,
                path,
                params=params,
                headers={**(headers or {}), **kind, "X-Api-Key": self._key},
                content=None if body is None else json.dumps(body, allow_nan=False),
            )
            code, started = "cancelled", time.monotonic()
            try:
                raw = await self._exchange(request, held)
                code = str(raw.status)
                return None if raw.status in none else self._accept(raw)
            except PlatformError as error:
                code = error.code
                raise
            finally:
                seconds = time.monotonic() - started
                told = RequestAnswered(operation=operation, code=code, seconds=seconds, purpose=purpose.name.lower())
                self._emit(told)

    async def _exchange(self, request: httpx.Request, slot: Slot) -> _Raw:
        patience = Patience(self._total_timeout)
        request.extensions["trace"] = patience.trace
        try:
            with patience.limit():
                answer = await self._http.send(request, stream=True)
                try:
                    body = await _bounded(answer)
                finally:
                    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 1):
                        await answer.aclose()
        except TimeoutError:
            text = f"no answer within {self._total_timeout:g} s"
            raise PlatformUnreachable(text, perhaps_done=True) from None
        except NEVER_SENT as error:
            slot.unsent()
            raise PlatformUnreachable(why(error), perhaps_done=False) from error
        except httpx.DecodingError as error:
            raise AnswerUnreadable(f"an answer in a broken encoding: {why(error)}") from error
        except (httpx.HTTPError, ssl.SSLError) as error:
            # httpx lets an error of TLS pass as it is once the connection stands.
            raise PlatformUnreachable(why(error), perhaps_done=True) from error
        slot.answered()
        return _Raw(answer.status_code, answer.headers, body, request.headers["X-Api-Key"])

    def _accept(self, raw: _Raw) -> _Raw:
        status = raw.status
        if httpx.codes.is_success(status):
            return raw
        said = raw.excerpt()
        text = f"{status} {httpx.codes.get_reason_phrase(status)}".strip() + (f": {said}" if said else "")
        pause = retry_after(raw.headers.get("Retry-After"))
        if status in (401, 403):
            self.reread_key()
            raise KeyRefused(text, status=status)
        if status == 429:
            self._budget.refused(pause)
            raise RateLimited(text, status=status, retry_after=pause)
        if status == 408 or status >= 500:
            raise PlatformFailing(text, status=status, retry_after=pause)
        if httpx.codes.is_redirect(status):
            text = f"{text}; redirects are not followed, because the API key must not leave the configured host"
        raise RequestRefused(text, status=status)


@asynccontextmanager
async def open_http(
    base_url: str,
    *,
    connect_timeout: float,
    total_timeout: float,
    ca_file: Path | None,
    user_agent: str,
    heard: Callable[[httpx.Response], Awaitable[None]] | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """Open the one HTTP client: proxies from the environment, the system's or the given CA, no redirects, no retries.

    `heard` is told of each answer, before its body is read. Raises SettingsError when the
    environment names a proxy that cannot be used.
    """
    async with new_http(
        ca_file=ca_file,
        user_agent=user_agent,
        base_url=base_url,
        # A proxy could not reach our own loopback.
        trust_env=not is_loopback(httpx.URL(base_url).host),
        # The whole has a deadline of its own, which knows of a process that was stopped.
        timeout=httpx.Timeout(None, connect=connect_timeout, pool=total_timeout),
        limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=KEEP_ALIVE),
        event_hooks={"response": [heard]} if heard else None,
    ) as http:
        yield http


def new_http(*, ca_file: Path | None, user_agent: str, **options: Any) -> httpx.AsyncClient:
    """Make an HTTP client with what all of ours have in common; raises SettingsError for an unusable proxy."""
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    try:
        return httpx.AsyncClient(
            verify=context,
            follow_redirects=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": user_agent},
            cookies=no_cookies(),
            **options,
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise SettingsError(f"HTTPS_PROXY, ALL_PROXY: found {error}; allowed is http://HOST:PORT") from error


def no_cookies() -> CookieJar:
    """Give a jar that stays empty: a cookie that httpx cannot send back would break every request after it."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def _bounded(answer: httpx.Response) -> bytes:
    read = bytearray()
    async for chunk in answer.aiter_bytes():
        read += chunk
        if len(read) > LARGEST_ANSWER:
            raise AnswerUnreadable(f"the answer is larger than {LARGEST_ANSWER} bytes")
    return bytes(read)


def _read(model: type[Answer], raw: _Raw) -> Answer:
    kind = raw.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise AnswerUnreadable(f"{raw.status} with {kind} where JSON is expected: {raw.excerpt()}")
    try:
        return model.model_validate_json(raw.body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
    # Python reads what pydantic does not: half a character, as JavaScript leaves of a text cut within an emoji; UTF-16.
    with contextlib.suppress(ValueError, RecursionError):
        return model.model_validate(json.loads(raw.body))
    where = ".".join(str(part) for part in first["loc"]) or "the body"
    raise AnswerUnreadable(f"{raw.status} with an unexpected body: {where}: {first['msg']}")


def _draft(draft: TaskDraft) -> dict[str, Any]:
    return draft.model_dump(by_alias=True, exclude_none=True)


def _segment(identifier: str) -> str:
    # An id of the platform's is hexadecimal; whatever else comes, ".." too, must not change the path.
    return quote(identifier, safe="").replace(".", "%2E")


def why(error: Exception) -> str:
    """Say what went wrong on the way."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def retry_after(value: str | None) -> float | None:
    """Read a Retry-After: seconds, or a date; None where it says nothing that can be read."""
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().isdecimal() else seconds_until(value)
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER)


def seconds_until(date: str) -> float:
    """Read a date as HTTP writes it; gives the seconds from now to then, or raises ValueError."""
    moment = parsedate_to_datetime(date)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()

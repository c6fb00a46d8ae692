"""The public API, verb by verb: what each operation does to the world, and what it answers."""

from __future__ import annotations

from http import HTTPStatus
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from product_live_worker.sandbox.definitions import require_documented
from product_live_worker.sandbox.multipart import file_part
from product_live_worker.sandbox.refusals import MalformedError, NotFoundError, RefusalError, TooManyError
from product_live_worker.sandbox.wire import Answer, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from product_live_worker.sandbox.records import Json
    from product_live_worker.sandbox.wire import Request
    from product_live_worker.sandbox.world import World

PREFIX = "/v1/data_factory/"


class Call(NamedTuple):
    """One request to an operation; `id` is the one in the path."""

    world: World
    request: Request
    id: str
    now: float


class Operation(NamedTuple):
    """One verb of the API, under the name that the control API and the faults use."""

    name: str
    perform: Callable[[Call], Answer]


def route(method: str, path: str) -> tuple[Operation, str | None]:
    """Find the operation, and the id that it is about."""
    parts = path.removeprefix(PREFIX).split("/")
    subject = parts[1] if len(parts) > 1 else None
    if subject:
        parts[1] = "{id}"
    return OPERATIONS.get(f"{method} {'/'.join(parts)}", UNKNOWN), subject


def resource(path: str) -> str:
    """Name the API page that a path belongs to: what the limiter counts with scope "resource"."""
    return path.removeprefix(PREFIX).partition("/")[0]


def refusal_answer(refusal: RefusalError) -> Answer:
    """Say in JSON why a request was refused."""
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(refusal, TooManyError):
        headers = (("retry-after", str(max(1, ceil(refusal.wait)))),)
    reason = HTTPStatus(refusal.status).phrase
    return json_answer(
        refusal.status, {"statusCode": refusal.status, "message": str(refusal), "error": reason}, headers
    )


def _poll(call: Call) -> Answer:
    execution = call.world.poll(call.id, call.now)
    if execution is None:
        raise NotFoundError("nothing to poll")
    return json_answer(200, execution.public())


def _read_execution(call: Call) -> Answer:
    return json_answer(200, call.world.execution(call.id, call.now).public())


def _update_execution(call: Call) -> Answer:
    return json_answer(200, call.world.update(call.id, call.request.json(), call.now).public())


def _list_tasks(call: Call) -> Answer:
    return _page(call.request, [task.public() for task in call.world.tasks.values()])


def _create_task(call: Call) -> Answer:
    fields = call.request.json()
    require_documented(fields)
    return json_answer(201, call.world.create_task(fields, call.now).public())


def _read_task(call: Call) -> Answer:
    return json_answer(200, call.world.task(call.id).public())


def _update_task(call: Call) -> Answer:
    fields = call.request.json()
    if fields.pop("id", None) != call.id:
        raise MalformedError("id is not the id of the path")
    require_documented(fields)
    return json_answer(201, call.world.replace_task(call.id, fields, call.now).public())


def _delete_task(call: Call) -> Answer:
    return json_answer(201, call.world.delete_task(call.id).public())


def _upload_file(call: Call) -> Answer:
    filename, content = file_part(call.request.header(b"content-type"), call.request.body)
    return json_answer(201, call.world.upload(filename, content, call.now).public(_base_url(call.request)))


def _list_files(call: Call) -> Answer:
    return _page(call.request, [file.public(_base_url(call.request)) for file in call.world.files.values()])


def _read_file(call: Call) -> Answer:
    return json_answer(200, call.world.file(call.id).public(_base_url(call.request)))


def _download_file(call: Call) -> Answer:
    return Answer(200, call.world.file(call.id).content, "application/octet-stream")


def _write_log(call: Call) -> Answer:
    call.world.write_log(call.request.header(b"cid"), call.request.json(), call.now)
    return json_answer(201, {"object": "log"})


def _unknown(_: Call) -> Answer:
    raise NotFoundError("no such operation")


def _page(request: Request, records: Sequence[Json]) -> Answer:
    size, page = request.number("size", 10), request.number("page", 0)
    return json_answer(200, {"object": "list", "data": records[page * size : (page + 1) * size]})


def _base_url(request: Request) -> str:
    return f"http://{request.header(b'host')}"


UNKNOWN = Operation("unknown", _unknown)
OPERATIONS = {
    "GET tasks/{id}/poll": Operation("poll", _poll),
    "GET task_executions/{id}": Operation("read_execution", _read_execution),
    "PATCH task_executions/{id}": Operation("update_execution", _update_execution),
    "GET tasks": Operation("list_tasks", _list_tasks),
    "POST tasks": Operation("create_task", _create_task),
    "GET tasks/{id}": Operation("read_task", _read_task),
    "PUT tasks/{id}": Operation("update_task", _update_task),
    "DELETE tasks/{id}": Operation("delete_task", _delete_task),
    "GET files": Operation("list_files", _list_files),
    "POST files": Operation("upload_file", _upload_file),
    "GET files/{id}": Operation("read_file", _read_file),
    "GET files/{id}/content": Operation("download_file", _download_file),
    "POST logs": Operation("write_log", _write_log),
}

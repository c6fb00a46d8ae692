"""The samples of Product-Live's own page on task executions, as they stand there, are asked for and read."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from product_live_worker.model.execution import Outcome, Status
from product_live_worker.product_live.budget import Purpose
from product_live_worker.sandbox.records import Execution
from support.clients import KEY, Desk, desk_on

SEED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "support" / "seeds" / "product_live.json").read_text(encoding="utf-8")
)
READ, UPDATE, UPDATED = (SEED["samples"][name] for name in ("read", "update", "updated"))
ID = UPDATE["id"]
PATH = f"/v1/data_factory/task_executions/{ID}"


async def asked(ask: Callable[[Desk], Awaitable[Any]], answer: str) -> tuple[Any, httpx.Request]:
    """Ask a platform that answers so; gives what comes of it, and the request."""
    sent: list[httpx.Request] = []

    async def answering(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, text=answer, headers={"Content-Type": "application/json"})

    async with desk_on(answering) as desk:
        found = await ask(desk)
    (request,) = sent
    return found, request


def reports(desk: Desk) -> Awaitable[Any]:
    """Report the outcome of the sample."""
    return desk.client.update_execution(ID, Outcome(Status.COMPLETED, UPDATE["output"]))


@pytest.mark.anyio
async def test_an_execution_is_read() -> None:
    """By its id, with the key in its header; the sample's fields are what they say."""
    found, request = await asked(lambda desk: desk.client.read_execution(ID, Purpose.RECOVER), json.dumps(READ))
    assert (request.method, request.url.raw_path.decode(), request.content) == ("GET", PATH, b"")
    assert request.headers["x-api-key"] == KEY
    assert (found.id, found.task_id, found.status) == (READ["id"], READ["taskId"], "IN_PROGRESS")
    assert (found.input, found.output) == (READ["input"], READ["output"])


@pytest.mark.anyio
@pytest.mark.parametrize(("answer", "status"), [(json.dumps(UPDATED), "COMPLETED"), (SEED["as_it_stands"], None)])
async def test_an_execution_is_updated(answer: str, status: str | None) -> None:
    """The sample's request, to the letter; its answer says the status, and as it stands there, being no JSON, none."""
    found, request = await asked(reports, answer)
    assert (request.method, request.url.raw_path.decode()) == ("PATCH", PATH)
    assert json.loads(request.content) == UPDATE
    assert (request.headers["x-api-key"], request.headers["content-type"]) == (KEY, "application/json")
    assert found == status


def test_the_sandbox_answers_with_the_fields_of_the_samples() -> None:
    """All of them, and no other."""
    public = Execution("e1", "t1", "power", "2020", "2020", {}, submitted_at=0.0).public()
    assert public.keys() == READ.keys() == UPDATED.keys()

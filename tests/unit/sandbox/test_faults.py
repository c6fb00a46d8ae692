"""Each fault as its victim sees it, over a real connection."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from product_live_worker.sandbox.refusals import MalformedError

if TYPE_CHECKING:
    from product_live_worker.sandbox import Faults, World
    from product_live_worker.sandbox.records import Execution, Task

pytestmark = pytest.mark.anyio


@pytest.fixture
def execution(world: World, task: Task) -> Execution:
    """Give an execution that waits to be polled: it shows whether a poll had its effect."""
    return world.submit(task.id, {"n": 1}, now=0)


async def poll(client: httpx.AsyncClient, task: Task) -> httpx.Response:
    """Poll once."""
    return await client.get(f"/v1/data_factory/tasks/{task.id}/poll")


async def raw_poll(client: httpx.AsyncClient, world: World, task: Task) -> bytes:
    """Poll over a bare socket; give every byte until the server hangs up."""
    request = (
        f"GET /v1/data_factory/tasks/{task.id}/poll HTTP/1.1\r\nHost: x\r\nX-Api-Key: {world.settings.key}\r\n\r\n"
    )
    received = bytearray()
    async with await anyio.connect_tcp("127.0.0.1", client.base_url.port or 0) as stream:
        await stream.send(request.encode())
        with anyio.fail_after(5):
            try:
                while True:
                    received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return bytes(received)


class TestCuts:
    """The connection really ends."""

    @pytest.mark.parametrize(("kind", "status"), [("cut_before", "SCHEDULED"), ("cut_after", "IN_PROGRESS")])
    async def test_a_cut_connection_gives_not_one_byte(
        self,
        client: httpx.AsyncClient,
        world: World,
        task: Task,
        faults: Faults,
        execution: Execution,
        *,
        kind: str,
        status: str,
    ) -> None:
        """The server hangs up without an answer, before or after the effect."""
        faults.add(kind)
        assert await raw_poll(client, world, task) == b""
        assert execution.status == status
        assert [(arrival.status, arrival.fault) for arrival in world.arrivals] == [(None, kind)]

    @pytest.mark.parametrize("kind", ["cut_before", "cut_after", "truncate"])
    async def test_a_cut_is_no_error_of_the_server(
        self, client: httpx.AsyncClient, task: Task, faults: Faults, caplog: pytest.LogCaptureFixture, *, kind: str
    ) -> None:
        """The server knows that it hung up: its log does not speak of a broken application."""
        faults.add(kind)
        with pytest.raises(httpx.TransportError):
            await poll(client, task)
        assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []

    @pytest.mark.parametrize("kind", ["cut_before", "cut_after"])
    async def test_a_cut_is_a_protocol_error_to_a_client(
        self, client: httpx.AsyncClient, task: Task, faults: Faults, kind: str
    ) -> None:
        """An HTTP client is told that the server is gone, on a connection that served it well before."""
        assert (await poll(client, task)).status_code == 404
        faults.add(kind, count=1)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await poll(client, task)
        assert (await poll(client, task)).status_code == 404

    async def test_a_cut_report_is_lost_with_its_body(
        self, client: httpx.AsyncClient, world: World, faults: Faults, execution: Execution
    ) -> None:
        """A PATCH that is cut off before its effect leaves no trace on the execution."""
        faults.add("cut_before", operations=["update_execution"])
        body = {"id": execution.id, "status": "COMPLETED", "output": {"text": "x" * 500_000}}
        with pytest.raises(httpx.TransportError):
            await client.patch(f"/v1/data_factory/task_executions/{execution.id}", json=body)
        assert world.executions[execution.id].patches == []

    @pytest.mark.parametrize(("parameters", "length"), [({}, None), ({"bytes": 7}, 7), ({"bytes": 10**9}, None)])
    async def test_a_truncated_answer_promises_more_than_it_gives(
        self,
        client: httpx.AsyncClient,
        world: World,
        task: Task,
        faults: Faults,
        execution: Execution,
        *,
        parameters: dict[str, Any],
        length: int | None,
    ) -> None:
        """The head is whole, the body is not, the effect happened."""
        faults.add("truncate", **parameters)
        head, _, body = (await raw_poll(client, world, task)).partition(b"\r\n\r\n")
        promised = int(head.lower().split(b"content-length: ")[1].split()[0])
        assert head.startswith(b"HTTP/1.1 200")
        assert 0 < len(body) < promised
        assert length in (None, len(body))
        assert execution.status == "IN_PROGRESS"

    async def test_a_truncated_answer_is_an_error_to_a_client(
        self, client: httpx.AsyncClient, task: Task, faults: Faults
    ) -> None:
        """An HTTP client notices the missing bytes."""
        faults.add("truncate")
        with pytest.raises(httpx.RemoteProtocolError):
            await poll(client, task)


class TestForgeries:
    """Answers that are not the platform's."""

    @pytest.mark.parametrize(
        ("kind", "parameters", "status", "content_type", "body"),
        [
            ("status", {"status": 503}, 503, "application/json", b"programmed fault"),
            ("garbage", {}, 200, "application/json", b"\xff"),
            ("html", {}, 200, "text/html; charset=utf-8", b"<!doctype html>"),
            ("empty", {}, 200, "application/json", b""),
            ("null", {}, 200, "application/json", b"null"),
            ("redirect", {"location": "http://elsewhere/"}, 307, "application/json", b""),
            ("body", {"body": '{"id":1}', "content_type": "x/y", "status": 418}, 418, "x/y", b'{"id":1}'),
        ],
    )
    @pytest.mark.parametrize("effect", [False, True])
    async def test_a_forged_answer_hides_whether_the_effect_happened(
        self,
        client: httpx.AsyncClient,
        world: World,
        task: Task,
        faults: Faults,
        execution: Execution,
        *,
        kind: str,
        parameters: dict[str, Any],
        status: int,
        content_type: str,
        body: bytes,
        effect: bool,
    ) -> None:
        """The client gets the same answer either way; the world knows."""
        faults.add(kind, effect=effect, **parameters)
        answer = await poll(client, task)
        assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)
        assert body in answer.content
        assert bool(answer.content) == bool(body)
        assert execution.status == ("IN_PROGRESS" if effect else "SCHEDULED")
        assert (world.arrivals[0].status, world.arrivals[0].fault) == (status, kind)

    async def test_a_redirect_says_where_to(self, client: httpx.AsyncClient, task: Task, faults: Faults) -> None:
        """The location and the status are the programmed ones."""
        faults.add("redirect", location="http://elsewhere/", status=302)
        answer = await poll(client, task)
        assert (answer.status_code, answer.headers["location"]) == (302, "http://elsewhere/")

    @pytest.mark.parametrize("retry_after", [None, 7, "Wed, 21 Oct 2065 07:28:00 GMT"])
    async def test_retry_after_is_given_as_programmed(
        self, client: httpx.AsyncClient, task: Task, faults: Faults, retry_after: float | str | None
    ) -> None:
        """Seconds, a date, or nothing."""
        faults.add("status", status=429, **({} if retry_after is None else {"retry_after": retry_after}))
        expected = None if retry_after is None else str(retry_after)
        assert (await poll(client, task)).headers.get("retry-after") == expected


class TestTrueAnswers:
    """The platform's own answer, spoilt on the way."""

    @pytest.mark.parametrize(
        ("kind", "parameters"),
        [
            ("wrong_type", {"content_type": "text/html"}),
            ("slow_body", {"seconds": 0.0001, "bytes": 3}),
            ("delay", {"seconds": 0.001}),
            ("delay", {"seconds": 0.001, "before": "answer"}),
        ],
    )
    async def test_the_answer_is_true_in_the_end(
        self,
        client: httpx.AsyncClient,
        task: Task,
        faults: Faults,
        execution: Execution,
        *,
        kind: str,
        parameters: dict[str, Any],
    ) -> None:
        """Late, in pieces or wrongly labelled, it tells of the execution."""
        faults.add(kind, **parameters)
        answer = await poll(client, task)
        assert answer.json()["id"] == execution.id
        assert answer.headers["content-type"] == parameters.get("content_type", "application/json")

    @pytest.mark.parametrize(("before", "status"), [("effect", "SCHEDULED"), ("answer", "IN_PROGRESS")])
    async def test_a_client_that_does_not_wait_cannot_know_the_effect(
        self, client: httpx.AsyncClient, task: Task, faults: Faults, execution: Execution, *, before: str, status: str
    ) -> None:
        """A delay stands before the effect, or between the effect and the answer."""
        faults.add("delay", seconds=60, before=before)
        with pytest.raises(httpx.ReadTimeout):
            await client.get(f"/v1/data_factory/tasks/{task.id}/poll", timeout=0.2)
        assert execution.status == status

    async def test_a_slow_body_comes_in_pieces(
        self, client: httpx.AsyncClient, task: Task, faults: Faults, execution: Execution
    ) -> None:
        """The head is there at once; who waits for the body waits."""
        faults.add("slow_body", seconds=60)
        async with client.stream("GET", f"/v1/data_factory/tasks/{task.id}/poll", timeout=0.2) as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.ReadTimeout):
                await answer.aread()
        assert execution.status == "IN_PROGRESS"


class TestSelection:
    """Which requests a fault strikes."""

    @staticmethod
    def struck(faults: Faults, operations: list[str]) -> list[str | None]:
        """Give the kind of fault that each request meets."""
        chosen = [faults.choose(operation) for operation in operations]
        return [planned.kind if planned else None for planned in chosen]

    def test_only_the_named_operations(self, faults: Faults) -> None:
        """Other requests are neither struck nor counted."""
        faults.add("empty", operations=["poll", "read_task"], after=1)
        met = self.struck(faults, ["poll", "list_tasks", "read_task", "list_tasks", "poll"])
        assert met == [None, None, "empty", None, "empty"]

    def test_the_nth_for_a_count(self, faults: Faults) -> None:
        """`after` requests are let pass, the next `count` are struck, and that is all."""
        faults.add("empty", after=2, count=2)
        assert self.struck(faults, ["poll"] * 6) == [None, None, "empty", "empty", None, None]

    def test_the_first_that_strikes_takes_the_request(self, faults: Faults) -> None:
        """Faults queue up: the second sees what the first let pass."""
        faults.add("empty", count=1)
        faults.add("null", after=1, count=1)
        assert self.struck(faults, ["poll"] * 4) == ["empty", None, "null", None]

    def test_chance_is_seeded(self, faults: Faults) -> None:
        """A probability strikes as its seed says, independent of other faults."""
        faults.add("null", operations=["read_task"], probability=0.5)
        faults.add("empty", probability=0.3, seed=5)
        dice = Random(5)
        assert self.struck(faults, ["poll"] * 50) == ["empty" if dice.random() < 0.3 else None for _ in range(50)]

    async def test_faults_are_programmed_over_the_control_api(self, client: httpx.AsyncClient, task: Task) -> None:
        """One fault or a list; GET shows how often each matched and struck; DELETE ends them."""
        await client.post("/sandbox/faults", json={"kind": "empty", "operations": ["poll"], "after": 1})
        await client.post("/sandbox/faults", json={"faults": [{"kind": "null"}, {"kind": "cut_after"}]})
        await poll(client, task)
        shown = (await client.get("/sandbox/faults")).json()["faults"]
        assert [(each["kind"], each["matched"], each["struck"]) for each in shown] == [
            ("empty", 1, 0),
            ("null", 1, 1),
            ("cut_after", 0, 0),
        ]
        await client.delete("/sandbox/faults")
        assert (await poll(client, task)).status_code == 404

    @pytest.mark.parametrize(
        "specification",
        [
            {"kind": "earthquake"},
            {"kind": ["empty"]},
            {"kind": "status"},
            {"kind": "status", "status": 204},
            {"kind": "status", "status": 500, "retry_after": "a\nb"},
            {"kind": "cut_before", "effect": True},
            {"kind": "delay", "seconds": -1},
            {"kind": "delay", "seconds": 1, "before": "lunch"},
            {"kind": "empty", "probability": 1.5},
            {"kind": "empty", "operations": "poll"},
            {"kind": "empty", "colour": "blue"},
        ],
        ids=str,
    )
    def test_a_wrong_fault_is_refused_and_none_is_in_force(self, faults: Faults, specification: dict[str, Any]) -> None:
        """A parameter of another kind, a missing or an impossible one: nothing of the list is taken."""
        with pytest.raises(MalformedError):
            faults.extend([{"kind": "empty"}, specification])
        assert faults.inside() == []

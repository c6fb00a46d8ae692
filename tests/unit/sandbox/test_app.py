"""The sandbox over a real connection: the public API, and the control API beside it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import httpx
import pytest

from product_live_worker.sandbox import Settings, World, serve

if TYPE_CHECKING:
    from conftest import Clock
    from product_live_worker.sandbox.records import Task

pytestmark = pytest.mark.anyio

API = "/v1/data_factory"
CUT_FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
DEFINITION: dict[str, Any] = {"key": "new", "description": "d", "retryCount": 0, "inputKeys": [], "outputKeys": []}


async def submit(client: httpx.AsyncClient, **given: Any) -> str:
    """Submit one execution of `power` through the control API; give its id."""
    answer = await client.post("/sandbox/executions", json={"task": "power", "input": given})
    assert answer.status_code == 201
    return str(answer.json()["ids"][0])


async def patch(client: httpx.AsyncClient, execution_id: str, status: str = "COMPLETED") -> httpx.Response:
    """Report an execution."""
    body = {"id": execution_id, "status": status, "output": {"n": 1}}
    return await client.patch(f"{API}/task_executions/{execution_id}", json=body)


class TestExecutions:
    """Claim, read, report."""

    async def test_an_execution_goes_from_submission_to_report(self, client: httpx.AsyncClient, task: Task) -> None:
        """Poll gives it IN_PROGRESS, a PATCH completes it, a read shows that."""
        execution_id = await submit(client, power=2)
        claimed = await client.get(f"{API}/tasks/{task.id}/poll")
        assert claimed.status_code == 200
        assert (claimed.json()["id"], claimed.json()["status"]) == (execution_id, "IN_PROGRESS")
        assert claimed.json()["input"]["power"] == 2
        reported = await patch(client, execution_id)
        assert (reported.status_code, reported.json()["status"]) == (200, "COMPLETED")
        assert (await client.get(f"{API}/task_executions/{execution_id}")).json() == reported.json()

    async def test_nothing_to_poll_is_404(self, client: httpx.AsyncClient, task: Task) -> None:
        """An empty queue and an unknown task answer alike, with JSON."""
        for task_id in (task.id, "f" * 24):
            answer = await client.get(f"{API}/tasks/{task_id}/poll")
            assert (answer.status_code, answer.json()["statusCode"]) == (404, 404)

    async def test_a_hundred_polls_at_once_claim_each_execution_once(
        self, client: httpx.AsyncClient, task: Task
    ) -> None:
        """A poll is atomic."""
        body = {"task": task.id, "inputs": [{"n": n} for n in range(60)]}
        submitted = (await client.post("/sandbox/executions", json=body)).json()["ids"]
        claimed: list[str] = []

        async def poll() -> None:
            answer = await client.get(f"{API}/tasks/{task.id}/poll")
            if answer.status_code == 200:
                claimed.append(answer.json()["id"])

        async with anyio.create_task_group() as polls:
            for _ in range(100):
                polls.start_soon(poll)
        assert sorted(claimed) == sorted(submitted)

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"id":"other"}'],
        ids=lambda body: repr(body[:12]),
    )
    async def test_a_malformed_body_is_400(self, client: httpx.AsyncClient, task: Task, body: bytes) -> None:
        """What is no strict JSON object is refused with JSON, and the server lives on."""
        assert task.key == "power"
        execution_id = await submit(client)
        answer = await client.patch(f"{API}/task_executions/{execution_id}", content=body)
        assert (answer.status_code, answer.json()["error"]) == (400, "Bad Request")

    @pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
    async def test_a_number_that_json_does_not_know_is_400(
        self, client: httpx.AsyncClient, task: Task, number: str
    ) -> None:
        """An output that Python would write but nobody else reads is refused."""
        assert task.key == "power"
        execution_id = await submit(client)
        body = f'{{"id": "{execution_id}", "status": "COMPLETED", "output": {{"n": {number}}}}}'
        answer = await client.patch(f"{API}/task_executions/{execution_id}", content=body)
        assert (answer.status_code, answer.json()["error"]) == (400, "Bad Request")

    async def test_a_payload_over_the_engines_limit_is_413(self, client: httpx.AsyncClient, task: Task) -> None:
        """More than 10 MiB of JSON are not taken."""
        assert task.key == "power"
        execution_id = await submit(client)
        answer = await client.patch(f"{API}/task_executions/{execution_id}", content=b" " * (10 * 1024 * 1024 + 1))
        assert answer.status_code == 413


class TestKey:
    """The API key."""

    @pytest.mark.parametrize("headers", [{"X-Api-Key": "wrong"}, {"X-Api-Key": ""}], ids=str)
    async def test_a_wrong_key_is_401_and_has_no_effect(
        self, client: httpx.AsyncClient, task: Task, headers: dict[str, str]
    ) -> None:
        """What is asked with a wrong key is not done."""
        await submit(client)
        answer = await client.get(f"{API}/tasks/{task.id}/poll", headers=headers)
        assert (answer.status_code, answer.json()["statusCode"]) == (401, 401)
        assert (await client.get(f"{API}/tasks/{task.id}/poll")).status_code == 200

    async def test_the_key_can_be_changed_at_run_time(self, client: httpx.AsyncClient) -> None:
        """A key that was revoked is refused at once, and a new one accepted."""
        await client.put("/sandbox/settings", json={"key": "rotated"})
        assert (await client.get(f"{API}/tasks")).status_code == 401
        assert (await client.get(f"{API}/tasks", headers={"X-Api-Key": "rotated"})).status_code == 200


class TestTasks:
    """Task definitions."""

    async def test_a_definition_lives_from_create_to_delete(self, client: httpx.AsyncClient) -> None:
        """Create, read, replace and delete answer with the whole definition; then it is gone."""
        created = await client.post(f"{API}/tasks", json=DEFINITION)
        assert (created.status_code, len(created.json())) == (201, 17)
        path = f"{API}/tasks/{created.json()['id']}"
        assert (await client.get(path)).json() == created.json()
        replaced = await client.put(path, json={**DEFINITION, "id": created.json()["id"], "retryCount": 2})
        assert (replaced.status_code, replaced.json()["retryCount"]) == (201, 2)
        deleted = await client.delete(path)
        assert (deleted.status_code, deleted.json()) == (201, replaced.json())
        assert (await client.get(path)).status_code == 404

    @pytest.mark.parametrize("name", list(DEFINITION))
    async def test_a_definition_without_a_documented_field_is_400(self, client: httpx.AsyncClient, name: str) -> None:
        """The fields of the documented minimal example are all needed."""
        body = {each: value for each, value in DEFINITION.items() if each != name}
        assert (await client.post(f"{API}/tasks", json=body)).status_code == 400

    async def test_a_replacement_names_the_id_of_its_path(self, client: httpx.AsyncClient, task: Task) -> None:
        """A PUT whose body has no id, or another one, is 400."""
        assert (await client.put(f"{API}/tasks/{task.id}", json=DEFINITION)).status_code == 400

    async def test_the_list_comes_in_pages(self, client: httpx.AsyncClient, world: World) -> None:
        """Ten a page unless asked otherwise, pages from zero, until one is short."""
        keys = [world.create_task({"key": f"task-{n}"}, now=0).key for n in range(12)]

        async def page(query: str) -> list[str]:
            envelope = (await client.get(f"{API}/tasks{query}")).json()
            assert envelope["object"] == "list"
            return [task["key"] for task in envelope["data"]]

        assert await page("") == keys[:10]
        assert await page("?page=1") == keys[10:]
        assert await page("?size=5&page=2") == keys[10:]
        assert await page("?size=5&page=3") == []

    @pytest.mark.parametrize("query", ["size=-1", "size=many", "page=", "page=9999999999"])
    async def test_a_wrong_page_is_400(self, client: httpx.AsyncClient, query: str) -> None:
        """Size and page are whole numbers."""
        assert (await client.get(f"{API}/tasks?{query}")).status_code == 400

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/nothing"), ("POST", "/tasks/x/poll"), ("GET", "/tasks/"), ("DELETE", "/files/x")]
    )
    async def test_what_is_not_in_the_api_is_404(self, client: httpx.AsyncClient, method: str, path: str) -> None:
        """Other paths and methods do not exist."""
        assert (await client.request(method, f"{API}{path}")).status_code == 404


class TestFiles:
    """Uploads and downloads."""

    async def test_a_file_comes_back_as_it_was(self, client: httpx.AsyncClient) -> None:
        """Bytes that look like a form's own delimiters survive, and the url leads to them."""
        content = b"\r\n--boundary\r\n\x00\xff--\r\n\r\n"
        uploaded = await client.post(f"{API}/files", files={"file": ("a b.bin", content)})
        assert uploaded.status_code == 201
        assert (len(uploaded.json()["id"]), uploaded.json()["filename"]) == (64, "a b.bin")
        assert (await client.get(uploaded.json()["url"])).content == content
        assert (await client.get(f"{API}/files/{uploaded.json()['id']}")).json() == uploaded.json()
        assert (await client.get(f"{API}/files")).json()["data"] == [uploaded.json()]

    @pytest.mark.parametrize(
        "form",
        [
            {"files": {"other": ("name", b"bytes")}},
            {"files": {"file": (None, b"a field, as the documented curl sends it")}},
            {"json": {}},
            {"content": CUT_FORM, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        ],
        ids=["another part", "no filename", "json", "cut", "no boundary"],
    )
    async def test_a_form_without_the_file_is_400(self, client: httpx.AsyncClient, form: dict[str, Any]) -> None:
        """The part is called "file" and has a filename."""
        assert (await client.post(f"{API}/files", **form)).status_code == 400

    async def test_a_file_over_the_limit_is_413(self, client: httpx.AsyncClient, world: World) -> None:
        """One byte too many, or far too many."""
        world.configure(Settings(limit=0, max_upload=1000))
        for size, status in ((1000, 201), (1001, 413), (1_000_000, 413)):
            answer = await client.post(f"{API}/files", files={"file": ("a", b"x" * size)})
            assert answer.status_code == status

    async def test_a_body_that_hides_its_length_is_413_too(self, client: httpx.AsyncClient, world: World) -> None:
        """A chunked upload is counted as it comes."""
        world.configure(Settings(limit=0, max_upload=1000))

        async def endless() -> Any:
            for _ in range(100):
                yield b"x" * 1000

        answer = await client.post(f"{API}/files", content=endless())
        assert answer.status_code == 413


class TestLimit:
    """The limiter at the door."""

    async def test_over_the_limit_is_429_with_retry_after(self, clock: Clock) -> None:
        """Retry-After says in whole seconds when the window opens; then it is open."""
        world = World(Settings(limit=2, window=60))
        async with serve(world, clock=clock) as url, httpx.AsyncClient(base_url=url) as client:
            for _ in range(2):
                assert (await client.get(f"{API}/tasks")).status_code == 401
            clock.now += 12.5
            refused = await client.get(f"{API}/tasks")
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "48")
            clock.now += 47.5
            assert (await client.get(f"{API}/tasks")).status_code == 401

    async def test_a_refused_request_has_no_effect(self, client: httpx.AsyncClient, world: World, task: Task) -> None:
        """A poll over the limit claims nothing."""
        execution_id = await submit(client)
        world.configure(Settings(limit=1))
        assert (await client.get(f"{API}/tasks")).status_code == 200
        assert (await client.get(f"{API}/tasks/{task.id}/poll")).status_code == 429
        assert world.executions[execution_id].status == "SCHEDULED"

    async def test_the_control_api_is_not_counted(self, client: httpx.AsyncClient, world: World) -> None:
        """Whatever a test asks the sandbox, the worker's window is not touched."""
        world.configure(Settings(limit=1))
        for _ in range(3):
            assert (await client.get("/sandbox/requests")).status_code == 200
        assert (await client.get(f"{API}/tasks")).status_code == 200


class TestControl:
    """The control API."""

    async def test_an_execution_shows_its_whole_life(self, client: httpx.AsyncClient, task: Task, clock: Clock) -> None:
        """Moments, attempts and each PATCH, in seconds of the sandbox's clock."""
        execution_id = await submit(client, power=2)
        clock.now = 1001.5
        await client.get(f"{API}/tasks/{task.id}/poll")
        clock.now = 1002.5
        await patch(client, execution_id)
        shown = (await client.get(f"/sandbox/executions/{execution_id}")).json()
        correlation_id = shown["input"].pop("eventCorrelationId")
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", correlation_id)
        assert shown == {
            "id": execution_id,
            "taskId": task.id,
            "task": "power",
            "status": "COMPLETED",
            "input": {"power": 2},
            "output": {"n": 1},
            "submittedAt": 1000.0,
            "claimedAt": 1001.5,
            "finishedAt": 1002.5,
            "attempt": 1,
            "retriedFrom": None,
            "patches": [{"at": 1002.5, "status": "COMPLETED", "output": {"n": 1}, "accepted": True}],
        }

    async def test_the_list_of_executions_is_up_to_date(
        self, client: httpx.AsyncClient, world: World, clock: Clock
    ) -> None:
        """A timeout is seen without any request of a worker."""
        slow = world.create_task({"key": "slow", "responseTimeoutSeconds": 5}, now=0)
        world.submit("slow", {}, now=0)
        world.poll(slow.id, now=clock.now)
        clock.now += 5
        shown = (await client.get("/sandbox/executions")).json()["executions"]
        assert [execution["status"] for execution in shown] == ["TIMED_OUT"]

    async def test_every_request_is_noted(self, client: httpx.AsyncClient, world: World, task: Task) -> None:
        """When it came, what it was, about what, and how it was answered; from `since` on."""
        world.configure(Settings(limit=2))
        await client.get(f"{API}/tasks/{task.id}/poll")
        await client.get(f"{API}/tasks")
        await client.get(f"{API}/tasks")
        shown = (await client.get("/sandbox/requests")).json()
        assert [(each["operation"], each["id"], each["status"]) for each in shown["requests"]] == [
            ("poll", task.id, 404),
            ("list_tasks", None, 200),
            ("list_tasks", None, 429),
        ]
        assert shown["requests"][0]["at"] == shown["now"] == 1000.0
        assert (shown["largest_window"], shown["refused"]) == (3, 1)
        assert (await client.get("/sandbox/requests?since=2")).json()["requests"] == shown["requests"][2:]

    async def test_settings_change_one_by_one(self, client: httpx.AsyncClient) -> None:
        """A PUT changes what it names and shows the whole."""
        before = (await client.get("/sandbox/settings")).json()
        changed = await client.put("/sandbox/settings", json={"latency": 0.001, "scope": "resource"})
        assert changed.json() == {**before, "latency": 0.001, "scope": "resource"}
        assert (await client.get(f"{API}/tasks")).status_code == 200

    async def test_a_reset_forgets(self, client: httpx.AsyncClient, task: Task) -> None:
        """Afterwards tasks, executions, requests and faults are gone."""
        await submit(client)
        await client.post("/sandbox/faults", json={"kind": "empty"})
        assert (await client.post("/sandbox/reset")).status_code == 200
        assert (await client.get(f"{API}/tasks/{task.id}")).status_code == 404
        assert (await client.get("/sandbox/executions")).json() == {"executions": []}
        assert (await client.get("/sandbox/faults")).json() == {"faults": []}
        assert len((await client.get("/sandbox/requests")).json()["requests"]) == 1

    async def test_a_task_may_be_made_of_a_key_alone(self, client: httpx.AsyncClient) -> None:
        """The control API takes any documented fields, and asks for none but the key."""
        created = await client.post("/sandbox/tasks", json={"key": "bare", "retryCount": 4})
        assert (created.status_code, created.json()["retryCount"]) == (201, 4)

    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("POST", "/sandbox/tasks", {}, 400),
            ("POST", "/sandbox/executions", {"task": "power"}, 400),
            ("POST", "/sandbox/executions", {"task": "power", "input": {}, "inputs": []}, 400),
            ("POST", "/sandbox/executions", {"task": "power", "inputs": [1]}, 400),
            ("POST", "/sandbox/executions", {"task": "stranger", "input": {}}, 404),
            ("GET", "/sandbox/executions/stranger", None, 404),
            ("GET", "/sandbox/requests?since=-1", None, 400),
            ("PUT", "/sandbox/settings", {"limit": -1}, 400),
            ("PUT", "/sandbox/settings", {"window": 0}, 400),
            ("PUT", "/sandbox/settings", {"scope": ["account"]}, 400),
            ("PUT", "/sandbox/settings", {"colour": "blue"}, 400),
            ("POST", "/sandbox/faults", {"faults": [1]}, 400),
            ("GET", "/elsewhere", None, 404),
        ],
    )
    async def test_a_wrong_order_is_refused(
        self, client: httpx.AsyncClient, task: Task, *, method: str, path: str, body: Any, status: int
    ) -> None:
        """The control API says no, and nothing breaks."""
        assert task.key == "power"
        assert (await client.request(method, path, json=body)).status_code == status


class TestLogs:
    """The Logs API, and what the control API shows of it and of files."""

    LINE: ClassVar[dict[str, str]] = {"message": "m", "emitterName": "power", "eventCorrelationId": "c1"}

    async def test_a_line_is_kept_with_its_severity(self, client: httpx.AsyncClient, world: World) -> None:
        """Info, where it does not say one."""
        for more in ({}, {"severity": "error", "messageType": "MARKDOWN"}):
            answer = await client.post(f"{API}/logs", json=self.LINE | more, headers={"cid": "c1"})
            assert answer.status_code == 201
        shown = (await client.get("/sandbox/log")).json()["log"]
        assert [(line["severity"], line["correlation_id"], line["emitter"]) for line in shown] == [
            ("info", "c1", "power"),
            ("error", "c1", "power"),
        ]
        assert len(world.log) == 2

    @pytest.mark.parametrize(
        "change", [{"message": ""}, {"emitterName": 7}, {"severity": "loud"}, {"messageType": "X"}]
    )
    async def test_a_malformed_line_is_400(
        self, client: httpx.AsyncClient, world: World, change: dict[str, Any]
    ) -> None:
        """Nothing is kept of it."""
        answer = await client.post(f"{API}/logs", json=self.LINE | change, headers={"cid": "c1"})
        assert (answer.status_code, world.log) == (400, [])

    async def test_a_line_without_the_header_is_400(self, client: httpx.AsyncClient) -> None:
        """The correlation id is in the header too."""
        assert (await client.post(f"{API}/logs", json=self.LINE)).status_code == 400

    async def test_the_control_api_shows_files(self, client: httpx.AsyncClient) -> None:
        """By name and size."""
        await client.post(f"{API}/files", files={"file": ("a.txt", b"hello")})
        (file,) = (await client.get("/sandbox/files")).json()["files"]
        assert (file["filename"], file["size"]) == ("a.txt", 5)

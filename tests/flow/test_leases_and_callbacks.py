"""Named leases, callbacks, connections, and what a retry by the platform inherits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.abc
import httpx
import pytest
from pydantic import BaseModel, SecretStr
from sqlalchemy import Engine, event

from product_live_worker import Context, TaskFailed, handler, resource
from product_live_worker.executors.connections import check_connections
from product_live_worker.listener import Guard, listen
from product_live_worker.model.errors import SettingsError
from product_live_worker.model.execution import Execution, State
from product_live_worker.ops.callbacks import create_callback_app
from product_live_worker.parts import task_settings
from product_live_worker.testkit import Sandbox, Trial
from support.contexts import a_context
from support.journals import an_execution, opened, query
from support.workers import RunningWorker, new_world, running_worker, settings_for, until

pytestmark = pytest.mark.anyio

HTTP = {"port": 0, "public_url": "https://hooks.example.com/plw", "callback_port": 0}
INSIDE = {"now": 0, "most": 0}


@asynccontextmanager
async def _inside() -> AsyncIterator[None]:
    INSIDE["now"] += 1
    INSIDE["most"] = max(INSIDE.values())
    await anyio.sleep(0.01)
    INSIDE["now"] -= 1
    yield


@handler("looping", concurrency=5)
async def looping(_: dict, context: Context) -> None:  # type: ignore[type-arg]
    """Hold the lease on the loop."""
    async with context.lease("orders"), _inside():
        pass


@handler("threaded", concurrency=5)
def threaded(_: dict, context: Context) -> None:  # type: ignore[type-arg]
    """Hold the lease in a thread."""
    with context.lease("orders"):
        INSIDE["now"] += 1
        INSIDE["most"] = max(INSIDE.values())
        time.sleep(0.01)
        INSIDE["now"] -= 1


@handler("separate", isolation="process")
def separate(_: dict, context: Context) -> dict[str, Any]:  # type: ignore[type-arg]
    """Hold a lease, and ask for an address and what came there, in a process."""
    with context.lease("orders"):
        callback = context.callback()
        # The address itself is a secret, and an output travels.
        return {"place": callback.url.rpartition("/")[0], "received": callback.received(), "ended": context.ended()}


async def test_one_execution_at_a_time_has_a_lease(tmp_path: Path) -> None:
    """On the loop, in threads and in a process: never two in the block, and all come in."""
    INSIDE.update(now=0, most=0)
    tasks = [looping, threaded, separate]
    async with running_worker(tasks, tmp_path, world=new_world("looping", "threaded", "separate", limit=0),
                              budget={"requests_per_minute": 0}, http=HTTP) as worker:  # fmt: skip
        submitted = [e for task in tasks for e in worker.submit(task.name, *({"n": n} for n in range(3)))]
        await until(lambda: all(execution.status == "COMPLETED" for execution in submitted))
    assert INSIDE == {"now": 0, "most": 1}
    assert query(tmp_path / "worker.db", "SELECT * FROM key_leases") == []
    assert submitted[-1].output["place"] == "https://hooks.example.com/plw/callbacks"
    assert (submitted[-1].output["received"], submitted[-1].output["ended"]) == ([], None)


async def test_on_the_loop_a_lease_is_taken_by_async_with() -> None:
    """A `with` there would wait for nothing: it is refused in words."""
    with pytest.raises(TypeError, match="async with"), a_context().lease("orders"):
        pass


async def test_a_lease_ends_with_its_execution_and_not_with_its_worker(tmp_path: Path) -> None:
    """Held by one that a crash left running, another one waits; once that is over, it passes on by itself."""
    path = tmp_path / "worker.db"
    async with opened(path) as first:
        execution, _ = await first.claim(_execution("e1"))
        await first.start(execution)
        await first.key_leases.take("orders", "e1")
        async with opened(path) as second:
            await second.claim(_execution("e2"))
            with anyio.move_on_after(0.05) as waiting:
                await second.key_leases.take("orders", "e2")
            assert waiting.cancelled_caught
            await first.key_leases.take("orders", "e1")
            await first.close(execution)
            await second.key_leases.take("orders", "e2")
            await first.key_leases.release("orders", "e1")
    assert query(path, "SELECT execution FROM key_leases") == [("e2",)]


@asynccontextmanager
async def _statements(sort: str) -> AsyncIterator[list[str]]:
    """Keep the statements that begin so."""
    kept: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith(sort):
            kept.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield kept
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def test_a_thousand_that_wait_cost_one_look(tmp_path: Path) -> None:
    """Whatever they wait for: while nothing changes, one reads for all of them."""
    async with opened(tmp_path / "worker.db") as journal:
        await journal.claim(_execution("holder"))
        leases, waiters = journal.key_leases, 1000
        leases.look_again = 0.05
        for number in range(10):
            await leases.take(f"key {number}", "holder")
        async with anyio.create_task_group() as waiting:
            async with _statements("SELECT") as before:
                for number in range(waiters):
                    waiting.start_soon(leases.take, f"key {number % 10}", f"e{number}")
                # Each has asked once: whose it is, and whether that one lives.
                await until(lambda: len(before) >= 2 * waiters)
            async with _statements("SELECT") as looks:
                await until(lambda: len(looks) >= 5)
            waiting.cancel_scope.cancel()
    assert all("JOIN executions" in statement for statement in looks)
    assert len(looks) < 10


async def test_a_lease_goes_to_whoever_waits_longest(tmp_path: Path) -> None:
    """On this worker at once, without a look; those that wait for others are not woken."""
    async with opened(tmp_path / "worker.db") as journal:
        leases, got = journal.key_leases, list[str]()
        leases.look_again = 3600.0
        for id in ("a", "b", "c", "d", "other"):
            await journal.claim(_execution(id))
        await leases.take("orders", "a")
        await leases.take("prices", "other")

        async def wait(key: str, id: str) -> None:
            await leases.take(key, id)
            got.append(id)
            await leases.release(key, id)

        async with anyio.create_task_group() as waiting:
            for key, id in (("prices", "other2"), ("orders", "b"), ("orders", "c"), ("orders", "d")):
                async with _statements("SELECT") as asked:
                    waiting.start_soon(wait, key, id)
                    await until(lambda: len(asked) >= 2)
            async with _statements("SELECT") as asked:
                await leases.release("orders", "a")
                await until(lambda: len(got) == 3)
            waiting.cancel_scope.cancel()
    assert (got, len(asked)) == (["b", "c", "d"], 3)


async def test_who_waits_looks_in_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    """The one that looked for all has given up: the next goes on, and has the lease when its execution is over."""
    async with opened(tmp_path / "worker.db") as first, opened(tmp_path / "worker.db") as second:
        execution, _ = await first.claim(_execution("e1"))
        await first.start(execution)
        await first.key_leases.take("orders", "e1")
        leases = second.key_leases
        leases.look_again = 0.02
        holders: list[str | None] = []

        async def impatient() -> None:
            holders.append(await leases.take("orders", "e2", timeout=0.1))
            await first.close(execution)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as waiting:
                async with _statements("SELECT") as asked:
                    waiting.start_soon(impatient)
                    await until(lambda: len(asked) >= 3)
                holders.append(await leases.take("orders", "e3"))
    assert holders == ["e1", None]


@handler("hurried", concurrency=2)
async def hurried(input: dict, context: Context) -> None:  # type: ignore[type-arg]
    """Wait for the lease for as long as the input says."""
    async with context.lease("orders", timeout=input["seconds"]):
        await anyio.sleep_forever()


@handler("hurried_threads", concurrency=2)
def hurried_threads(input: dict, context: Context) -> None:  # type: ignore[type-arg]
    """Do so in a thread."""
    with context.lease("orders", timeout=input["seconds"]):
        pass


async def test_a_lease_is_waited_for_as_long_as_is_said(tmp_path: Path) -> None:
    """Then the handler is told which execution has it, on the loop and in a thread."""
    async with running_worker(
        [hurried, hurried_threads], tmp_path, world=new_world("hurried", "hurried_threads", limit=0),
        budget={"requests_per_minute": 0}, drain={"timeout": 0.1},
    ) as worker:  # fmt: skip
        (holder,) = worker.submit("hurried", {"seconds": 5})
        await until(lambda: query(tmp_path / "worker.db", "SELECT execution FROM key_leases") == [(holder.id,)])
        late = [*worker.submit("hurried", {"seconds": 0.05}), *worker.submit("hurried_threads", {"seconds": 0.05})]
        await until(lambda: all(execution.status == "FAILED" for execution in late))
    for execution in late:
        assert f"the execution {holder.id} has the lease 'orders'" in execution.output["message"]


def _execution(id: str, key: str = "") -> Execution:
    return an_execution(id=id, idempotency_key=key)


# ── Callbacks ──


@handler("calling", on_repeat="adopt", concurrency=4)
async def calling(_: dict, context: Context) -> dict[str, Any]:  # type: ignore[type-arg]
    """Wait to be called back."""
    callback = await context.callback()
    await context.save_checkpoint({"url": callback.url})
    got = await callback.received(timeout=60)
    more = await callback.received(after=got[-1]["number"], timeout=0.01)
    return {"got": [one["body"] for one in got], "more": more}


@asynccontextmanager
async def _called(path: Path) -> AsyncIterator[tuple[RunningWorker, httpx.AsyncClient]]:
    async with running_worker([calling], path, http=HTTP) as worker:
        base = f"http://127.0.0.1:{worker.daemon.callback_port}"
        async with httpx.AsyncClient(trust_env=False, base_url=base) as http:
            yield worker, http


async def _address(worker: RunningWorker, id: str) -> str:
    found: list[str] = []

    def is_there() -> bool:
        row = worker.daemon.journal.get(id)
        found[:] = [row.checkpoint["url"]] if row and row.checkpoint else []
        return bool(found)

    await until(is_there)
    return found[0].removeprefix("https://hooks.example.com/plw")


async def test_a_callback_reaches_its_handler(tmp_path: Path) -> None:
    """What is posted to its address is answered by exactly 200 and given to it once, however often it is sent."""
    async with _called(tmp_path) as (worker, http):
        (execution,) = worker.submit("calling", {})
        address = await _address(worker, execution.id)
        statuses = [(await http.post(address, content=b'{"runId": 5}')).status_code for _ in range(3)]
        await until(lambda: execution.status == "COMPLETED")
        late = await http.post(address, content=b"late")
    assert (statuses, late.status_code) == ([200, 200, 200], 200)
    assert execution.output == {"got": ['{"runId": 5}'], "more": []}
    assert query(tmp_path / "worker.db", "SELECT body FROM callback_bodies") == [('{"runId": 5}',)]


async def test_a_forged_callback_is_nobodys(tmp_path: Path) -> None:
    """Another secret, another number, no number, too much, or another method: refused, and nothing is stored."""
    async with _called(tmp_path) as (worker, http):
        (execution,) = worker.submit("calling", {})
        address = await _address(worker, execution.id)
        number, _, secret = address.rpartition("/")[2].partition("-")
        assert len(secret) >= 22
        forged = [f"{number}-{secret[:-1]}", f"{number}-", f"9-{secret}", secret, "٣-x", f"{'9' * 40}-{secret}"]
        answers = [(await http.post(f"/callbacks/{token}", content=b"x")).status_code for token in forged]
        assert answers == [404] * len(forged)
        assert (await http.post(address, content=b"x" * (64 * 1024 + 1))).status_code == 413
        assert (await http.get(address)).status_code == 405
        assert [(await http.get(path)).status_code for path in ("/livez", "/metrics", "/status", "/")] == [404] * 4
        assert (await worker.get(address)).status_code == 404
        assert query(tmp_path / "worker.db", "SELECT * FROM callback_bodies") == []
        await http.post(address, content=b"right")
        await until(lambda: execution.status == "COMPLETED")
    assert execution.output["got"] == ["right"]


async def test_only_what_is_new_wakes_who_waits(tmp_path: Path) -> None:
    """A forged or repeated body costs no reads of all that wait: they look when something was stored."""
    looks: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("SELECT callback_bodies.number"):
            looks.append(statement)

    async with opened(tmp_path / "worker.db") as journal:
        tokens = []
        for id in ("e1", "e2"):
            await journal.claim(_execution(id, id))
            tokens.append(await journal.callbacks.token(_execution(id, id)))
        await journal.callbacks.store(tokens[1], "known")
        heard: list[Any] = []

        async def wait() -> None:
            heard.extend(await journal.callbacks.received(tokens[0], after=0, timeout=60))

        event.listen(Engine, "before_cursor_execute", note)
        try:
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(wait)
                await until(lambda: len(looks) == 1)
                for token, body in ((f"{tokens[0]}x", "forged"), (tokens[1], "known")) * 5:
                    await journal.callbacks.store(token, body)
                await journal.callbacks.store(tokens[0], "done")
        finally:
            event.remove(Engine, "before_cursor_execute", note)
    assert [one["body"] for one in heard] == ["done"]
    assert len(looks) == 2


HEAD = b"POST /callbacks/1-x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n"
WITHIN = 0.2


@asynccontextmanager
async def _guarded(stored: list[str], *, connections: int = 100) -> AsyncIterator[int]:
    """Serve the outward face alone, with less patience."""

    async def store(_: str, body: str) -> bool:
        stored.append(body)
        return True

    app = create_callback_app(store, within=WITHIN)
    async with listen(app, "127.0.0.1", 0, guard=Guard(within=WITHIN, connections=connections)) as port:
        yield port


async def _all_of(stream: anyio.abc.SocketStream) -> bytes:
    """Read until the other side closes."""
    read = b""
    try:
        while True:
            read += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return read


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (HEAD, b""),
        (HEAD + b"\r\n", b"HTTP/1.1 408"),
        (HEAD + b"\r\n12345", b"HTTP/1.1 408"),
        (HEAD + b"\r\n123456789", b"HTTP/1.1 200"),
    ],
)
async def test_whoever_is_slow_to_call_holds_nothing(sent: bytes, answer: bytes) -> None:
    """Silent, or sending byte by byte: it ends in time, and nothing is stored; after an answer it ends too."""
    stored: list[str] = []
    with anyio.fail_after(WITHIN * 20):
        async with (
            _guarded(stored) as port,
            await anyio.connect_tcp("127.0.0.1", port) as stream,
            anyio.create_task_group() as dripping,
        ):

            async def drip() -> None:
                await stream.send(sent)
                while sent == HEAD:
                    await anyio.sleep(WITHIN / 10)
                    await stream.send(b"x")

            dripping.start_soon(_quietly, drip)
            heard = await _all_of(stream)
            dripping.cancel_scope.cancel()
    assert heard.startswith(answer)
    assert bool(heard) is bool(answer)
    assert stored == ["123456789"] * answer.endswith(b"200")


async def _quietly(do: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(anyio.BrokenResourceError):
        await do()


async def test_only_so_many_may_call_at_once() -> None:
    """One more is closed before it has said a word; when they are gone, others are heard."""
    stored: list[str] = []
    with anyio.fail_after(WITHIN * 20):
        async with _guarded(stored, connections=3) as port, AsyncExitStack() as silent:
            for _ in range(3):
                await silent.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
            began = anyio.current_time()
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                assert await _all_of(stream) == b""
            assert anyio.current_time() - began < WITHIN / 2
            await silent.aclose()
            async with httpx.AsyncClient(trust_env=False) as http:
                while not stored:
                    with contextlib.suppress(httpx.TransportError):
                        await http.post(f"http://127.0.0.1:{port}/callbacks/1-x", content=b"heard")
    assert stored == ["heard"]


async def test_an_address_outlives_a_restart_and_a_retry(tmp_path: Path) -> None:
    """The same for the same work; what arrived while nobody listened for it is there; others have other addresses."""
    path = tmp_path / "worker.db"
    async with opened(path) as journal:
        one, again, other = _execution("e1", "k1"), _execution("e2", "k1"), _execution("e3", "k2")
        for execution in (one, again, other):
            await journal.claim(execution)
        token = await journal.callbacks.token(one)
        assert await journal.callbacks.store(token, "done")
    async with opened(path) as journal:
        assert await journal.callbacks.token(again) == token
        assert await journal.callbacks.token(other) != token
        assert [r["body"] for r in await journal.callbacks.received(token, after=0, timeout=0)] == ["done"]
        for number in range(30):
            assert await journal.callbacks.store(token, f"flood {number}")
        assert len(await journal.callbacks.received(token, after=0, timeout=0)) == 20
        query(path, "DELETE FROM executions WHERE idempotency_key = 'k1'")
        await journal.callbacks.prune()
        assert not await journal.callbacks.store(token, "done")
    assert query(path, "SELECT count(*) FROM callback_bodies") == [(0,)]


async def test_without_a_public_address_there_are_no_callbacks(tmp_path: Path) -> None:
    """The handler is told which settings are missing."""
    async with running_worker([calling], tmp_path) as worker:
        (execution,) = await worker.run("calling", {})
    assert "http.public_url" in execution.output["message"]
    assert worker.daemon.callback_port == 0


async def test_alone_a_handler_has_its_leases_and_no_callbacks() -> None:
    """Outside of a worker nobody competes, and nobody listens."""
    context = a_context()
    async with context.lease("orders"):
        assert await context.ended() is None
    with pytest.raises(RuntimeError, match="only a worker that runs"):
        await context.callback()


# ── What a retry by the platform inherits ──


@handler("remote", on_repeat="adopt", on_crash="rerun", timeout=60, concurrency=3)
async def remote(_: dict, context: Context) -> dict[str, Any]:  # type: ignore[type-arg]
    """Start something once, and wait for it."""
    if context.checkpoint is not None:
        return {"adopted": context.checkpoint["started_by"]}
    await context.save_checkpoint({"started_by": context.execution_id})
    raise TaskFailed("it did not end in time", code="timed_out")


async def test_a_retry_goes_on_where_the_execution_that_it_repeats_has_ended(tmp_path: Path) -> None:
    """With on_repeat="adopt" the last checkpoint of one that FAILED is the retry's own, from its start on."""
    async with running_worker(
        [remote], tmp_path, world=new_world("remote", retryCount=1, retryDelaySeconds=0)
    ) as worker:
        (execution,) = worker.submit("remote", {})
        await until(lambda: any(e.status == "COMPLETED" for e in worker.world.executions.values()))
        (again,) = [e for e in worker.world.executions.values() if e.retried_from == execution.id]
    assert (execution.status, again.output) == ("FAILED", {"adopted": execution.id})


async def test_a_handler_that_is_ended_learns_how_the_platform_has_ended_it(tmp_path: Path) -> None:
    """In its last moments, behind a shield, `ended()` gives the status; at the end of a drain it gives nothing."""
    heard: list[Any] = []

    @handler("long", on_crash="rerun")
    async def long(_: dict, context: Context) -> None:  # type: ignore[type-arg]
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                heard.append(await context.ended())

    for watched in (True, False):
        sections = {"tasks": {"long": {"watch": 0.05}}, "drain": {"timeout": 0.1}, "budget": {"requests_per_minute": 0}}
        world = new_world("long", limit=0)
        async with running_worker([long], tmp_path / str(watched), world=world, **sections) as worker:
            (execution,) = worker.submit("long", {})
            await until(lambda w=worker: any(e.state is State.RUNNING for e in w.daemon.journal.open_executions()))
            if watched:
                execution.status = "CANCELED"
                await until(lambda: bool(heard))
    assert heard == ["CANCELED", None]


# ── Connections ──


class Account(BaseModel):
    """A section of connections."""

    host: str
    token: SecretStr


class Choice(BaseModel):
    """Which connection."""

    connection: str


class Link:
    """An open connection."""

    opened = 0

    def __init__(self, account: Account) -> None:
        Link.opened += 1
        self.account = account

    async def check(self) -> list[str]:
        """Say that all is well, unless the host is bad."""
        if self.account.host == "bad":
            raise ConnectionError("nobody there")
        if self.account.host == "slow":
            await anyio.sleep_forever()
        return [f"{self.account.host} answers"]


@asynccontextmanager
async def _open_link(account: Account) -> AsyncIterator[Link]:
    if account.host == "shut":
        raise OSError("shut")
    yield Link(account)


@handler("linked", settings=Choice)
async def linked(_: dict, link: Annotated[Link, resource(_open_link, connection=Account)]) -> dict[str, str]:  # type: ignore[type-arg]
    """Say which."""
    return {"host": link.account.host}


@handler("apart", settings=Choice, isolation="process")
async def apart(_: dict, link: Annotated[Link, resource(_open_link, connection=Account)]) -> dict[str, str]:  # type: ignore[type-arg]
    """Say which, in a process."""
    return {"host": link.account.host, "token": str(link.account.token)}


def _sections(*tasks: str, **connections: dict[str, Any]) -> dict[str, Any]:
    named = {task: {"handler": task.partition("_")[0], "settings": {"connection": "here"}} for task in tasks}
    return {"tasks": named, "connections": connections}


async def test_all_tasks_that_name_a_connection_share_it(tmp_path: Path) -> None:
    """Opened once, typed as its resource asks, secrets from a variable; in a handler's own process too."""
    Link.opened = 0
    here = {"host": "there", "token": "s3cret"}
    async with running_worker([linked, apart], tmp_path, world=new_world("linked", "linked_too", "apart"),
                              **_sections("linked", "linked_too", "apart", here=here)) as worker:  # fmt: skip
        executions = [worker.submit(task, {})[0] for task in ("linked", "linked_too", "apart")]
        await until(lambda: all(e.status == "COMPLETED" for e in executions))
        assert Link.opened == 1
        tasks = tuple(worker.daemon.catalogue.tasks.values())
    assert [e.output["host"] for e in executions] == ["there"] * 3
    assert set(executions[2].output["token"]) == {"*"}
    assert await check_connections(tasks) == [(True, "connection here: there answers")]


def test_the_test_kit_has_connections(sandbox: Sandbox) -> None:
    """A handler that uses one is tried alone, and in a live worker."""
    here = {"here": {"host": "there", "token": "s3cret"}}
    trial = Trial(settings={"connection": "here"}, connections=here)
    assert trial.run(linked, {}).output == {"host": "there"}
    served = sandbox.serve(linked, settings={"linked": {"connection": "here"}}, connections=here)
    assert served.run(linked, {}).output == {"host": "there"}


@pytest.mark.parametrize(
    ("host", "finding"),
    [("bad", "connection here: nobody there"), ("shut", "connection here: it cannot be opened: shut")],
)
async def test_a_connection_that_cannot_be_used_is_a_finding(tmp_path: Path, host: str, finding: str) -> None:
    """Not an error of the check, and the token is no part of it."""
    here = {"host": host, "token": "s3cret"}
    async with running_worker([linked], tmp_path, **_sections("linked", here=here)) as worker:
        await until(worker.daemon.catalogue.loaded.is_set)
        assert await check_connections(worker.daemon.catalogue.tasks.values()) == [(False, finding)]


@pytest.mark.parametrize(
    ("connections", "problem"),
    [
        ({}, "connections.here: there is no such section; there are: none"),
        ({"here": {"host": "x"}}, "connections.here.token: Field required"),
        ({"here": {"host": "x", "token": "t", "port": 1}}, "connections.here.port: there is no such setting"),
        (
            {"here": {"host": "x", "token": {"env": "NOT_SET"}}},
            "connections.here.token: the environment has no variable",
        ),
    ],
)
def test_a_mistake_in_a_connection_stops_the_start(tmp_path: Path, connections: Any, problem: str) -> None:
    """In a line that names it as its writer knows it."""
    settings = settings_for("http://127.0.0.1:1", tmp_path, **_sections("linked", **connections))
    with pytest.raises(SettingsError) as refused:
        task_settings(settings, {"linked": linked})
    assert str(refused.value).startswith(problem)


def test_a_resource_by_connection_takes_it_and_a_handler_has_one_kind() -> None:
    """Mistakes of the handler's author are told at import."""
    with pytest.raises(TypeError, match="takes the connection's section"):
        resource(lambda: None, connection=Account)
    with pytest.raises(TypeError, match="several kinds"):

        @handler("two")
        async def two(
            _: dict,  # type: ignore[type-arg]
            a: Annotated[Link, resource(_open_link, connection=Account)],
            b: Annotated[Link, resource(_open_link, connection=Choice)],
        ) -> None:
            """Ask for too much."""

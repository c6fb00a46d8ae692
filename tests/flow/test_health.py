"""What the worker says of itself is true, and costs no request."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from product_live_handlers.power import power
from product_live_worker import handler, sandbox
from product_live_worker.telemetry.events import LoopBlocked
from support.workers import new_world, running_worker, until

pytestmark = pytest.mark.anyio


async def test_probes_spend_no_request(tmp_path: Path) -> None:
    """A hundred probes of each kind make no request to the platform."""
    # With so few requests a minute, no poll of the worker's own falls into the test.
    async with running_worker([power], tmp_path, budget={"requests_per_minute": 4}) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        before = len(worker.world.arrivals)
        for path in ("/livez", "/readyz", "/metrics", "/status", "/"):
            for _ in range(20):
                assert (await worker.get(path)).status_code == 200
        assert len(worker.world.arrivals) == before


async def test_full_slots_are_healthy(tmp_path: Path) -> None:
    """A worker whose slots are all taken polls nothing, and is ready."""
    release = anyio.Event()

    @handler("slow")
    async def slow(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        await release.wait()

    async with running_worker([slow], tmp_path) as worker:
        worker.submit("slow", {}, {})
        await until(lambda: worker.daemon.journal.in_hand("slow") == 1)
        answer = await worker.get("/readyz")
        assert (answer.status_code, worker.daemon.poller.overdue()) == (200, 0.0)
        release.set()


async def test_slots_that_a_restart_fills_are_healthy(tmp_path: Path) -> None:
    """What is run again may take all slots before the first poll: nothing can be polled, and nothing is late."""
    release = anyio.Event()

    @handler("slow", on_crash="rerun")
    async def slow(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        await release.wait()

    world = new_world("slow")
    async with sandbox.serve(world) as url:
        async with running_worker([slow], tmp_path, world=world, url=url, drain={"timeout": 0.1}) as worker:
            (execution,) = worker.submit("slow", {})
            await until(lambda: worker.daemon.journal.in_hand("slow") == 1)
        async with running_worker([slow], tmp_path, world=world, url=url) as worker:
            await until(lambda: worker.daemon.catalogue.loaded.is_set() and worker.daemon.journal.in_hand("slow") == 1)
            answer = await worker.get("/readyz")
            assert (answer.status_code, worker.daemon.poller.succeeded_at) == (200, None)
            release.set()
            await until(lambda: execution.status == "COMPLETED")


@pytest.mark.parametrize("started", [False, True], ids=["at the start", "later"])
async def test_a_refused_key_has_a_metric_of_its_own(started: bool, tmp_path: Path) -> None:
    """Who is woken by it has to know that a new key is all that is needed."""
    world = new_world("power")
    # With so few requests between two polls, the refusal of the next one comes at once.
    async with running_worker([power], tmp_path, world=world, budget={"idle_share": 1.0, "window": 1}) as worker:
        if started:
            await until(lambda: worker.daemon.poller.succeeded_at is not None)
        world.configure(replace(world.settings, key="another"))
        await until(worker.daemon.health.key_refused)
        text = (await worker.get("/metrics")).text
    assert "product_live_worker_key_refused 1.0" in text
    assert 'product_live_worker_ready{check="journal"} 1.0' in text


async def test_an_hour_on_the_wall_clock_makes_nothing_late(tmp_path: Path) -> None:
    """What was settled, by the clock of those days, an hour ago is as old as this worker has it in hand."""
    faults = sandbox.Faults()
    faults.add("status", status=503, operations=["update_execution"])
    async with running_worker([power], tmp_path, faults=faults, drain={"timeout": 0.1}) as worker:
        worker.submit("power", {"power": 1})
        await until(lambda: any(execution.attempts for execution in worker.daemon.journal.open_executions()))
        (waiting,) = worker.daemon.journal.open_executions()
        assert waiting.settled_at is not None
        worker.daemon.journal._open[waiting.id] = replace(waiting, settled_at=waiting.settled_at - 3600)  # noqa: SLF001 (as if the clock had jumped)
        (check,) = [one for one in worker.daemon.health.ready() if one.name == "reports"]
        assert check.ok
        now = worker.daemon.journal.now
        worker.daemon.journal.now = lambda: now() + 3600
        (check,) = [one for one in worker.daemon.health.ready() if one.name == "reports"]
        assert (check.ok, "503" in check.reason) == (False, True)


async def test_a_full_window_is_healthy(tmp_path: Path) -> None:
    """A worker that waits for its budget is not late."""
    world = new_world("power", limit=4, window=30)
    async with running_worker(
        [power], tmp_path, world=world, budget={"requests_per_minute": 4, "window": 30}
    ) as worker:
        submitted = worker.submit("power", *({"power": 1} for _ in range(5)))
        # The tasks, a poll and its report: one slot is left, and no poll may have it.
        await until(lambda: any(execution.status == "COMPLETED" for execution in submitted))
        await until(lambda: not worker.daemon.journal.unreported() and worker.daemon.poller.waits_for_budget)
        assert (await worker.get("/readyz")).status_code == 200


async def test_before_the_first_answer_the_worker_is_alive_but_not_ready(tmp_path: Path) -> None:
    """A platform that is away makes it unready, with the reason, and leaves it alive: a restart would not help."""
    async with running_worker([power], tmp_path, api={"base_url": "http://127.0.0.1:9"}) as worker:
        await until(lambda: worker.daemon.catalogue.outage.lasts)
        ready, live = await worker.get("/readyz"), await worker.get("/livez")
    assert (ready.status_code, live.status_code) == (503, 200)
    assert "tasks are not known" in ready.json()["verdict"]


async def test_the_status_has_no_payload(tmp_path: Path) -> None:
    """Neither `/status` nor `/metrics` shows what an execution was given."""
    release = anyio.Event()

    @handler("slow")
    async def slow(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        await release.wait()

    async with running_worker([slow], tmp_path) as worker:
        worker.submit("slow", {"password": "hunter2"})
        await until(lambda: worker.daemon.journal.in_hand("slow") == 1)
        said = (await worker.get("/status")).text + (await worker.get("/metrics")).text
        release.set()
    assert "hunter2" not in said
    assert "sandbox-key" not in said


async def test_metrics_move_with_the_work(tmp_path: Path) -> None:
    """Polls, executions and requests are counted under their fixed names."""
    async with running_worker([power], tmp_path) as worker:
        await worker.run("power", {"power": 1}, {"power": "x"})
        await until(lambda: worker.daemon.journal.unreported() == 0)
        text = (await worker.get("/metrics")).text
    for line in (
        'product_live_worker_polls_total{outcome="hit",task="power"} 2.0',
        'product_live_worker_executions_total{status="COMPLETED",task="power"} 1.0',
        'product_live_worker_executions_total{status="FAILED",task="power"} 1.0',
        'product_live_worker_api_requests_total{code="200",operation="update_execution"} 2.0',
        "product_live_worker_reports_pending 0.0",
        "product_live_worker_budget_limit 50.0",
        "product_live_worker_budget_limit_configured 50.0",
        'product_live_worker_ready{check="polling"} 1.0',
        "product_live_worker_key_refused 0.0",
        'product_live_worker_concurrency{task="power"} 4.0',
        'product_live_worker_failures_total{code="invalid_input",task="power"} 1.0',
    ):
        assert line in text


async def test_a_blocking_call_in_an_async_handler_is_named_while_it_blocks(tmp_path: Path) -> None:
    """Whoever blocks the loop stands in the log with the line of the call, and the worker works on afterwards."""

    @handler("blocking")
    async def blocking(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        while not worker.heard(LoopBlocked):
            time.sleep(0.01)  # noqa: ASYNC251 (the mistake that is to be noticed)

    async with running_worker([blocking], tmp_path) as worker:
        (execution,) = await worker.run("blocking", {})
    assert execution.status == "COMPLETED"
    assert "blocking (" in worker.heard(LoopBlocked)[0].stack

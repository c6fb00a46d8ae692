"""What operators ask for is done by the worker that it concerns, is kept, and holds over restarts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_handlers.power import power
from product_live_worker import Context, handler, sandbox
from product_live_worker.journal.records import open_records
from product_live_worker.model.action import Action, Verb
from product_live_worker.model.errors import IllegalTransition, JournalUnwritable
from product_live_worker.model.handler import Handler
from product_live_worker.telemetry.events import ActionTaken, PauseExpired, ReportPostponed, ReportUndeliverable
from support.journals import allow, query, refuse
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio


def asked(verb: Verb, subject: str = "", **fields: Any) -> Action:
    """Give an action of Anna's."""
    return Action(**{"verb": verb, "subject": subject, "who": "anna", "why": "a test", "at": time.time(), **fields})


def ask_elsewhere(worker: RunningWorker, action: Action) -> None:
    """Ask for it as a command does: in the journal, past the worker."""
    settings = worker.daemon.settings
    with open_records(settings.state.url, platform=settings.api.base_url, to_write=True) as records:
        records.act(action)


def polls(worker: RunningWorker) -> int:
    """Count the polls that have arrived."""
    return sum(arrival.operation == "poll" for arrival in worker.world.arrivals)


async def all_answered(worker: RunningWorker) -> None:
    """Wait until no poll is in the air."""
    await until(lambda: not worker.daemon.poller.in_the_air)


def forever(name: str = "forever", **declared: Any) -> Handler:
    """Make a handler that ends when it is cancelled."""

    @handler(name, concurrency=4, **declared)
    async def endless(input: dict[str, Any], context: Context) -> None:  # noqa: ARG001
        context.log.info("waiting", for_what="the end")
        await anyio.sleep_forever()

    return endless


async def test_a_pause_stops_the_polls_is_healthy_and_ends_by_a_resume(tmp_path: Path) -> None:
    """Asked for in another process, it holds within seconds; readyz says by whom, until when and why, with 200."""
    async with running_worker([power], tmp_path) as worker:
        await worker.run("power", {"power": 1})
        ask_elsewhere(worker, asked("pause", until=time.time() + 3600))
        await until(lambda: bool(worker.daemon.poller.paused()))
        await all_answered(worker)
        before = polls(worker)
        submitted = worker.submit("power", {"power": 2})
        answer = await worker.get("/readyz")
        assert answer.status_code == 200
        assert "paused by anna until 20" in answer.json()["verdict"]
        assert answer.json()["verdict"].endswith("UTC: a test")
        status = (await worker.get("/status")).json()
        assert (status["condition"], status["pauses"][0]["who"]) == ("paused", "anna")
        assert "paused by anna" in status["tasks"][0]["next_poll"]["why"]
        assert (await worker.get("/livez")).status_code == 200
        assert worker.daemon.poller.plan() is None
        assert (polls(worker), submitted[0].status) == (before, "SCHEDULED")
        ask_elsewhere(worker, asked("resume"))
        await until(lambda: submitted[0].status == "COMPLETED")
        status = (await worker.get("/status")).json()
        assert [(one["verb"], one["who"], one["why"]) for one in status["actions"]] == [
            ("resume", "anna", "a test"),
            ("pause", "anna", "a test"),
        ]
        assert [event.verb for event in worker.heard(ActionTaken)] == ["pause", "resume"]


async def test_a_pause_of_one_task_leaves_the_others_alone(tmp_path: Path) -> None:
    """Only that task waits, and says so; the worker is not paused."""
    other = forever("other")
    async with running_worker([power, other], tmp_path, drain={"timeout": 0.1}) as worker:
        await worker.daemon.actions.act(asked("pause", "power"))
        submitted = worker.submit("power", {"power": 2})
        worker.submit("other", {})
        await until(lambda: worker.daemon.journal.in_hand("other") == 1)
        status = (await worker.get("/status")).json()
        tasks = {task["key"]: task for task in status["tasks"]}
        assert (tasks["power"]["paused"]["who"], tasks["other"]["paused"]) == ("anna", None)
        assert (status["condition"], "power is paused by anna" in status["verdict"]) == ("notice", True)
        assert submitted[0].status == "SCHEDULED"
        with pytest.raises(IllegalTransition, match="all tasks together are not paused; paused is power"):
            await worker.daemon.actions.act(asked("resume"))
        await worker.daemon.actions.act(asked("resume", "power"))
        await until(lambda: submitted[0].status == "COMPLETED")


async def test_a_pause_of_the_only_task_is_healthy_from_the_start(tmp_path: Path) -> None:
    """A worker that may poll nothing has not missed its first poll."""
    world = new_world("power")
    async with sandbox.serve(world) as url:
        async with running_worker([power], tmp_path, world=world, url=url) as worker:
            await worker.daemon.actions.act(asked("pause", "power"))
        async with running_worker([power], tmp_path, world=world, url=url) as worker:
            await until(worker.daemon.catalogue.loaded.is_set)
            assert (await worker.get("/readyz")).status_code == 200
            assert worker.daemon.poller.succeeded_at is None


async def test_a_pause_ends_by_itself_when_its_time_has_come(tmp_path: Path) -> None:
    """And says so; nothing that waited is late by it."""
    async with running_worker([power], tmp_path) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        await worker.daemon.actions.act(asked("pause", until=time.time() + 1.5))
        assert worker.daemon.poller.paused()
        submitted = worker.submit("power", {"power": 2})
        await until(lambda: bool(worker.heard(PauseExpired)))
        assert worker.daemon.poller.stalled() < 1
        await until(lambda: submitted[0].status == "COMPLETED")
        with pytest.raises(IllegalTransition, match="paused is nothing"):
            await worker.daemon.actions.act(asked("resume", "power"))


async def test_a_long_pause_makes_nothing_late(tmp_path: Path) -> None:
    """The moment it ends, the worker is alive and ready: what was due an hour ago could not be done."""
    async with running_worker([power], tmp_path) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        await worker.daemon.actions.act(asked("pause"))
        await all_answered(worker)
        poller = worker.daemon.poller
        now = poller._now  # noqa: SLF001 (the clock is an argument of the poller's)
        poller._now = lambda: now() + 3600  # noqa: SLF001 (as if an hour had passed)
        assert (poller.stalled(), poller.overdue()) == (0.0, 0.0)
        seen = []
        resume = poller.resume
        worker.daemon.actions._on_pauses = lambda: (resume(), seen.append((poller.stalled(), poller.overdue())))  # noqa: SLF001 (to look at the very moment)
        await worker.daemon.actions.act(asked("resume"))
        assert seen
        assert max(max(pair) for pair in seen) < 1


@pytest.mark.parametrize("on_crash", ["fail", "rerun"])
async def test_a_cancelled_execution_is_ended_and_reported_failed(tmp_path: Path, on_crash: str) -> None:
    """Its handler is cancelled, and the platform is told who did it and why; it is not run again."""
    async with running_worker([forever(on_crash=on_crash)], tmp_path) as worker:
        (execution,) = worker.submit("forever", {})
        await until(lambda: execution.id in worker.daemon.history.lines)
        status = (await worker.get("/status")).json()
        assert status["in_hand"]["shown"][0]["last_line"]["text"] == "waiting for_what=the end"
        ask_elsewhere(worker, asked("cancel", execution.id))
        await until(lambda: execution.status == "FAILED")
        assert execution.output == {"message": "Cancelled by anna: a test", "code": "cancelled"}
        await until(lambda: worker.daemon.journal.unreported() == 0)
        with pytest.raises(IllegalTransition, match="is REPORTED; it must be CLAIMED or RUNNING"):
            ask_elsewhere(worker, asked("cancel", execution.id))
        status = (await worker.get("/status")).json()
        assert status["failures"]["shown"][0]["message"] == "Cancelled by anna: a test"
        assert len(execution.patches) == 1


async def test_a_cancelled_thread_is_left_behind_and_counted(tmp_path: Path) -> None:
    """The report does not wait for a thread that nothing can end; its slot does."""
    release = anyio.Event()

    @handler("thread")
    def thread(input: dict[str, Any]) -> None:  # noqa: ARG001
        anyio.from_thread.run(release.wait)

    async with running_worker([thread], tmp_path) as worker:
        (execution,) = worker.submit("thread", {})
        await until(lambda: execution.id in {one.id for one in worker.daemon.journal.open_executions()})
        await until(lambda: worker.daemon.journal.get(execution.id).started_at is not None)  # type: ignore[union-attr]
        await worker.daemon.actions.act(asked("cancel", execution.id))
        await until(lambda: execution.status == "FAILED")
        release.set()
        await until(lambda: worker.daemon.threads.stuck() == 0)


async def test_a_redelivered_result_is_sent_at_once(tmp_path: Path) -> None:
    """Not when its row happens to be looked for: within the second in which it was asked for."""
    faults = sandbox.Faults()
    faults.add("status", status=422, operations=["update_execution"])
    async with running_worker([power], tmp_path, faults=faults, state={"lease": 600}) as worker:
        (execution,) = worker.submit("power", {"power": 5})
        await until(lambda: bool(worker.heard(ReportUndeliverable)))
        await worker.daemon.journal.board.survey()
        status = (await worker.get("/status")).json()
        assert (status["condition"], status["undeliverable"]["shown"][0]["id"]) == ("notice", execution.id)
        faults.clear()
        await worker.daemon.actions.act(asked("redeliver", execution.id))
        await until(lambda: execution.status == "COMPLETED")
        await until(lambda: worker.daemon.journal.unreported() == 0)
        assert worker.daemon.journal.undeliverable == 0


async def test_a_discarded_result_leaves_the_running_worker_too(tmp_path: Path) -> None:
    """It is neither sent nor counted as waiting any more, nor is readyz late by it."""
    faults = sandbox.Faults()
    faults.add("status", status=503, operations=["update_execution"])
    async with running_worker([power], tmp_path, faults=faults) as worker:
        (execution,) = worker.submit("power", {"power": 5})
        await until(lambda: bool(worker.heard(ReportPostponed)))
        ask_elsewhere(worker, asked("discard", execution.id))
        await until(lambda: worker.daemon.journal.unreported() == 0)
        faults.clear()
        await worker.run("power", {"power": 6})
        await until(lambda: worker.daemon.journal.unreported() == 0)
        assert execution.status == "IN_PROGRESS"


async def test_a_discard_holds_for_a_report_that_waits_for_its_slot(tmp_path: Path) -> None:
    """Even when the worker has not been told of it yet: the row is read once more right before the report is sent."""
    gate = anyio.Event()

    @handler("gated", concurrency=2)
    async def gated(input: dict[str, Any]) -> None:
        if input["wait"]:
            await gate.wait()

    faults = sandbox.Faults()
    faults.add("status", status=429, retry_after=1, operations=["update_execution"], count=1)
    unlimited = new_world("gated", limit=0)
    async with running_worker([gated], tmp_path, faults=faults, world=unlimited) as worker:
        first, second = worker.submit("gated", {"wait": False}, {"wait": True})
        await until(lambda: bool(worker.heard(ReportPostponed)))
        gate.set()
        await until(lambda: worker.daemon.status.budget.waiting().get("report") == 1)
        # What a discard does to a row, and no more: nobody tells the worker.
        query(tmp_path / "worker.db", "UPDATE executions SET state = 'REPORTED' WHERE id = ?", second.id)
        await until(lambda: second.status == "COMPLETED" or worker.daemon.journal.unreported() == 0)
        assert (first.status, second.status) == ("COMPLETED", "IN_PROGRESS")


async def test_what_cannot_be_written_down_is_not_done(tmp_path: Path) -> None:
    """A pause that a crash would forget is refused, and the worker goes on."""
    async with running_worker([power], tmp_path) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        refuse(tmp_path / "worker.db", "INSERT", "actions")
        with pytest.raises(JournalUnwritable, match="disk is full"):
            await worker.daemon.actions.act(asked("pause"))
        allow(tmp_path / "worker.db", "INSERT", "actions")
        assert worker.daemon.journal.board.pauses() == ()
        assert query(tmp_path / "worker.db", "SELECT count(*) FROM actions") == [(0,)]


async def test_failures_are_remembered_over_a_restart(tmp_path: Path) -> None:
    """With their codes and messages, although their outputs are blank by then."""
    world = new_world("power")
    async with sandbox.serve(world) as url:
        async with running_worker([power], tmp_path, world=world, url=url) as worker:
            await worker.run("power", {"power": "x"})
            await until(lambda: worker.daemon.journal.unreported() == 0)
            before = (await worker.get("/status")).json()["failures"]["shown"]
        async with running_worker([power], tmp_path, world=world, url=url) as worker:
            after = (await worker.get("/status")).json()["failures"]["shown"]
    assert [(one["code"], one["message"]) for one in after] == [(one["code"], one["message"]) for one in before]
    assert after[0]["code"] == "invalid_input"
    assert query(tmp_path / "worker.db", "SELECT output FROM executions") == [(None,)]

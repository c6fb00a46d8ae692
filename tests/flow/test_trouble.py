"""What the platform may answer at its worst, and what becomes of the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from product_live_handlers.power import power
from product_live_worker import sandbox
from product_live_worker.sandbox.records import Execution
from product_live_worker.telemetry.events import (
    ClaimAmbiguous,
    OutageEnded,
    OutageStarted,
    ReportConflicted,
    ReportPostponed,
    ReportUndeliverable,
    TaskPolled,
)
from support.workers import new_world, running_worker, until

pytestmark = pytest.mark.anyio


def faulty(*specifications: dict[str, Any]) -> sandbox.Faults:
    """Put faults in force."""
    faults = sandbox.Faults()
    faults.extend(list(specifications))
    return faults


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 503},
        {"kind": "status", "status": 503, "effect": True},
        {"kind": "status", "status": 429, "retry_after": 1},
        {"kind": "status", "status": 401},
        {"kind": "cut_before"},
        {"kind": "cut_after"},
        {"kind": "html"},
        {"kind": "garbage"},
        {"kind": "empty"},
    ],
)
async def test_a_result_is_sent_again_until_it_is_taken(tmp_path: Path, fault: dict[str, Any]) -> None:
    """Whatever happens to the first report, the execution ends with its own output: never lost, never turned FAILED."""
    faults = faulty({**fault, "operations": ["update_execution"], "count": 1})
    async with running_worker([power], tmp_path, faults=faults) as worker:
        (execution,) = worker.submit("power", {"power": 5})
        await until(lambda: bool(worker.heard(ReportPostponed)))
        await until(lambda: worker.daemon.journal.unreported() == 0)
    assert (execution.status, execution.output) == ("COMPLETED", {"result": 32})
    assert {patch.status for patch in execution.patches} == {"COMPLETED"}


async def test_half_a_character_loses_no_claim(tmp_path: Path) -> None:
    """A text cut within an emoji, as JavaScript leaves it, is read, journalled and run like any other."""
    half = json.loads(r'"\ud83d"')
    async with running_worker([power], tmp_path) as worker:
        given = {"power": 3, "label": half, "eventCorrelationId": f"job {half}"}
        (execution,) = await worker.run("power", given)
    assert (execution.status, execution.output) == ("COMPLETED", {"result": 8})


@pytest.mark.parametrize("status", [400, 404, 409, 410, 413, 422])
async def test_a_result_refused_for_good_is_kept_and_shown(tmp_path: Path, status: int) -> None:
    """An outcome that the platform refuses is read back, found missing there, kept as UNDELIVERABLE and counted."""
    faults = faulty({"kind": "status", "status": status, "operations": ["update_execution"]})
    async with running_worker([power], tmp_path, faults=faults) as worker:
        (execution,) = worker.submit("power", {"power": 5})
        await until(lambda: bool(worker.heard(ReportUndeliverable)))
        shown = (await worker.get("/status")).json()["executions"]
    assert shown["undeliverable"] == 1
    assert execution.status == "IN_PROGRESS"


async def test_a_refusal_of_what_has_arrived_is_no_refusal(tmp_path: Path) -> None:
    """A report whose first answer was lost and whose second is refused counts as reported when the platform has it."""
    faults = faulty(
        {"kind": "cut_after", "operations": ["update_execution"], "count": 1},
        {"kind": "status", "status": 409, "operations": ["update_execution"]},
    )
    async with running_worker([power], tmp_path, faults=faults) as worker:
        (execution,) = worker.submit("power", {"power": 5})
        await until(lambda: execution.status == "COMPLETED" and worker.daemon.journal.unreported() == 0)
    assert worker.heard(ReportUndeliverable) == []


async def test_another_final_status_at_the_platform_is_a_conflict_not_a_retry(tmp_path: Path) -> None:
    """When the platform has ended the execution otherwise, this is said and counted, and the row is closed."""
    world = new_world("power")
    async with running_worker([power], tmp_path, world=world) as worker:
        update = world.update

        def timed_out(execution_id: str, body: dict[str, Any], now: float) -> Execution:
            world.executions[execution_id].status = "TIMED_OUT"
            return update(execution_id, body, now)

        world.update = timed_out  # type: ignore[method-assign]  # the server's side is what is staged
        worker.submit("power", {"power": 5})
        await until(lambda: bool(worker.heard(ReportConflicted)))
        await until(lambda: worker.daemon.journal.unreported() == 0)
    (conflict,) = worker.heard(ReportConflicted)
    assert (conflict.sent, conflict.found) == ("COMPLETED", "TIMED_OUT")


@pytest.mark.parametrize(
    ("fault", "ambiguous"),
    [
        ({"kind": "status", "status": 500}, True),
        ({"kind": "cut_after"}, True),
        ({"kind": "html"}, True),
        ({"kind": "garbage"}, True),
        ({"kind": "truncate"}, True),
        ({"kind": "wrong_type"}, True),
        ({"kind": "body", "body": '{"status": "IN_PROGRESS"}'}, True),
        ({"kind": "status", "status": 429, "retry_after": 1}, False),
        ({"kind": "redirect", "location": "https://elsewhere.example/"}, False),
        ({"kind": "empty"}, None),
        ({"kind": "null"}, None),
    ],
)
async def test_no_answer_to_a_poll_ends_the_polling(
    tmp_path: Path, fault: dict[str, Any], ambiguous: bool | None
) -> None:
    """After any bad answer polling goes on; what may have been claimed unseen is counted; empty means nothing."""
    faults = faulty({**fault, "operations": ["poll"], "count": 1})
    async with running_worker([power], tmp_path, faults=faults) as worker:
        worker.submit("power", {"power": 1}, {"power": 2})
        await until(lambda: any(e.status == "COMPLETED" for e in worker.world.executions.values()))
        first = worker.heard(TaskPolled)[0]
    assert first.outcome == ("empty" if ambiguous is None else "failed")
    assert len(worker.heard(ClaimAmbiguous)) == (1 if ambiguous else 0)


async def test_an_outage_is_told_on_its_edges(tmp_path: Path) -> None:
    """Several failed polls in a row are one outage: told when it begins, and when it ends, with how many there were."""
    faults = faulty({"kind": "status", "status": 503, "operations": ["poll"], "count": 2})
    async with running_worker([power], tmp_path, faults=faults) as worker:
        await until(lambda: bool(worker.heard(OutageEnded)))
    (started,), (ended,) = worker.heard(OutageStarted), worker.heard(OutageEnded)
    assert started.what == ended.what == "polling"
    assert "503" in started.reason
    assert ended.attempts == 2


async def test_a_refused_key_makes_unready_at_once_and_heals_when_it_is_mended(tmp_path: Path) -> None:
    """A 401 shows in readyz with what to do; the key's file is read again, and polling goes on without a restart."""
    key = tmp_path / "key"
    key.write_text("revoked")
    world = new_world("power")
    async with running_worker([power], tmp_path, world=world, api={"key": None, "key_file": key}) as worker:
        await until(lambda: worker.daemon.catalogue.outage.lasts)
        answer = await worker.get("/readyz")
        assert answer.status_code == 503
        assert "401" in answer.json()["verdict"]
        assert any("api.key_file" in check.get("cure", "") for check in answer.json()["checks"])
        key.write_text("sandbox-key\n")
        (execution,) = worker.submit("power", {"power": 3})
        await until(lambda: execution.status == "COMPLETED")
        assert (await worker.get("/readyz")).status_code == 200


async def test_a_key_revoked_while_running_makes_unready_within_one_poll(tmp_path: Path) -> None:
    """The first refused poll is enough for readyz to say that the key is refused."""
    async with running_worker([power], tmp_path) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        worker.world.configure(sandbox.Settings(key="another"))
        await until(lambda: any(p.outcome == "failed" for p in worker.heard(TaskPolled)))
        answer = await worker.get("/readyz")
    assert answer.status_code == 503
    assert "key is refused" in answer.json()["verdict"]


async def test_a_configured_task_that_the_platform_does_not_know_is_named(tmp_path: Path) -> None:
    """Such a task makes the worker unready with its name; the others are served all the same."""
    tasks: dict[str, Any] = {"power": {}, "prower": {"handler": "power"}}
    async with running_worker([power], tmp_path, world=new_world("power"), tasks=tasks) as worker:
        await worker.run("power", {"power": 1})
        answer = await worker.get("/readyz")
    assert answer.status_code == 503
    assert "prower" in answer.json()["verdict"]

"""Which tasks a worker serves, and what it costs the budget to know."""

from __future__ import annotations

from pathlib import Path

import pytest

from product_live_handlers.power import power
from product_live_worker import handler, sandbox
from product_live_worker.flow.catalogue import REFRESH, REFRESH_INCOMPLETE
from product_live_worker.model.errors import PlatformFailing
from support.journals import query
from support.workers import RunningWorker, add_task, new_world, running_worker, until

pytestmark = pytest.mark.anyio


@handler("double")
async def double(input: dict) -> dict:  # type: ignore[type-arg]
    """Give what it is given."""
    return input


def asked(worker: RunningWorker) -> int:
    """Count how often the account's tasks were listed."""
    return [arrival.operation for arrival in worker.world.arrivals].count("list_tasks")


def served(worker: RunningWorker) -> list[str]:
    """Name the tasks that it serves."""
    return sorted(worker.daemon.catalogue.tasks)


async def look(worker: RunningWorker, state: Path, *, later: float) -> None:
    """Let it look at the list, as it does every minute, when that has grown so many seconds older."""
    query(state / "worker.db", "UPDATE task_lists SET asked_at = asked_at - ?", later)
    await worker.daemon.catalogue._refresh()  # noqa: SLF001 (its next turn is a minute away)


async def test_workers_on_one_journal_ask_for_the_list_once(tmp_path: Path) -> None:
    """One that starts beside another serves at once what that one has read; of what is new both learn at once."""
    world = new_world("power", responseTimeoutSeconds=90)
    async with running_worker([power, double], tmp_path, world=world) as first:
        await first.run("power", {"power": 1})
        async with running_worker([power, double], tmp_path, world=first.world, url=first.url) as second:
            await until(second.daemon.catalogue.loaded.is_set)
            assert (served(second), asked(first)) == (["power"], 1)
            assert second.daemon.catalogue.tasks["power"].platform_timeout == 90
            add_task(first.world, "double")
            await look(second, tmp_path, later=REFRESH - 10)
            assert (served(second), asked(first)) == (["power"], 1)
            await look(second, tmp_path, later=10)
            await look(first, tmp_path, later=0)
            assert (served(second), served(first), asked(first)) == (["double", "power"], ["double", "power"], 2)


async def test_a_start_after_an_orderly_end_asks_again(tmp_path: Path) -> None:
    """Whoever has made a task and restarts the worker sees it served."""
    world = new_world("power")
    async with sandbox.serve(world) as url:
        async with running_worker([power, double], tmp_path, world=world, url=url) as worker:
            await until(worker.daemon.catalogue.loaded.is_set)
        add_task(world, "double")
        async with running_worker([power, double], tmp_path, world=world, url=url) as worker:
            await until(worker.daemon.catalogue.loaded.is_set)
            assert (served(worker), asked(worker)) == (["double", "power"], 2)


async def test_who_misses_a_task_is_not_content_with_an_old_list(tmp_path: Path) -> None:
    """A worker whose settings name a task that another has not seen yet asks itself; of a young list it believes it."""
    sections = {"power": {}, "double": {}}
    async with running_worker([power, double], tmp_path, world=new_world("power")) as first:
        await until(first.daemon.catalogue.loaded.is_set)
        add_task(first.world, "double")
        async with running_worker(
            [power, double], tmp_path, world=first.world, url=first.url, tasks=sections
        ) as second:
            await until(second.daemon.catalogue.loaded.is_set)
            assert (served(second), asked(first)) == (["power"], 1)
            await look(second, tmp_path, later=REFRESH_INCOMPLETE)
            assert (served(second), asked(first)) == (["double", "power"], 2)


async def test_who_was_refused_the_list_keeps_the_turn(tmp_path: Path) -> None:
    """What fails is asked again by the same worker, soon, and meanwhile nobody else asks."""
    faults = sandbox.Faults()
    async with running_worker([power, double], tmp_path, world=new_world("power"), faults=faults) as first:
        await until(first.daemon.catalogue.loaded.is_set)
        add_task(first.world, "double")
        async with running_worker([power, double], tmp_path, world=first.world, url=first.url) as second:
            await until(second.daemon.catalogue.loaded.is_set)
            faults.add("status", operations=["list_tasks"], status=500, count=1)
            with pytest.raises(PlatformFailing):
                await look(first, tmp_path, later=REFRESH)
            await look(second, tmp_path, later=0)
            assert (served(second), asked(first)) == (["power"], 2)
            await look(first, tmp_path, later=0)
            await look(second, tmp_path, later=0)
            assert (served(second), asked(first)) == (["double", "power"], 3)


@pytest.mark.parametrize(("refused", "serves"), [("UPDATE", False), ("UPDATE OF tasks", True)])
async def test_a_journal_that_refuses_the_list_ends_nothing(tmp_path: Path, refused: str, serves: bool) -> None:
    """A worker that cannot take its turn tries until it can; one that cannot keep what it has read serves it itself."""
    world, journal = new_world("power"), tmp_path / "worker.db"
    async with sandbox.serve(world) as url:
        async with running_worker([power], tmp_path, world=world, url=url) as worker:
            await until(worker.daemon.catalogue.loaded.is_set)
        query(journal, f"CREATE TRIGGER full BEFORE {refused} ON task_lists BEGIN SELECT RAISE(FAIL, 'full'); END")
        add_task(world, "double")
        async with running_worker([power, double], tmp_path, world=world, url=url) as worker:
            if serves:
                await worker.run("double", {})
            else:
                await until(lambda: worker.daemon.catalogue.outage.lasts)
            query(journal, "DROP TRIGGER full")
            await worker.daemon.catalogue._refresh()  # noqa: SLF001 (its next turn is a minute away)
            await worker.run("double", {})
            assert not worker.ended.is_set()

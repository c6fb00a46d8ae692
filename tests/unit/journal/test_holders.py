"""Who holds a row, and whose rows may be taken: only those of processes that are provably gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from product_live_worker.journal.clock import boot_id, boot_now
from product_live_worker.journal.holders import hold, is_dead, new_holder
from product_live_worker.model.errors import TakenOver
from product_live_worker.model.execution import State
from support.journals import DONE, PLATFORM, an_execution, in_state, opened, query, row

pytestmark = pytest.mark.anyio

OTHER = """
import sys
from pathlib import Path
from product_live_worker.journal.holders import hold
with hold(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@asynccontextmanager
async def other_process(directory: Path, holder: str) -> AsyncIterator[Process]:
    """Let another process hold this name while the block runs."""
    command = [sys.executable, "-c", OTHER, str(directory), holder]
    path = {"PYTHONPATH": ":".join(sys.path)}
    async with await anyio.open_process(command, stdin=subprocess.PIPE, stderr=None, env=path) as process:
        assert process.stdout is not None
        assert await process.stdout.receive() == b"held\n"
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the file of a journal."""
    return tmp_path / "worker.db"


@pytest.fixture
def directory(path: Path) -> Path:
    """Give the folder of its holders' lock files."""
    return path.with_name("worker.db.holders")


def test_no_two_holders_have_the_same_name() -> None:
    """A reborn process, even with the same number on the same machine, is another holder."""
    assert len({new_holder() for _ in range(100)}) == 100


def test_where_no_boot_is_named_no_other_process_shares_the_clock(tmp_path: Path) -> None:
    """A name of this process's own makes every other's slots look like another boot's."""
    assert boot_id(tmp_path / "none") == boot_id(tmp_path / "none") not in ("", boot_id())


def test_the_boot_clock_goes_on() -> None:
    """All processes of a boot read one clock that never goes back."""
    assert boot_id() == boot_id() != ""
    assert 0 < boot_now() <= boot_now()


def test_a_holder_lives_as_long_as_it_holds(tmp_path: Path) -> None:
    """A holder is dead before it began and after it ended, and leaves no file behind."""
    directory = tmp_path / "holders"
    assert is_dead(directory, "h")
    with hold(directory, "h"):
        assert not is_dead(directory, "h")
    assert is_dead(directory, "h")
    assert list(directory.iterdir()) == []


def test_an_abandoned_lock_file_is_a_dead_holder(tmp_path: Path) -> None:
    """A file that nobody locks is left over from a process that was killed; it is cleared away."""
    (tmp_path / "h").touch()
    assert is_dead(tmp_path, "h")
    assert not (tmp_path / "h").exists()


async def test_a_killed_process_is_dead_at_once(tmp_path: Path) -> None:
    """The kernel lets go of a lock however its process ends."""
    directory = tmp_path / "holders"
    async with other_process(directory, "h") as other:
        assert not is_dead(directory, "h")
        other.send_signal(signal.SIGKILL)
        await other.wait()
        assert is_dead(directory, "h")


async def test_rows_of_a_living_process_are_left_alone_and_of_a_dead_one_taken(path: Path, directory: Path) -> None:
    """A worker that starts beside another takes nothing from it; when the other is killed, it takes all at once."""
    async with opened(path) as first:
        await in_state(first, State.RUNNING, an_execution())
    async with other_process(directory, "another") as other:
        query(path, "UPDATE executions SET holder = 'another'")
        query(path, "INSERT INTO holders SELECT 'another', ?, ?, ?", PLATFORM, boot_id(), boot_now() + 3600)
        async with opened(path) as journal:
            assert await journal.take_over() == []
            assert (journal.unreported(), row(path)["holder"]) == (0, "another")
            other.send_signal(signal.SIGKILL)
            await other.wait()
            assert [one.id for one in await journal.take_over()] == ["e1"]
            assert row(path)["holder"] == journal.holder


async def test_two_workers_of_one_process_know_each_other_alive(path: Path) -> None:
    """Rows of a journal that is still open, even in this process, are not taken."""
    async with opened(path) as one, opened(path) as other:
        await one.claim(an_execution())
        assert await other.take_over() == []
        assert row(path)["holder"] == one.holder


async def test_what_a_dead_process_left_is_ordinary_work(path: Path) -> None:
    """Claimed rows go to the dispatcher, settled ones to the reporter, running ones are named, the rest is done."""
    async with opened(path) as first:
        for number, state in enumerate(State):
            await in_state(first, state, an_execution(id=state, claimed_at=float(number)))
    async with opened(path) as journal:
        assert [one.id for one in await journal.take_over()] == ["RUNNING"]
        assert (await journal.next(State.CLAIMED)).id == "CLAIMED"
        settled = await journal.next(State.SETTLED)
        assert (settled.id, settled.outcome is not None) == ("SETTLED", True)
        assert (journal.unreported(), journal.total_in_hand(), journal.reports_waiting()) == (3, 2, 1)
        assert journal.undeliverable == 1
        await journal.close(settled)


async def test_the_oldest_claim_is_taken_over_first(path: Path) -> None:
    """Who has waited longest is served first."""
    async with opened(path) as first:
        for number in (3, 1, 2):
            await in_state(first, State.RUNNING, an_execution(id=f"e{number}", claimed_at=float(number)))
    async with opened(path) as journal:
        assert [one.id for one in await journal.take_over()] == ["e1", "e2", "e3"]
        assert [one.id for one in journal.open_executions()] == ["e1", "e2", "e3"]


async def test_rows_of_another_platform_are_left_alone(path: Path) -> None:
    """A worker touches only rows of its own platform, however dead their holder is."""
    async with opened(path, platform="https://other.example.com") as first:
        await in_state(first, State.RUNNING, an_execution())
        holder = first.holder
    async with opened(path) as journal:
        assert await journal.take_over() == []
    assert row(path)["holder"] == holder


async def test_a_row_is_taken_over_once(path: Path) -> None:
    """A second look finds nothing more to take."""
    async with opened(path) as first:
        await in_state(first, State.RUNNING, an_execution())
    async with opened(path) as journal:
        assert len(await journal.take_over()) == 1
        assert await journal.take_over() == []


async def test_a_holder_whose_lease_has_ended_loses_its_rows_once(path: Path) -> None:
    """A process stopped for longer than its lease is taken over; when it wakes it can settle nothing, and knows why."""
    async with opened(path, lease=0.05) as stopped:
        held = await in_state(stopped, State.RUNNING, an_execution())
        await anyio.sleep(0.1)
        async with opened(path) as other:
            assert [one.id for one in await other.take_over()] == ["e1"]
            with pytest.raises(TakenOver):
                await stopped.settle(held, DONE)
            before = stopped.holder
            assert not await stopped.renew()
            assert (stopped.unreported(), stopped.holder != before) == (0, True)
            assert await stopped.renew()
            assert await stopped.take_over() == []
            assert row(path)["holder"] == other.holder


async def test_a_lease_renewed_in_time_keeps_its_rows(path: Path) -> None:
    """A lease that ended, and that nobody took, goes on as if nothing had been."""
    async with opened(path, lease=0.05) as journal:
        held = await in_state(journal, State.RUNNING, an_execution())
        await anyio.sleep(0.1)
        assert await journal.renew()
        await journal.settle(held, DONE)


async def test_each_death_while_running_is_counted_and_a_checkpoint_forgives(path: Path) -> None:
    """A row that was RUNNING when its holder ended has one crash more; a checkpoint begins the count anew."""
    async with opened(path) as journal:
        await in_state(journal, State.RUNNING, an_execution())
    for crashes in (1, 2):
        async with opened(path) as journal:
            # Taken over, and left undecided: nothing of it was running.
            assert [one.crashes for one in await journal.take_over()] == [crashes]
        async with opened(path) as journal:
            (found,) = await journal.take_over()
            assert found.crashes == crashes
            await journal.start(await journal.rerun(found, crashes=found.crashes))
    async with opened(path) as journal:
        (found,) = await journal.take_over()
        saved = await journal.save_checkpoint(found, {"at": 7})
        assert (saved.crashes, saved.checkpoint) == (0, {"at": 7})
    async with opened(path) as journal:
        assert [(one.crashes, one.checkpoint) for one in await journal.take_over()] == [(1, {"at": 7})]


async def test_what_another_boot_held_is_free(path: Path) -> None:
    """After the machine was started again no lease of before counts, however long it would have lasted."""
    async with opened(path) as journal:
        await in_state(journal, State.RUNNING, an_execution())
        query(path, "UPDATE holders SET boot = 'another', ends_at = 1e12")
        async with opened(path) as other:
            assert [one.id for one in await other.take_over()] == ["e1"]

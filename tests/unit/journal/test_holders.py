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
from product_live_worker.model.execution import State
from support.journals import an_execution, in_state, opened, query, row

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

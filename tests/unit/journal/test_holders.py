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
from support.journals import PLATFORM, an_execution, in_state, opened, query, row

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

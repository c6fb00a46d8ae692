"""What the machine may do to the process: fill its disk, stop it for a while, move its wall clock."""

from __future__ import annotations

import resource
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from product_live_worker.flow.recovery import RESTARTED
from support.chaos import file_in, rows
from support.noted_handlers import notes
from support.plugins import install
from support.processes import Running, running
from support.watched_sandbox import WatchedSandbox, watched_sandbox
from support.workers import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

HOUR = 3600.0
UNBOUNDED = resource.RLIM_INFINITY


@dataclass
class Place:
    """A sandbox, and a directory in which workers are started."""

    sandbox: WatchedSandbox
    directory: Path
    module: str
    tasks: tuple[str, ...]

    def worker(self, **variables: str) -> AbstractAsyncContextManager[Running]:
        """Start the real command on the place's journal."""
        return running(
            "run",
            cwd=self.directory,
            variables={
                "PLW_API__BASE_URL": self.sandbox.url,
                "PLW_API__KEY": "sandbox-key",
                "PLW_BUDGET__REQUESTS_PER_MINUTE": "0",
                "PLW_STATE__LEASE": "1s",
                "PLW_HTTP__PORT": "0",
                "NOTES": str(self.directory / "notes"),
                **install(self.directory / "plugin", self.module, *self.tasks),
                **variables,
            },
        )

    def words(self, execution: str) -> list[str]:
        """Give what the handlers have noted of an execution."""
        return [note.word for note in notes(self.directory / "notes") if note.execution == execution]

    def states(self) -> set[str]:
        """Give the states of all rows."""
        return {row["state"] for row in rows(file_in(self.directory)).values()}


@asynccontextmanager
async def place(directory: Path, module: str, *tasks: str, limit: int = 0, window: float = 60) -> AsyncIterator[Place]:
    """Serve these tasks, and let workers find their handlers in a module of the tests."""
    async with watched_sandbox(*tasks, limit=limit, window=window) as sandbox:
        yield Place(sandbox, directory, module, tasks)


async def test_what_was_reported_from_memory_is_not_run_again(tmp_path: Path) -> None:
    """Killed while its disk was full, after a report that could not be written down: the next start closes the row."""
    async with place(tmp_path, "support.noted_handlers", "again") as here:
        execution = here.sandbox.submit("again", number=5, seconds=1.0)
        async with here.worker() as worker:
            await until(lambda: here.words(execution.id) == ["start"])
            # Every write to a file fails from now on, as on a full disk; the notes' last line is lost with them.
            resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (0, UNBOUNDED))
            await until(lambda: execution.status != "IN_PROGRESS")
            assert here.states() == {"RUNNING"}
            worker.send(signal.SIGKILL)
            await worker.ended()
        told = execution.status, execution.output
        async with here.worker() as worker:
            await until(lambda: here.states() == {"REPORTED"})
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0
    assert here.words(execution.id) == ["start"]
    assert (execution.status, execution.output) == told
    assert len(here.sandbox.patches(execution.id)) == 1


async def test_a_disk_that_refuses_every_write_is_survived(tmp_path: Path) -> None:
    """With every write failing the process lives, claims nothing, and goes on by itself when there is room again."""
    async with place(tmp_path, "support.noted_handlers", "quick") as here, here.worker() as worker:
        first = here.sandbox.submit("quick", number=1)
        await until(lambda: first.status == "COMPLETED" and here.states() == {"REPORTED"})
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (0, UNBOUNDED))
        await until(lambda: "the journal cannot be written" in worker.output)
        second = here.sandbox.submit("quick", number=2)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (UNBOUNDED, UNBOUNDED))
        await until(lambda: second.status == "COMPLETED" and here.states() == {"REPORTED"})
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
    assert (first.output, second.output) == ({"square": 1}, {"square": 4})


async def test_a_worker_that_was_stopped_longer_than_its_lease_lets_go(tmp_path: Path) -> None:
    """SIGSTOP, a second worker takes over, SIGCONT: nothing runs twice against its on_crash, reports agree."""
    async with place(tmp_path, "support.noted_handlers", "slow", "again", "quick") as here:
        here.sandbox.faults.add("status", status=503, operations=["update_execution"])
        settled = here.sandbox.submit("quick", number=3)
        async with here.worker() as stopped:
            await until(lambda: bool(here.sandbox.patches(settled.id)))
            failing = here.sandbox.submit("slow", number=1, seconds=3.0)
            rerun = here.sandbox.submit("again", number=2, seconds=3.0)
            await until(lambda: here.words(failing.id) == here.words(rerun.id) == ["start"])
            stopped.send(signal.SIGSTOP)
            here.sandbox.faults.clear()
            async with here.worker() as second:
                await until(lambda: failing.status == "FAILED" and settled.status == "COMPLETED")
                await until(lambda: here.words(rerun.id) == ["start", "start"])
                stopped.send(signal.SIGCONT)
                await until(lambda: rerun.status == "COMPLETED" and here.states() == {"REPORTED"})
                second.send(signal.SIGTERM)
                assert await second.ended() == 0
            # It lives, under a new name, and works.
            last = here.sandbox.submit("quick", number=4)
            await until(lambda: last.status == "COMPLETED")
            assert stopped.process.returncode is None, stopped.output
            stopped.send(signal.SIGTERM)
            assert await stopped.ended() == 0
    assert failing.output == {"message": RESTARTED, "code": "worker_restarted"}
    assert (rerun.output, settled.output) == ({"triple": 6}, {"square": 9})
    assert here.words(failing.id).count("start") == 1
    for execution in (failing, rerun, settled, last):
        told = {str(patch) for patch in here.sandbox.patches(execution.id)}
        assert told == {str((execution.status, execution.output))}


async def test_a_short_stop_changes_nothing(tmp_path: Path) -> None:
    """A worker that was stopped for longer than its lease, with nobody to take over, goes on with what it has."""
    async with place(tmp_path, "support.noted_handlers", "slow") as here, here.worker() as worker:
        execution = here.sandbox.submit("slow", number=4, seconds=0.5)
        await until(lambda: here.words(execution.id) == ["start"])
        worker.send(signal.SIGSTOP)
        await anyio.sleep(2.0)
        worker.send(signal.SIGCONT)
        await until(lambda: execution.status == "COMPLETED" and here.states() == {"REPORTED"})
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
    assert here.words(execution.id) == ["start", "end"]
    assert execution.output == {"double": 8}


async def test_the_wall_clock_may_jump(tmp_path: Path) -> None:
    """An hour forward, two back, across a kill too: the budget holds, nothing is late, lost, or run twice."""
    limit, window = 12, 3.0
    small = {"PLW_BUDGET__REQUESTS_PER_MINUTE": str(limit), "PLW_BUDGET__WINDOW": f"{window}s"}
    async with place(tmp_path, "support.clock_jumps", "jump", "slow", "quick", limit=limit, window=window) as here:
        sandbox, executions = here.sandbox, []
        async with here.worker(**small) as worker:
            for seconds in (HOUR, -2 * HOUR):
                long = sandbox.submit("slow", number=1, seconds=1.0)
                await until(lambda long=long: here.words(long.id) == ["start"])  # type: ignore[misc]
                jump = sandbox.submit("jump", seconds=seconds)
                await until(lambda jump=jump: jump.status == "COMPLETED")  # type: ignore[misc]
                short = sandbox.submit("quick", number=1)
                await until(lambda short=short, long=long: short.status == long.status == "COMPLETED")  # type: ignore[misc]
                executions += [long, short]
            left = sandbox.submit("slow", number=2, seconds=60.0)
            await until(lambda: here.words(left.id) == ["start"])
            worker.send(signal.SIGKILL)
            await worker.ended()
        # The next process has the true clock again, an hour ahead of what the last one has written down.
        async with here.worker(**small) as worker:
            await until(lambda: left.status == "FAILED")
            last = sandbox.submit("quick", number=3)
            await until(lambda: last.status == "COMPLETED" and here.states() == {"REPORTED"})
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0
    assert left.output["code"] == "worker_restarted"
    assert all(here.words(execution.id) == ["start", "end"] for execution in executions)
    assert sandbox.world.limiter.refused == 0
    assert sandbox.world.limiter.largest_window <= limit

"""The process is killed right before and right after each commit and each request of one execution's way.

The fault points are switched on by the test and hit by the worker itself (commits, see kill_points) or by the server
(requests); no timing decides which is hit.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc
import pytest

from product_live_worker.sandbox.records import Execution
from support.chaos import file_in, rows
from support.chaos_laws import MAX_CRASHES
from support.noted_handlers import STEPS, Note, kind, notes
from support.plugins import install
from support.processes import Running, running
from support.watched_sandbox import Moment, Seen, WatchedSandbox, watched_sandbox
from support.workers import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

AT_ONCE = 3
"""Workers at the same time; each start is a second of a processor's work."""


@dataclass(frozen=True)
class Request:
    """A kill by the server, at a moment of the first request of an operation; dropped: the request has no effect."""

    operation: str
    moment: Moment
    dropped: bool = False

    def __str__(self) -> str:
        return f"{self.operation} {'dropped' if self.dropped else self.moment}"


Point = str | Request
"""Where a worker is killed; a text is a KILL_AT."""


@dataclass
class Case:
    """One execution, and the workers that are killed while they have it, one after the other."""

    task: str
    points: tuple[Point, ...]
    directory: Path
    killed: int = 0
    notes: list[Note] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.task}, killed {' and then '.join(map(str, self.points))}"

    async def play(self) -> list[str]:
        """Kill a worker at each point in turn, let another one end the work, and say what is wrong then."""
        self.directory.mkdir()
        async with watched_sandbox(self.task) as sandbox:
            execution = sandbox.submit(self.task, number=7, seconds=0.0)
            for point in self.points:
                await self.kill(sandbox, point)
            # A second execution tells, without a clock, that the last worker has done all that there was.
            last = sandbox.submit(self.task, number=8, seconds=0.0)
            async with self.worker(sandbox) as worker:
                await until(lambda: last.status == "COMPLETED" and self.is_over(execution))
                worker.send(signal.SIGTERM)
                code = await worker.ended()
            self.notes = notes(self.directory / "notes")
            return [*self.wrong(sandbox, execution), *([] if code == 0 else [f"the last worker ended with {code}"])]

    async def kill(self, sandbox: WatchedSandbox, point: Point) -> None:
        """Start a worker and see it killed at the point."""
        async with self.worker(sandbox, **({"KILL_AT": point} if isinstance(point, str) else {})) as worker:
            if isinstance(point, Request):

                async def at(moment: Moment, seen: Seen) -> bool:
                    if (seen.operation, moment) != (point.operation, point.moment) or self.is_idle(seen):
                        return True
                    worker.send(signal.SIGKILL)
                    await worker.ended()
                    return not point.dropped

                sandbox.at = at
            assert await worker.ended() == -signal.SIGKILL, worker.output
            sandbox.at = None
            self.killed += 1

    def worker(self, sandbox: WatchedSandbox, **variables: str) -> AbstractAsyncContextManager[Running]:
        """Start the real command, with the noted handlers as a plugin."""
        return running(
            "run",
            cwd=self.directory,
            variables={
                "PLW_API__BASE_URL": sandbox.url,
                "PLW_API__KEY": "sandbox-key",
                "PLW_BUDGET__REQUESTS_PER_MINUTE": "0",
                "PLW_HTTP__PORT": "0",
                "NOTES": str(self.directory / "notes"),
                **install(self.directory / "plugin", "support.kill_points", self.task),
                **variables,
            },
        )

    def is_idle(self, seen: Seen) -> bool:
        """Whether a request is a poll that found nothing: its answer decides nothing."""
        return seen.operation == "poll" and seen.claimed is None and seen.status == 404

    def is_over(self, execution: Execution) -> bool:
        """Whether no worker has anything left to do for the execution."""
        known = rows(file_in(self.directory))
        return all(row["state"] == "REPORTED" for row in known.values()) and len(known) > (execution.id in known)

    def wrong(self, sandbox: WatchedSandbox, execution: Execution) -> Iterable[str]:
        """Say which law the end of the execution breaks."""
        own = kind(self.task, 7)
        told = (execution.status, execution.output)
        words = [note.word for note in self.notes if note.execution == execution.id]
        patches = sandbox.patches(execution.id)
        if any(tuple(patch) != told for patch in patches):
            yield f"the reports {patches} are not all {told}"
        if execution.id not in rows(file_in(self.directory)):
            if not self.may_be_lost():
                yield "no worker knows it any more"
            if words or patches:
                yield f"no worker knows it, and yet it was run: {words}"
            return
        restarted = execution.output.get("code") == "worker_restarted" and self.may_be_restarted()
        if told != own.told and not restarted:
            yield f"it ended as {told}; its handler: {words}"
        if words.count("start") > (1 + self.killed if own.reruns else 1):
            yield f"it was run too often: {words}"
        saved = [word for word in words if word.startswith("saved")]
        if saved != sorted(set(saved)) or (self.task == "steps" and len(saved) < STEPS - self.killed):
            yield f"its steps: {words}"

    def may_be_lost(self) -> bool:
        """Whether the claim was never written down."""
        return self.points[0] == "before claim" or str(self.points[0]).startswith("poll")

    def may_be_restarted(self) -> bool:
        """Whether a handler that must not run twice may have been running."""
        return self.task == "slow" and self.points[0] in ("after start", "before settle")


async def sweep(cases: list[Case]) -> dict[str, list[str]]:
    """Play all cases, a few at once; gives what was wrong, by case."""
    turns, wrong = anyio.CapacityLimiter(AT_ONCE), {}

    async def play(case: Case) -> None:
        async with turns:
            found = await case.play()
        if found:
            wrong[str(case)] = found

    async with anyio.create_task_group() as playing:
        for case in cases:
            playing.start_soon(play, case)
    return wrong


def around(*verbs: str) -> list[str]:
    """Give the points right before and right after the commits of these verbs."""
    return [f"{when} {verb}" for verb in verbs for when in ("before", "after")]


async def test_a_kill_around_each_commit(tmp_path: Path) -> None:
    """Killed around the commits of claim, start, checkpoint, settle and close: the right end, and no run too many."""
    ways = {
        "slow": around("claim", "start", "settle", "close"),
        "again": around("start"),
        "steps": around("checkpoint"),
    }
    points = [(task, point) for task, points in ways.items() for point in points]
    cases = [Case(task, (point,), tmp_path / str(number)) for number, (task, point) in enumerate(points)]
    assert await sweep(cases) == {}


async def test_a_kill_around_each_request(tmp_path: Path) -> None:
    """Killed before the request's effect, between effect and answer, and after the answer: the same."""
    points = [
        Request(operation, moment, dropped)
        for operation in ("poll", "update_execution")
        for moment, dropped in (("arrived", True), ("arrived", False), ("done", False), ("answered", False))
    ]
    cases = [Case("slow", (point,), tmp_path / str(number)) for number, point in enumerate(points)]
    assert await sweep(cases) == {}


async def test_a_kill_during_recovery(tmp_path: Path) -> None:
    """A worker killed while it takes over what another has left changes nothing of what becomes of it."""
    ways: dict[str, list[Point]] = {
        "slow": [*around("take over"), Request("read_execution", "answered"), *around("settle")],
        "again": [*around("take over"), Request("read_execution", "arrived"), *around("rerun")],
        "steps": ["after rerun"],
    }
    points = [(task, point) for task, points in ways.items() for point in points]
    first = {"steps": "after checkpoint"}
    cases = [
        Case(task, (first.get(task, "after start"), point), tmp_path / str(number))
        for number, (task, point) in enumerate(points)
    ]
    assert await sweep(cases) == {}


async def test_only_a_crash_of_the_handlers_own_process_counts(tmp_path: Path) -> None:
    """Workers killed again and again before they run what was left behind do not bring it into quarantine."""
    waiting = (Request("read_execution", "arrived"),) * MAX_CRASHES
    assert await sweep([Case("again", ("after start", *waiting), tmp_path / "0")]) == {}


async def test_what_crashes_its_process_each_time_is_not_run_for_ever(tmp_path: Path) -> None:
    """After as many crashes as are allowed it is FAILED `quarantined`; a checkpoint in between starts anew."""
    case = Case("again", ("after start",) * MAX_CRASHES, tmp_path / "0")
    (wrong,) = (await sweep([case])).values()
    assert len(wrong) == 1
    assert "'code': 'quarantined'" in wrong[0]
    assert await sweep([Case("steps", ("after checkpoint",) * MAX_CRASHES, tmp_path / "1")]) == {}


async def test_what_the_platform_cannot_read_is_not_in_the_way_of_the_others(tmp_path: Path) -> None:
    """Of two executions left running one is never answered for: the other is run again all the same."""
    case = Case("again", (), tmp_path / "0")
    case.directory.mkdir()

    def starts(execution: Execution) -> int:
        return sum(note.execution == execution.id for note in notes(case.directory / "notes"))

    async with watched_sandbox(case.task) as sandbox:
        stuck, other = (sandbox.submit(case.task, number=number, seconds=60.0) for number in (1, 2))

        async def at(_: Moment, seen: Seen) -> bool:
            return (seen.operation, seen.id) != ("read_execution", stuck.id)

        async with case.worker(sandbox) as worker:
            await until(lambda: starts(stuck) == starts(other) == 1)
            worker.send(signal.SIGKILL)
            await worker.ended()
        sandbox.at = at
        async with case.worker(sandbox):
            await until(lambda: starts(other) == 2)
    assert starts(stuck) == 1

"""Handlers on a Dask cluster: whatever dies there, the worker gets an Outcome and its slot back; nothing runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from product_live_worker import Context, Handler, handler
from product_live_worker.executors import on_dask
from product_live_worker.executors.frames import HEAD
from product_live_worker.executors.on_dask import OnDask
from product_live_worker.executors.perform import HandlerLost, Work
from product_live_worker.model.execution import Outcome
from support import conforming
from support.contexts import Lines, a_context
from support.dask_clusters import Cluster, Heard, cluster
from support.workers import until

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")]


@dataclass
class Hall:
    """The executor, and all that is heard of it."""

    far: OnDask
    outage: Heard
    ends: list[str] = field(default_factory=list)
    log: Lines = field(default_factory=Lines)
    errors: list[BaseException] = field(default_factory=list)

    async def run(
        self, made: Handler, raw: Any = None, *, seconds: float = 60.0, execution: str = "e1", **context: Any
    ) -> Outcome:
        """Run it."""
        deadline = a_context(seconds=seconds).deadline
        return await self.far.run(
            Work(
                handler=made,
                raw=raw or {},
                context=Context(execution_id=execution, task=made.name, deadline=deadline, log=self.log, **context),
                max_output=1_000_000,
                failed=self.errors.append,
            )
        )

    async def started(self, number: int = 1) -> int:
        """Wait until so many have said that they started; gives the process of the last."""
        await until(lambda: len(self.log.said("started")) == number)
        return int(self.log.said("started")[-1]["process"])


@asynccontextmanager
async def hall(scheduler: str, **options: Any) -> AsyncIterator[Hall]:
    """Keep an executor and its client of the cluster while the block runs."""
    outage, ends = Heard(), list[str]()
    far = OnDask(scheduler, outage, on_end=lambda _, why: ends.append(why), **options)
    far.wanted.set()
    async with anyio.create_task_group() as life:
        life.start_soon(far.serve)
        yield Hall(far, outage, ends)
        life.cancel_scope.cancel()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Keep a cluster of two workers for the tests of this file; one that has died is not missed."""
    with cluster(tmp_path_factory.mktemp("dask"), workers=2, threads=4) as running:
        yield running


def status(process: int) -> tuple[bool, int]:
    """Tell whether a process runs, and is not only waited for; and which is its parent."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return False, 0
    return fields[0] != "Z", int(fields[1])


def client_of(scheduler: str) -> int:
    """Find the process that is our client of this cluster."""
    for path in Path("/proc").iterdir():
        if (
            path.name.isdigit()
            and b"dask_client" in _read(path / "cmdline")
            and status(int(path.name))[1] == os.getpid()
        ):
            return int(path.name)
    raise LookupError(scheduler)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# What dies there


async def test_the_death_of_a_dask_worker_is_a_crash_and_nothing_runs_twice(running: Cluster) -> None:
    """Dask gives a dead worker's tasks to the next one; an execution is not begun there a second time."""
    outcomes: list[Outcome] = []
    async with hall(running.address) as it:

        async def run() -> None:
            outcomes.append(await it.run(conforming.spinning_far))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            process = await it.started()
            victim = next(worker for worker in running.workers if worker.pid == status(process)[1])
            victim.kill()
        (outcome,) = outcomes
        assert outcome.code == "handler_crashed"
        assert outcome.message.startswith("The Dask worker tcp://127.0.0.1:")
        assert outcome.message.endswith(" died, or does not answer, while the handler ran.")
        await until(lambda: not status(process)[0])
        # Whoever is left still serves, and the one that died is not begun there: its slots are free for as many.
        assert (await it.run(conforming.dying_far)).code == ""
        assert len(it.log.said("started")) == 1
        assert it.ends == ["crash"]
        assert it.far.overdue("spinning") == 0


async def test_a_crash_of_the_handlers_process_says_how_it_died(running: Cluster) -> None:
    """As in a process on this machine, and the Dask worker lives on."""
    async with hall(running.address) as it:
        outcome = await it.run(conforming.dying_far, {"signal": "SIGSEGV"})
        assert outcome == Outcome.failed("handler_crashed", "The handler's process died by SIGSEGV.")
        outcome = await it.run(conforming.hungry_far, {"bytes": 600_000_000, "seconds": 3600.0})
        assert "more than its memory_limit of 200 MB, and was stopped" in outcome.message
        assert it.ends == ["crash", "memory"]


async def test_what_is_cancelled_is_killed_on_the_cluster(running: Cluster) -> None:
    """A task of Dask's cannot be stopped; the handler's process can, with all that it has started."""
    async with hall(running.address) as it:
        async with anyio.create_task_group() as group:
            group.start_soon(it.run, conforming.parent_far)
            process = await it.started()
            (said,) = it.log.said("started")
            group.cancel_scope.cancel()
        assert not status(process)[0]
        await until(lambda: not status(said["child"])[0])
        assert (it.ends, it.far.overdue("parent")) == (["cancelled"], 0)


async def test_a_verb_that_the_worker_cannot_do_is_the_handlers_to_hear(running: Cluster) -> None:
    """It comes through in the words that it has on this machine."""

    async def refuse(_: dict[str, Any]) -> None:
        raise OSError("the disk is full")

    async with hall(running.address) as it:
        outcome = await it.run(conforming.async_far, verbs={"save_checkpoint": refuse})
    assert outcome.message == "The handler failed: RuntimeError: OSError: the disk is full"


async def test_a_slow_verb_does_not_end_the_run(running: Cluster) -> None:
    """While the worker takes its time over an answer, as with a disk that refuses, the lease is kept."""
    saved: list[Any] = []

    async def keep(checkpoint: dict[str, Any]) -> None:
        await anyio.sleep(2.5)
        saved.append(checkpoint)

    async with hall(running.address, lease=1.5) as it:
        outcome = await it.run(conforming.async_far, verbs={"save_checkpoint": keep})
    assert (outcome.output["execution"], saved) == ("e1", [{"step": 1}])


async def test_the_death_of_a_dask_worker_is_noticed_while_a_verb_takes_its_time(running: Cluster) -> None:
    """Who waits for the worker's answer is told of it by the scheduler, long before it would look by itself."""
    asked: list[int] = []
    began = 0.0

    async def keep(checkpoint: dict[str, Any]) -> None:
        asked.append(checkpoint["process"])
        await anyio.sleep_forever()

    async def kill() -> None:
        nonlocal began
        await until(lambda: bool(asked))
        began = time.monotonic()
        os.kill(status(asked[0])[1], signal.SIGKILL)

    lease = 60.0
    async with hall(running.address, lease=lease) as it, anyio.create_task_group() as group:
        group.start_soon(kill)
        outcome = await it.run(conforming.lasting_far, verbs={"save_checkpoint": keep})
        assert (outcome.code, time.monotonic() - began < lease / 12) == ("handler_crashed", True)
    running.start_worker(threads=4)


# Who goes away


async def test_a_client_that_is_silent_loses_its_lease(running: Cluster) -> None:
    """A machine that is cut off is never told to stop; so what runs for it ends by itself."""
    async with hall(running.address, lease=1.0) as it, anyio.create_task_group() as group:
        group.start_soon(it.run, conforming.spinning_far)
        process = await it.started()
        client = client_of(running.address)
        os.kill(client, signal.SIGSTOP)
        await until(lambda: not status(process)[0])
        os.kill(client, signal.SIGCONT)
        group.cancel_scope.cancel()


async def test_what_is_run_again_is_first_ended_where_it_still_runs(running: Cluster) -> None:
    """After the death of the client nobody knows what became of a handler; the next run takes its place."""
    lost: list[HandlerLost] = []
    async with hall(running.address) as it:

        async def run() -> None:
            try:
                await it.run(conforming.spinning_far)
            except HandlerLost as error:
                lost.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            first = await it.started()
            os.kill(client_of(running.address), signal.SIGKILL)
            await until(lambda: bool(lost))
        assert lost[0].outcome.code == "handler_crashed"
        await until(lambda: it.outage.reasons[:1] == ["the Dask client has ended"])
        assert status(first)[0]
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            second = await it.started(2)
            assert (status(first)[0], status(second)[0]) == (False, True)
            group.cancel_scope.cancel()
        assert it.ends == ["lost", "cancelled"]


async def test_a_scheduler_that_dies_is_an_outage(tmp_path: Path) -> None:
    """What ran on it is lost, and ends there; what had not begun waits until the scheduler is back, and runs."""
    with cluster(tmp_path) as running:
        async with hall(running.address) as it:
            outcomes: list[Outcome] = []

            async def run(made: Handler, execution: str) -> None:
                try:
                    outcomes.append(await it.run(made, execution=execution))
                except HandlerLost as lost:
                    outcomes.append(lost.outcome)

            async with anyio.create_task_group() as group:
                group.start_soon(run, conforming.spinning_far, "e1")
                process = await it.started()
                assert running.scheduler is not None
                running.scheduler.kill()
                await until(lambda: it.outage.lasts)
                await until(lambda: bool(outcomes))
                assert "is gone" in it.far.trouble()
                assert outcomes.pop().message.startswith("The connection to the Dask scheduler was lost while")
                await until(lambda: not status(process)[0])
                group.start_soon(run, conforming.dying_far, "e2")
                await anyio.to_thread.run_sync(running.scheduler.wait)
                await anyio.to_thread.run_sync(running.start_scheduler)
                await anyio.to_thread.run_sync(running.start_worker)
            assert [outcome.code for outcome in outcomes] == [""]
            assert (it.outage.lasts, it.far.trouble()) == (False, "")


async def test_a_dask_worker_that_stands_still_is_given_up(running: Cluster) -> None:
    """After its run's lease, in which nothing was heard of it; when it goes on, it ends the run by itself."""
    async with hall(running.address, lease=1.0) as it:
        outcomes: list[Outcome] = []

        async def run() -> None:
            outcomes.append(await it.run(conforming.spinning_far))

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            process = await it.started()
            frozen = status(process)[1]
            os.kill(frozen, signal.SIGSTOP)
            try:
                await until(lambda: bool(outcomes))
            finally:
                os.kill(frozen, signal.SIGCONT)
        assert outcomes[0].code == "handler_crashed"
        assert outcomes[0].message.endswith(" died, or does not answer, while the handler ran.")
        await until(lambda: not status(process)[0])
        assert (await it.run(conforming.dying_far)).code == ""


async def test_a_scheduler_that_stands_still_is_an_outage(tmp_path: Path) -> None:
    """What runs is lost once nothing is heard of it for its lease; when it goes on, so do the handlers."""
    with cluster(tmp_path) as running:
        async with hall(running.address, lease=1.0) as it:
            lost: list[HandlerLost] = []

            async def run() -> None:
                try:
                    await it.run(conforming.spinning_far)
                except HandlerLost as error:
                    lost.append(error)

            async with anyio.create_task_group() as group:
                group.start_soon(run)
                process = await it.started()
                assert running.scheduler is not None
                running.scheduler.send_signal(signal.SIGSTOP)
                await until(lambda: bool(lost))
                assert "does not answer" in it.far.trouble()
                running.scheduler.send_signal(signal.SIGCONT)
            await until(lambda: not status(process)[0])
            assert (await it.run(conforming.dying_far)).code == ""


async def test_what_is_not_begun_in_time_says_why(tmp_path: Path) -> None:
    """Without a scheduler, without a free slot, or where the worker is not installed on the cluster."""
    async with hall("tcp://127.0.0.1:9") as it:
        outcome = await it.run(conforming.dying_far, seconds=3.0)
    assert outcome.code == "timeout"
    assert outcome.message.startswith("The handler was not started within its time: the Dask scheduler ")
    with cluster(tmp_path, workers=0) as running:
        async with hall(running.address) as it:
            await until(lambda: not it.far.trouble())
            outcome = await it.run(conforming.dying_far, seconds=1.5)
            why = "The handler was not started within its time: no Dask worker had a slot for it."
            assert outcome == Outcome.failed("timeout", why)
            (tmp_path / "product_live_worker.py").write_text("raise ImportError('not for this Python')\n")
            worker = await anyio.to_thread.run_sync(lambda: running.start_worker(path=tmp_path))
            outcome = await it.run(conforming.dying_far)
            assert outcome.code == "handler_error"
            assert outcome.message == "The Dask cluster cannot run the handler: ImportError: not for this Python"
            assert worker.poll() is None
        assert it.far.overdue("dying") == 0


# What never harms the worker


@pytest.mark.parametrize("frame", [HEAD.pack(2**31), HEAD.pack(4) + b"null", HEAD.pack(14) + b'{"do": "sing"}'])
async def test_a_client_that_makes_no_sense_is_an_outage(
    frame: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It unpickles what a cluster says, so it may have been taken over; the worker reads data, and starts another."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nimport os, time\nos.write(1, {frame!r})\ntime.sleep(3600)\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    async with hall("tcp://127.0.0.1:9") as it:
        await until(lambda: len(it.outage.reasons) > 1)
        assert set(it.outage.reasons) == {"the Dask client has ended"}


async def test_a_cluster_that_makes_no_sense_fails_its_execution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of one execution harms that one alone."""
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\n"
        f"import sys, time; sys.path[:] = {sys.path!r}\n"
        "import os, pickle; from product_live_worker.executors.frames import HEAD, to_json\n"
        "def read(): return pickle.loads(sys.stdin.buffer.read(HEAD.unpack(sys.stdin.buffer.read(4))[0]))\n"
        "def say(**said): os.write(1, to_json(said))\n"
        "read(); say(do='up', connection=1); one = read()['id']\n"
        "say(id='unknown', do='end'); say(id=one, do='end', status='DONE', output=[])\n"
        "time.sleep(3600)\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    async with hall("tcp://127.0.0.1:9") as it:
        outcome = await it.run(conforming.dying_far)
    assert outcome == Outcome.failed("handler_crashed", "The cluster said what makes no sense (ValueError).")


async def test_a_client_that_cannot_be_started_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has no more processes to give is tried again."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    async with hall("tcp://127.0.0.1:9") as it:
        await until(lambda: len(it.outage.reasons) > 1)
        assert it.far.trouble().startswith("the Dask client cannot be started: ")


async def test_what_cannot_be_handed_over_is_told(running: Cluster) -> None:
    """Settings that cannot be pickled are FAILED with the reason."""
    async with hall(running.address) as it:
        outcome = await it.run(conforming.dying_far, settings={"open": lambda: None})
        assert (outcome.code, len(it.errors)) == ("handler_error", 1)


def test_the_worker_never_loads_dask() -> None:
    """Neither its start nor its commands, whether or not the extra is installed."""
    code = "import sys, product_live_worker.cli, product_live_worker.daemon; sys.exit('distributed' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0  # noqa: S603 (our own)


def test_what_is_missing_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """First the package, then the setting."""
    assert OnDask(None, Heard()).trouble() == "execution.dask_scheduler is not set: give it as tcp://HOST:PORT"
    monkeypatch.setattr(on_dask, "LIBRARY", "no_such_library")
    assert OnDask(None, Heard()).trouble() == "Dask is not installed: pip install 'product-live-worker[dask]'"


def test_the_decorator_refuses_what_a_cluster_cannot_do() -> None:
    """What is inside of a function cannot be imported there."""
    with pytest.raises(TypeError, match="with isolation='dask' the function stands at the top of a module"):

        @handler("x", isolation="dask")
        def local(_: dict) -> None:  # type: ignore[type-arg]
            """Stand inside of a function."""

"""Handlers in processes of their own: whatever happens there, the worker gets an Outcome and its slot back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_worker import Context, Handler, handler
from product_live_worker.executors.child import find_handler
from product_live_worker.executors.frames import HEAD
from product_live_worker.executors.in_process import InProcess
from product_live_worker.executors.perform import Work
from product_live_worker.model.execution import Outcome
from support import conforming
from support.contexts import Lines, a_context, some_work
from support.workers import until

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")]


@dataclass
class Hall:
    """The executor, and all that is heard of it."""

    ends: list[str] = field(default_factory=list)
    log: Lines = field(default_factory=Lines)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.processes = InProcess(on_end=lambda _, why: self.ends.append(why))

    def work(self, made: Handler, raw: Any = None, **context: Any) -> Work:
        """Give an execution."""
        return Work(
            handler=made,
            raw=raw or {},
            context=Context(execution_id="e1", task=made.name, deadline=a_context().deadline, log=self.log, **context),
            max_output=1_000_000,
            failed=self.errors.append,
        )

    async def run(self, made: Handler, raw: Any = None, **context: Any) -> Outcome:
        """Run it."""
        return await self.processes.run(self.work(made, raw, **context))


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    """Give an executor without any process yet."""
    hall = Hall()
    yield hall
    await hall.processes.close()
    assert hall.processes.count() == 0


def is_there(process: int) -> bool:
    """Whether a process runs, and is not only waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"signal": "SIGSEGV"}, "The handler's process died by SIGSEGV."),
        ({"signal": "SIGABRT"}, "The handler's process died by SIGABRT."),
        ({"signal": "SIGKILL"}, "The handler's process died by SIGKILL; the system may have run out of memory."),
        ({"exit": 3}, "The handler's process ended with exit code 3 before it gave a result."),
        ({"exit": 0}, "The handler's process ended with exit code 0 before it gave a result."),
        ({"deaf": True}, "The handler's process closed its connection to the worker and was stopped."),
    ],
)
async def test_a_crash_is_a_failure_that_says_how_it_died(hall: Hall, how: dict[str, Any], said: str) -> None:
    """A crash is FAILED with code `handler_crashed`, names signal or exit code, and the next execution runs."""
    assert await hall.run(conforming.dying, how) == Outcome.failed("handler_crashed", said)
    assert (hall.ends, hall.processes.count(), hall.processes.overdue("dying")) == (["crash"], 0, 0)
    assert (await hall.run(conforming.dying)).code == ""


async def test_a_process_is_kept_for_the_next_execution(hall: Hall) -> None:
    """Starting one is dear, so it serves again; two at once are two."""
    first, again = [(await hall.run(conforming.dying)).output for _ in range(2)]
    assert (first, hall.processes.count()) == (again, 1)

    async with anyio.create_task_group() as group:
        group.start_soon(hall.run, conforming.dying)
        group.start_soon(hall.run, conforming.dying)
    assert hall.processes.count() == 2


async def test_a_process_that_died_while_it_waited_costs_no_execution(hall: Hall) -> None:
    """What never began is begun in another process, whether or not the death was seen before."""
    for _ in range(2):
        process = (await hall.run(conforming.dying)).output["process"]
        os.kill(process, signal.SIGKILL)
        assert (await hall.run(conforming.dying)).output["process"] != process
    assert hall.ends == []


async def test_too_much_memory_ends_the_process(hall: Hall) -> None:
    """Above its memory_limit a handler is stopped, FAILED, and told how much it had."""
    outcome = await hall.run(conforming.hungry, {"bytes": 600_000_000, "seconds": 3600.0})
    assert outcome.code == "handler_crashed"
    assert "more than its memory_limit of 200 MB, and was stopped" in outcome.message
    assert (hall.ends, hall.processes.count()) == (["memory"], 0)


async def test_what_an_execution_leaves_in_memory_is_not_held_against_the_next(hall: Hall) -> None:
    """A process that is half full already is not kept; a lean one is."""
    lean = [(await hall.run(conforming.hungry, {"bytes": 1})).output["process"] for _ in range(2)]
    full = (await hall.run(conforming.hungry, {"bytes": 80_000_000, "keep": True})).output["process"]
    fresh = (await hall.run(conforming.hungry, {"bytes": 1})).output["process"]
    assert lean[0] == lean[1] == full != fresh
    assert hall.ends == []


async def test_an_endless_loop_in_c_is_killed_at_its_deadline(hall: Hall) -> None:
    """Nothing inside the process can stop it, so it is killed from outside, and its slot is free at once."""
    started = anyio.current_time()
    with anyio.move_on_after(0.5) as scope:
        await hall.run(conforming.spinning)
    assert scope.cancelled_caught
    assert anyio.current_time() - started < 60
    assert (hall.processes.overdue("spinning"), hall.processes.count()) == (0, 0)


async def test_what_a_handler_started_ends_with_it(hall: Hall) -> None:
    """The whole group is killed: a program that a handler runs must not work on for a job that is gone."""
    async with anyio.create_task_group() as group:
        group.start_soon(hall.run, conforming.parent)
        await until(lambda: bool(hall.log.said("started")))
        (said,) = hall.log.said("started")
        assert is_there(said["process"])
        assert is_there(said["child"])
        group.cancel_scope.cancel()
    await until(lambda: not is_there(said["process"]) and not is_there(said["child"]))
    assert hall.ends == ["cancelled"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
async def test_a_signal_that_asks_the_worker_for_something_ends_no_handler(hall: Hall, number: signal.Signals) -> None:
    """A service manager may send it to every process of the worker."""
    assert (await hall.run(conforming.dying, {"signal": number.name})).code == ""
    assert hall.ends == []


async def test_what_a_handler_prints_is_in_the_log(hall: Hall) -> None:
    """Whoever prints it, Python or C, and however long the line; nothing of it is taken for the result."""
    assert await hall.run(conforming.talkative, {"length": 15_000}) == Outcome.completed({})
    printed = [fields["text"] for fields in hall.log.said("the handler printed")]
    assert {"from print", "from stderr", "from C \ufffd"} <= set(printed)
    assert sum(text.count("x") for text in printed) == 15_000
    assert hall.errors == []


async def test_a_process_inherits_nothing_of_the_workers(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the worker's, no line to systemd, no socket, no file of the journal; a group of its own."""
    monkeypatch.setenv("PLW_STATE__URL", "postgresql://user:secret@host/db")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("MINE", "kept")
    found = (await hall.run(conforming.curious)).output
    assert "MINE" in found["environment"]
    assert not [name for name in found["environment"] if name.startswith(("PLW_", "NOTIFY"))]
    strange = [f for f in found["files"].values() if not f.startswith(("pipe:", "/dev/null", "/proc/", "anon_inode:"))]
    assert [f for f in strange if not f.startswith("socket:")] == []
    # Its own loop's pair; the worker's would be more, and inheritable.
    assert len(strange) <= 2
    assert found["group"] == found["process"] != os.getpgid(0)


async def test_an_async_handler_runs_in_a_process_too(hall: Hall) -> None:
    """Its verbs are awaited there as they are on the worker's loop."""
    saved: list[Any] = []

    async def keep(checkpoint: dict[str, Any]) -> None:
        saved.append(checkpoint)

    outcome = await hall.run(conforming.async_apart, {"x": 1}, verbs={"save_checkpoint": keep})
    assert (outcome.output["x"], outcome.output["execution"], saved) == (1, "e1", [{"step": 1}])
    assert outcome.output["process"] != os.getpid()


async def test_a_verb_that_the_worker_cannot_do_is_the_handlers_to_hear(hall: Hall) -> None:
    """A checkpoint that cannot be written raises in the handler, in words, and is FAILED unless it is caught."""

    async def refuse(_: dict[str, Any]) -> None:
        raise OSError("the disk is full")

    outcome = await hall.run(conforming.async_apart, verbs={"save_checkpoint": refuse})
    assert outcome.message == "The handler failed: RuntimeError: OSError: the disk is full"


async def test_a_handler_that_its_process_cannot_find_is_told(hall: Hall) -> None:
    """A handler that is not at the top of its module fails clearly, each time, and never the worker."""
    lost = Handler(name="lost", function=conforming.place, isolation="process")
    for _ in range(2):
        outcome = await hall.run(lost)
        assert (outcome.code, len(hall.errors)) == ("handler_error", 1)
        assert "support.conforming has no handler 'lost' at its top level" in outcome.message
        hall.errors.clear()


async def test_what_cannot_be_handed_over_is_told(hall: Hall) -> None:
    """Settings that cannot be pickled are FAILED with the reason."""
    outcome = await hall.run(conforming.dying, settings={"open": lambda: None})
    assert (outcome.code, len(hall.errors)) == ("handler_error", 1)
    assert outcome.message.startswith("The execution cannot be handed to a process: ")


async def test_a_process_that_cannot_be_started_is_a_failure(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has no more processes or files to give fails the execution, never the worker."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    outcome = await hall.run(conforming.dying)
    assert outcome.code == "handler_crashed"
    assert "cannot be started: FileNotFoundError" in outcome.message


@pytest.mark.parametrize(
    "frame", [HEAD.pack(2**31), HEAD.pack(4) + b"null", HEAD.pack(3) + b"{x}", HEAD.pack(14) + b'{"do": "sing"}']
)
async def test_a_process_that_makes_no_sense_is_stopped(
    hall: Hall, frame: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs a handler may have been taken over by its input; the worker reads a frame as data, and kills it."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\nimport os, time\nos.write(1, {frame!r})\ntime.sleep(3600)\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    outcome = await hall.run(conforming.dying)
    assert outcome.code == "handler_crashed"
    assert " said " in outcome.message


def test_a_process_never_outlives_the_worker(tmp_path: Path) -> None:
    """Killed without warning, the worker takes its handlers' processes with it."""
    script = (
        "import sys; from product_live_worker.telemetry import log; log.configure('info', 'json', stream=sys.stdout)\n"
        "from support.conforming import spinning; from product_live_worker.testkit import run\n"
        "run(spinning, {})\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, cwd=tmp_path) as worker:  # noqa: S603 (our own)
        assert worker.stdout is not None
        line = worker.stdout.readline()
        process = int(line.partition(b'"process": ')[2].split(b",")[0])
        assert is_there(process)
        worker.kill()
        worker.wait()
    while is_there(process):
        time.sleep(0.005)


@pytest.mark.parametrize("module", ["support.conforming", "no.such.module"])
def test_a_handler_is_found_by_its_module_and_name(module: str) -> None:
    """What is not there is an ImportError or a LookupError."""
    with pytest.raises((ImportError, LookupError)):
        find_handler(module, "nobody")
    assert find_handler("support.conforming", "dying") is conforming.dying


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"isolation": "thread"}, "isolation is 'process', 'dask' or left out; found 'thread'"),
        ({"memory_limit": "512MB"}, "memory_limit needs isolation='process' or isolation='dask'"),
        ({"isolation": "process", "memory_limit": "much"}, "found 'much'"),
        ({"isolation": "process", "memory_limit": True}, "found True"),
        ({"isolation": "process", "memory_limit": "1MB"}, "at least 100MB"),
        ({"isolation": "process"}, "at the top of a module"),
    ],
)
def test_what_a_process_cannot_do_is_refused_by_the_decorator(options: dict[str, Any], said: str) -> None:
    """A handler that could never run is refused when its module is read."""
    with pytest.raises(TypeError, match="handler 'x': ") as refused:

        @handler("x", **options)
        def local(_: dict) -> None:  # type: ignore[type-arg]
            """Stand inside of a function."""

    assert said in str(refused.value)


@pytest.mark.parametrize(("limit", "expected"), [("512MB", 512_000_000), ("2 gb", 2 * 10**9), (10**8, 10**8)])
def test_a_memory_limit_is_bytes_or_a_text(limit: int | str, expected: int) -> None:
    """In the units of the settings."""
    assert handler("x", isolation="process", memory_limit=limit)(conforming.place).memory_limit == expected


async def test_close_ends_what_runs(hall: Hall) -> None:
    """At the worker's end no process stays, whatever it does."""
    async with anyio.create_task_group() as group:
        group.start_soon(hall.processes.run, some_work(conforming.spinning, "spinning"))
        await until(lambda: hall.processes.count() == 1)
        group.cancel_scope.cancel()
    await hall.run(conforming.dying)
    await hall.processes.close()
    assert hall.processes.count() == 0

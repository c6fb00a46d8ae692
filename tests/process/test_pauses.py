"""Pauses of the real worker: by a command, by a signal, over a kill; and what `top` shows of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from product_live_worker import sandbox
from support.plugins import install
from support.processes import COMMAND, Running, command, environment, running
from support.workers import new_world, until

pytestmark = pytest.mark.anyio


@dataclass
class Paused:
    """A worker's home: its folder, its variables, its platform."""

    cwd: Path
    variables: dict[str, str]
    world: sandbox.World

    async def do(self, *arguments: str, code: int = 0) -> str:
        """Run a command beside the worker."""
        ended = await anyio.to_thread.run_sync(lambda: command(*arguments, cwd=self.cwd, **self.variables))
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stdout + ended.stderr

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[tuple[Running, str]]:
        """Run the worker while the block runs; gives it, and its address."""
        async with running("run", cwd=self.cwd, variables=self.variables) as worker:
            yield worker, await worker.address()


@asynccontextmanager
async def home(path: Path) -> AsyncIterator[Paused]:
    """Serve a platform for a worker that lives in this folder."""
    world = new_world("power")
    async with sandbox.serve(world) as url:
        variables = {"PLW_API__BASE_URL": url, "PLW_API__KEY": "sandbox-key", "PLW_HTTP__PORT": "0"}
        yield Paused(path, variables, world)


def polls_again(verdict: str) -> bool:
    """Tell a worker that polls, whatever else there is to say of it on a busy machine."""
    return verdict == "ok" or not any(word in verdict for word in ("paused", "not known", "first poll"))


async def ready(address: str, true: Callable[[str], bool]) -> httpx.Response:
    """Wait until readyz gives a verdict of which this is true."""
    async with httpx.AsyncClient(trust_env=False) as http:
        while True:
            answer = await http.get(f"{address}/readyz")
            if true(answer.json()["verdict"]):
                return answer
            await anyio.sleep(0.05)


async def test_a_pause_outlives_a_kill(tmp_path: Path) -> None:
    """Paused by a command, killed, started again: still paused, and says so; resumed: it polls within an interval."""
    async with home(tmp_path) as here:
        async with here.worker() as (worker, address):
            await ready(address, polls_again)
            said = await here.do("pause", "--for", "2h", "--why", "the ERP moves", "--who", "anna")
            assert "all tasks: paused by anna until 20" in said
            await ready(address, lambda verdict: "paused by anna" in verdict)
            worker.send(signal.SIGKILL)
            await worker.ended()
        execution = here.world.submit("power", {"power": 2}, 0.0)
        polls = sum(arrival.operation == "poll" for arrival in here.world.arrivals)
        async with here.worker() as (worker, address):
            answer = await ready(address, lambda verdict: "paused by anna" in verdict and "the ERP moves" in verdict)
            assert answer.status_code == 200
            await until(lambda: "serving tasks" in worker.output)
            assert sum(arrival.operation == "poll" for arrival in here.world.arrivals) == polls
            assert "nothing is paused" in await here.do("resume")
            await until(lambda: execution.status == "COMPLETED")
            assert '"verb": "resume"' in worker.output
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0


async def test_signals_pause_and_resume(tmp_path: Path) -> None:
    """SIGUSR1 pauses all polling, SIGUSR2 resumes it, however often; neither ends the worker."""
    async with home(tmp_path) as here, here.worker() as (worker, address):
        await ready(address, polls_again)
        worker.send(signal.SIGUSR1)
        await ready(address, lambda verdict: "paused by signal SIGUSR1 until it is resumed" in verdict)
        worker.send(signal.SIGUSR1)
        # The kernel keeps no order between two that wait together.
        await until(lambda: worker.output.count('"verb": "pause"') == 2)
        worker.send(signal.SIGUSR2)
        await ready(address, polls_again)
        worker.send(signal.SIGUSR2)
        await until(lambda: "what a signal asked for could not be done" in worker.output)
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0


async def send_on(worker: Running, number: signal.Signals) -> None:
    """Send it a signal again and again, until it is no more."""
    while True:
        # Not by `send`, which would look whether it has ended, and take its exit code away from who waits for it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.process.pid, number)
        await anyio.sleep(0.001)


async def test_no_signal_for_polling_ends_the_process(tmp_path: Path) -> None:
    """One that comes before there is a worker to ask is done when there is; at the end, many change nothing."""
    async with home(tmp_path) as here:
        here.variables |= install(tmp_path / "plugins", "support.signalled_handlers", "signalled")
        async with here.worker() as (worker, address):
            await ready(address, lambda verdict: "paused by signal SIGUSR1 until it is resumed" in verdict)
            worker.send(signal.SIGTERM)
            async with anyio.create_task_group() as sending:
                sending.start_soon(send_on, worker, signal.SIGUSR2)
                assert await worker.ended() == 0
                sending.cancel_scope.cancel()


async def test_a_running_execution_is_cancelled_by_a_command(tmp_path: Path) -> None:
    """What is not in hand is told so; a task that nobody knows is noted; nonsense is told in words."""
    async with home(tmp_path) as here, here.worker() as (_, address):
        await ready(address, polls_again)
        assert "is not in the journal; it must be CLAIMED or RUNNING" in await here.do(
            "executions", "cancel", "nobody", code=1
        )
        said = await here.do("pause", "--task", "prower")
        assert "name no task 'prower'; they name power" in said
        assert "task power is not paused; paused is prower" in await here.do("resume", "--task", "power", code=1)
        assert "allowed is a duration" in await here.do("pause", "--for", "a while", code=78)
        assert "of ten years at most" in await here.do("pause", "--for", "99999d", code=78)
        assert "allowed is the worker's address" in await here.do("top", "http://[::1", code=1)


async def test_top_shows_what_the_status_says(tmp_path: Path) -> None:
    """Without a terminal once, on one until Ctrl-C; where nothing answers, it says so in a line."""
    async with home(tmp_path) as here, here.worker() as (_, address):
        here.world.submit("power", {"power": "\x1b[2Jx"}, 0.0)
        await ready(address, polls_again)
        async with httpx.AsyncClient(trust_env=False) as http:
            while not (await http.get(f"{address}/status")).json()["failures"]["shown"]:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        await here.do("pause", "--task", "power", "--why", "[red]\x1b[31mno colours")
        await ready(address, lambda verdict: "paused" in verdict)
        said = await here.do("top", address)
        for words in ("Working, but look at this", "power is paused by", "invalid_input", "of 50 used", "[red]"):
            assert words in said
        assert "\x1b" not in said
        assert "cannot be read" in await here.do("top", "http://127.0.0.1:9", code=1)
        assert "allowed is the worker's address" in await here.do("top", "nonsense", code=1)
        shown = await anyio.to_thread.run_sync(lambda: _on_a_terminal(here, address))
    assert "Working, but look at this" in shown
    assert "Traceback" not in shown


def _on_a_terminal(here: Paused, address: str) -> str:
    # script gives the command a terminal of its own; timeout presses Ctrl-C.
    program = f"timeout --signal=INT 3 {shlex.join(COMMAND)} top {address}"
    done = subprocess.run(  # noqa: S603 (our own command)
        ["script", "-qefc", program, "/dev/null"],  # noqa: S607 (wherever it is)
        cwd=here.cwd,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**environment(), "TERM": "xterm", "COLUMNS": "160", "LINES": "50"},
    )
    return done.stdout

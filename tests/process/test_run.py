"""The real command as a process: what a new user starts, what signals do, what a kill leaves."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path

import anyio
import pytest

from product_live_worker import sandbox
from support.processes import running
from support.workers import new_world, until

pytestmark = pytest.mark.anyio


def variables(url: str, **more: str) -> dict[str, str]:
    """Give what a new user sets, and a free port for the ops listener."""
    return {"PLW_API__BASE_URL": url, "PLW_API__KEY": "sandbox-key", "PLW_HTTP__PORT": "0", **more}


async def test_a_new_user_needs_an_address_and_a_key_and_nothing_else(tmp_path: Path) -> None:
    """Started with the two, the command serves the account's tasks, right outputs, no request too many."""
    world = new_world("power")
    executions = [world.submit("power", {"power": n}, 0.0) for n in range(10)]
    async with sandbox.serve(world) as url, running("run", cwd=tmp_path, variables=variables(url)) as worker:
        await until(lambda: all(e.status == "COMPLETED" for e in executions))
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
    assert [e.output for e in executions] == [{"result": 2**n} for n in range(10)]
    assert world.limiter.refused == 0
    assert (tmp_path / "state" / "worker.db").stat().st_mode & 0o777 == 0o600
    told = [json.loads(line) for line in worker.output.splitlines()]
    assert [line["event"] for line in told[:2]] == ["worker started", "serving tasks"]
    assert told[1]["platform"] == url
    assert told[1]["tasks"] == "power"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_first_signal_drains(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT let the work end; the exit code is 0."""
    world = new_world("power")
    async with sandbox.serve(world) as url, running("run", cwd=tmp_path, variables=variables(url)) as worker:
        await until(lambda: any(a.operation == "poll" for a in world.arrivals))
        worker.send(number)
        assert await worker.ended() == 0
    assert "worker stopped" in worker.output
    assert "Traceback" not in worker.output


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    """While a drain waits for a report that the platform does not take, a second signal ends the process at once."""
    world, faults = new_world("power"), sandbox.Faults()
    faults.add("status", status=503, operations=["update_execution"])
    async with (
        sandbox.serve(world, faults=faults) as url,
        running("run", cwd=tmp_path, variables=variables(url)) as worker,
    ):
        world.submit("power", {"power": 1}, 0.0)
        await until(lambda: any(a.operation == "update_execution" for a in world.arrivals))
        worker.send(signal.SIGTERM)
        await until(lambda: "stopping" in worker.output)
        worker.send(signal.SIGTERM)
        with anyio.fail_after(2):
            assert await worker.ended() == 0


async def test_a_result_survives_sigkill(tmp_path: Path) -> None:
    """Killed between its outcome and its report, the next start reports the outcome, and the handler runs once."""
    world, faults = new_world("power"), sandbox.Faults()
    faults.add("status", status=503, operations=["update_execution"])
    async with sandbox.serve(world, faults=faults) as url:
        async with running("run", cwd=tmp_path, variables=variables(url)) as worker:
            execution = world.submit("power", {"power": 7}, 0.0)
            await until(lambda: any(a.operation == "update_execution" for a in world.arrivals))
            worker.send(signal.SIGKILL)
            await worker.ended()
        faults.clear()
        async with running("run", cwd=tmp_path, variables=variables(url)) as worker:
            await until(lambda: execution.status == "COMPLETED")
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0
    assert execution.output == {"result": 128}


async def test_the_window_survives_sigkill(tmp_path: Path) -> None:
    """A worker killed and started again, five times in the same window, does not get a second budget."""
    world = new_world("power", limit=10)
    for _ in range(20):
        world.submit("power", {"power": 1}, 0.0)
    small = {"PLW_BUDGET__REQUESTS_PER_MINUTE": "10"}
    async with sandbox.serve(world) as url:
        for _ in range(6):
            async with running("run", cwd=tmp_path, variables=variables(url, **small)) as worker:
                await until(lambda: "worker started" in worker.output)
                await anyio.sleep(0.5)
                worker.send(signal.SIGKILL)
                await worker.ended()
    assert world.limiter.refused == 0
    assert 6 <= world.limiter.largest_window <= 10


async def test_the_journal_forgets_payloads_once_reported(tmp_path: Path) -> None:
    """After the report, neither input nor output is in the journal's file any more."""
    world = new_world("power")
    async with sandbox.serve(world) as url, running("run", cwd=tmp_path, variables=variables(url)) as worker:
        execution = world.submit("power", {"power": 7, "secret": "hunter2"}, 0.0)
        await until(lambda: execution.status == "COMPLETED")
        worker.send(signal.SIGTERM)
        await worker.ended()
    with sqlite3.connect(tmp_path / "state" / "worker.db") as journal:
        rows = journal.execute("SELECT state, input, output FROM executions").fetchall()
    journal.close()
    assert rows == [("REPORTED", None, None)]


async def test_the_key_is_printed_nowhere(tmp_path: Path) -> None:
    """At the chattiest level, and when it is refused, the key is in no line."""
    world = new_world("power")
    told = variables("", PLW_API__KEY="a-key-nobody-may-see", PLW_LOG__LEVEL="debug")
    async with (
        sandbox.serve(world) as url,
        running("run", cwd=tmp_path, variables={**told, "PLW_API__BASE_URL": url}) as worker,
    ):
        await until(lambda: "401" in worker.output)
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
    assert "a-key-nobody-may-see" not in worker.output

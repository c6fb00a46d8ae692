"""`executions` and `tasks`: what a person sees and mends from the command line, while the worker runs or not."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from product_live_worker import sandbox
from support.processes import command, running
from support.workers import new_world, until

pytestmark = pytest.mark.anyio


async def test_a_refused_result_is_listed_shown_and_sent_again_while_the_worker_runs(tmp_path: Path) -> None:
    """An UNDELIVERABLE row is found by state and by job, shown with its reason, and sent again by the worker."""
    world, faults = new_world("power"), sandbox.Faults()
    faults.add("status", status=422, operations=["update_execution"])
    async with sandbox.serve(world, faults=faults) as url:
        variables = {
            "PLW_API__BASE_URL": url,
            "PLW_API__KEY": "sandbox-key",
            "PLW_HTTP__PORT": "0",
            "PLW_STATE__LEASE": "2s",
        }

        async def ask(*arguments: str) -> str:
            ended = await anyio.to_thread.run_sync(lambda: command(*arguments, cwd=tmp_path, **variables))
            assert ended.returncode == 0, ended.stderr
            return ended.stdout

        async with running("run", cwd=tmp_path, variables=variables) as worker:
            execution = world.submit("power", {"power": 6, "eventCorrelationId": "job-9"}, 0.0)
            await until(lambda: "refuses this result" in worker.output)
            (by_state,) = json.loads(await ask("executions", "list", "--state", "UNDELIVERABLE", "--json"))
            (by_job,) = json.loads(await ask("executions", "list", "--correlation", "job-9", "--json"))
            assert by_state == by_job
            assert by_state["id"] == execution.id
            assert execution.id in await ask("executions", "list")
            shown = json.loads(await ask("executions", "show", execution.id, "--remote", "--json"))
            assert (shown["output"], shown["platform_has"]["status"]) == ({"result": 64}, "IN_PROGRESS")
            assert "422" in shown["trouble"]
            faults.clear()
            await ask("executions", "redeliver", execution.id)
            await until(lambda: execution.status == "COMPLETED")
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0
    assert execution.output == {"result": 64}


async def test_a_discarded_result_is_never_sent(tmp_path: Path) -> None:
    """What a person gives up on is closed in the journal, and no later start reports it."""
    world, faults = new_world("power"), sandbox.Faults()
    faults.add("status", status=503, operations=["update_execution"])
    async with sandbox.serve(world, faults=faults) as url:
        variables = {"PLW_API__BASE_URL": url, "PLW_API__KEY": "sandbox-key", "PLW_HTTP__PORT": "0"}
        async with running("run", cwd=tmp_path, variables=variables) as worker:
            execution = world.submit("power", {"power": 6}, 0.0)
            await until(lambda: "report postponed" in worker.output)
            worker.send(signal.SIGKILL)
            await worker.ended()
        ended = await anyio.to_thread.run_sync(
            lambda: command("executions", "discard", execution.id, cwd=tmp_path, **variables)
        )
        assert ended.returncode == 0, ended.stderr
        faults.clear()
        async with running("run", cwd=tmp_path, variables=variables) as worker:
            other = world.submit("power", {"power": 1}, 0.0)
            await until(lambda: other.status == "COMPLETED")
            worker.send(signal.SIGTERM)
            await worker.ended()
    assert execution.status == "IN_PROGRESS"


async def test_tasks_list_says_who_serves_what_and_how_soon(tmp_path: Path) -> None:
    """Each task of the account is shown with its handler, or none, and with its pickup delay by plan."""
    world = new_world("power", "other")
    async with sandbox.serve(world) as url:
        ended = await anyio.to_thread.run_sync(
            lambda: command("tasks", "list", "--json", cwd=tmp_path, PLW_API__BASE_URL=url, PLW_API__KEY="sandbox-key")
        )
    rows = {row["key"]: row for row in json.loads(ended.stdout)["tasks"]}
    assert (rows["power"]["handler"], rows["other"]["handler"]) == ("power", None)
    assert 1.0 < rows["power"]["pickup_delay_expected_seconds"] < 1.4
    assert rows["power"]["pickup_delay_bound_seconds"] < 3


async def test_tasks_list_says_of_a_worker_that_runs_when_it_polls_next_and_why(tmp_path: Path) -> None:
    """With the pickup delays as they are now; without a worker, no moment is made up."""
    world = new_world("power", "other")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    async with sandbox.serve(world) as url:
        told = {"PLW_API__BASE_URL": url, "PLW_API__KEY": "sandbox-key", "PLW_HTTP__PORT": port}

        async def rows() -> dict[str, Any]:
            ended = await anyio.to_thread.run_sync(lambda: command("tasks", "list", "--json", cwd=tmp_path, **told))
            return {row["key"]: row for row in json.loads(ended.stdout)["tasks"]}

        assert (await rows())["power"]["next_poll"] is None
        async with running("run", cwd=tmp_path, variables=told) as worker:
            await until(lambda: any(a.operation == "poll" for a in world.arrivals))
            listed = await rows()
            worker.send(signal.SIGTERM)
            await worker.ended()
    assert listed["power"]["next_poll"]["why"] in (
        "its turn in the idle round",
        "as soon as the budget has a slot for it",
    )
    assert (listed["power"]["next_poll"]["in_seconds"] or 0.0) <= listed["power"]["pickup_delay_bound_seconds"]
    assert listed["other"]["next_poll"] is None


def test_nonsense_is_told_in_words(tmp_path: Path) -> None:
    """An id that nobody knows, and a state that does not exist, are said so, without a traceback."""
    for arguments, code in ((("show", "nobody"), 1), (("redeliver", "nobody"), 1), (("list", "--state", "ODD"), 2)):
        ended = command("executions", *arguments, cwd=tmp_path)
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr

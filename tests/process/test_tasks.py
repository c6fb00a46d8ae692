"""`tasks plan` and `tasks apply`: the real command against the sandbox."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from product_live_worker import sandbox
from support.plugins import install
from support.processes import command
from support.workers import add_task, new_world

pytestmark = pytest.mark.anyio

Tasks = Callable[..., Any]


@asynccontextmanager
async def account(world: sandbox.World, tmp_path: Path, faults: sandbox.Faults | None = None) -> AsyncIterator[Tasks]:
    """Serve an account, and give a way to call `tasks …` with the handler `tell` installed beside the bundled ones."""
    found = install(tmp_path / "plugins", "support.plain_handlers", "tell")
    async with sandbox.serve(world, faults=faults) as url:

        async def tasks(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
            variables = {"PLW_API__BASE_URL": url, "PLW_API__KEY": "sandbox-key", "TERMINAL_WIDTH": "300", **found}
            return await anyio.to_thread.run_sync(
                lambda: command("tasks", *arguments, cwd=tmp_path, stdin=stdin, **variables)
            )

        yield tasks


def asked(world: sandbox.World) -> list[str]:
    """Give what the platform was asked, in order."""
    return [arrival.operation for arrival in world.arrivals]


async def test_a_plan_shows_the_difference_and_changes_nothing(tmp_path: Path) -> None:
    """What is created, what is changed from what to what, and what is left alone; in words and as JSON."""
    world = new_world("other")
    add_task(world, "tell", description="Old", retryCount=2)
    async with account(world, tmp_path) as tasks:
        words, document = await tasks("plan"), await tasks("plan", "--json", "tell")
    assert words.returncode == 0, words.stderr
    assert "power (power) is created" in words.stdout
    assert "tell (tell) is changed" in words.stdout
    assert "description: 'Old' -> 'Tell what there is to know.'" in words.stdout
    assert "response timeout seconds: 3600 s -> 620 s" in words.stdout
    assert "input keys: +table, +rows" in words.stdout
    assert "left alone: other" in words.stdout
    (change,) = json.loads(document.stdout)["changes"]
    assert (change["key"], change["action"]) == ("tell", "update")
    assert set(asked(world)) == {"list_tasks"}


async def test_apply_creates_and_updates_once_it_is_allowed_to(tmp_path: Path) -> None:
    """After that the plan is empty; what the code does not say has stayed."""
    world = new_world()
    tell = add_task(world, "tell", description="Old", retryCount=2, retryLogic="EXPONENTIAL_BACKOFF")
    async with account(world, tmp_path) as tasks:
        applied = await tasks("apply", stdin="y\n")
        again = await tasks("apply", "--json", "--yes")
    assert (applied.returncode, "applied: power, tell" in applied.stdout) == (0, True), applied.stderr
    document = json.loads(again.stdout)
    assert ({change["action"] for change in document["changes"]}, document["applied"]) == ({"none"}, [])
    fields = world.tasks[tell].fields
    assert (fields["description"], fields["responseTimeoutSeconds"]) == ("Tell what there is to know.", 620)
    assert (fields["retryCount"], fields["retryLogic"]) == (2, "EXPONENTIAL_BACKOFF")
    assert fields["inputKeys"][0] == {"key": "table", "description": "The table that is read"}
    assert {task.key for task in world.tasks.values()} == {"tell", "power"}
    assert asked(world) == ["list_tasks", "create_task", "read_task", "update_task", "list_tasks"]


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
async def test_without_a_yes_nothing_is_changed(tmp_path: Path, answer: str) -> None:
    """Nor where nobody can answer."""
    world = new_world()
    async with account(world, tmp_path) as tasks:
        ended = await tasks("apply", stdin=answer)
    assert (ended.returncode, "nothing was changed" in ended.stderr, "Traceback" in ended.stderr) == (1, True, False)
    assert (asked(world), world.tasks) == (["list_tasks"], {})


async def test_a_platform_that_refuses_in_the_middle_leaves_no_doubt(tmp_path: Path) -> None:
    """What was applied is said before the error is."""
    faults = sandbox.Faults()
    world = new_world()
    add_task(world, "tell")
    faults.add("status", operations=["update_task"], status=400)
    async with account(world, tmp_path, faults) as tasks:
        ended = await tasks("apply", "--yes")
    assert (ended.returncode, "applied: power" in ended.stdout, "400" in ended.stderr) == (1, True, True), ended.stderr
    assert "Traceback" not in ended.stderr


async def test_only_the_tasks_that_are_named_are_touched(tmp_path: Path) -> None:
    """A name that no handler serves is a mistake."""
    world = new_world()
    async with account(world, tmp_path) as tasks:
        assert (await tasks("apply", "tell", "--yes")).returncode == 0
        unknown = await tasks("apply", "tail", "--yes")
        silent = await tasks("apply", "--json")
    assert {task.key for task in world.tasks.values()} == {"tell"}
    assert (unknown.returncode, "power, tell" in unknown.stderr) == (2, True)
    assert (silent.returncode, "--yes" in silent.stderr) == (2, True)

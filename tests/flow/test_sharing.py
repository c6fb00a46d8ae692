"""Settings and shared resources of handlers, in a whole worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.conforming import HANDLERS, WAYS
from support.workers import new_world, running_worker

pytestmark = pytest.mark.anyio
HERE = [way for way in WAYS if way != "dask"]
"""On a cluster: tests/flow/test_dask.py."""


@pytest.mark.parametrize("way", HERE)
async def test_resources_are_open_until_the_drain_is_over(tmp_path: Path, way: str) -> None:
    """Opened at the first execution that needs them, used by the next, closed when the worker has drained."""
    notes = tmp_path / "notes"
    notes.touch()
    tasks = {"sharing": {"settings": {"notes": str(notes)}}}
    async with running_worker([HANDLERS[way, "sharing"]], tmp_path, tasks=tasks) as worker:
        for number in (1, 2):
            (execution,) = await worker.run("sharing", {})
            assert execution.output["shelf"]["lent"] == number
        assert notes.read_text().split() == ["opened"]
    assert notes.read_text().split() == ["opened", "closed"]


@pytest.mark.parametrize("way", HERE)
async def test_settings_are_read_as_their_model(tmp_path: Path, way: str) -> None:
    """With a secret from a file, in each way to run."""
    (tmp_path / "password").write_text("12345\n")
    tasks = {"configured": {"settings": {"name": "me", "password": {"file": str(tmp_path / "password")}}}}
    async with running_worker([HANDLERS[way, "configured"]], tmp_path, tasks=tasks) as worker:
        (execution,) = await worker.run("configured", {})
    assert execution.output == {"name": "me", "letters": 5, "shown": "**********"}


async def test_a_task_without_the_settings_it_needs_is_not_served(tmp_path: Path) -> None:
    """Where a task is matched by its name alone, the others are served, and readiness says what is missing."""
    handlers = [HANDLERS["loop", "configured"], HANDLERS["loop", "echo"]]
    async with running_worker(handlers, tmp_path, world=new_world("configured", "echo")) as worker:
        await worker.run("echo", {})
        answer = await worker.get("/readyz")
    assert list(worker.daemon.catalogue.tasks) == ["echo"]
    assert "tasks.configured.settings.password: Field required" in answer.text

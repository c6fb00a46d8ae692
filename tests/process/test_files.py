"""Large files cost a worker hardly any memory."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from product_live_worker import sandbox
from support.plugins import install
from support.processes import Running, running
from support.workers import new_world, until

pytestmark = pytest.mark.anyio

MEGABYTES = 100
MOST = 30
"""Megabytes by which the worker may grow."""


def memory(worker: Running, what: str) -> float:
    """Give a figure of the process's memory, in megabytes: VmRSS is now, VmHWM the most it ever was."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
async def test_a_hundred_megabytes_go_down_and_up_in_less_than_thirty_of_memory(tmp_path: Path) -> None:
    """Measured against the same worker after a file of one byte, at its highest."""
    world = new_world("relay", limit=0)
    content = os.urandom(1_000_000) * MEGABYTES
    found = install(tmp_path / "plugins", "support.file_handlers", "relay")
    async with sandbox.serve(world) as url:
        variables = {"PLW_API__BASE_URL": url, "PLW_API__KEY": "sandbox-key", "PLW_HTTP__PORT": "0", **found}
        async with running("run", cwd=tmp_path, variables=variables) as worker:

            async def relayed(body: bytes) -> str:
                file = world.upload("a.bin", body, time.monotonic()).public(url)
                execution = world.submit("relay", {"file": file}, time.monotonic())
                await until(lambda: execution.status in {"COMPLETED", "FAILED"})
                assert execution.status == "COMPLETED", execution.output
                assert execution.output["file"]["filename"] == "relayed.bin"
                return str(execution.output["file"]["id"])

            await relayed(b"x")
            before = memory(worker, "VmRSS")
            # The platform names a file by its content.
            assert await relayed(content) in world.files
            assert world.files[await relayed(b"x")].content == b"x"
            grown = memory(worker, "VmHWM") - before
    assert len(world.files) == 2
    assert [file.filename for file in world.files.values() if len(file.content) == len(content)] == ["relayed.bin"]
    assert grown < MOST
    assert list((tmp_path / "state" / "work").glob("*/*")) == []

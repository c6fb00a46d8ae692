"""The real command with a handler on a real Dask cluster."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import anyio.to_thread
import pytest

from product_live_worker import sandbox
from support.dask_clusters import cluster
from support.plugins import install
from support.processes import command, running
from support.workers import new_world, until

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")]


def is_there(process: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{process}").exists()


async def test_a_worker_that_is_killed_leaves_nothing_running_on_the_cluster(tmp_path: Path) -> None:
    """Its client notices at once, and stops what ran; the next start decides by `on_crash`, and `check` is content."""
    world = new_world("spinning")
    with cluster(tmp_path) as dask:
        async with sandbox.serve(world) as url:
            variables = {
                "PLW_API__BASE_URL": url,
                "PLW_API__KEY": "sandbox-key",
                "PLW_HTTP__PORT": "0",
                "PLW_EXECUTION__DASK_SCHEDULER": dask.address,
                **install(tmp_path / "plugins", "support.conforming", "spinning_far"),
            }
            execution = world.submit("spinning", {}, 0.0)
            async with running("run", cwd=tmp_path, variables=variables) as worker:
                await until(lambda: '"event": "started"' in worker.output)
                process = int(worker.output.partition('"process": ')[2].split(",")[0])
                assert is_there(process)
                worker.send(signal.SIGKILL)
                await worker.ended()
            await until(lambda: not is_there(process))
            async with running("run", cwd=tmp_path, variables=variables) as worker:
                await until(lambda: execution.status == "FAILED")
                worker.send(signal.SIGTERM)
                assert await worker.ended() == 0
            assert execution.output["code"] == "worker_restarted"
            checked = await anyio.to_thread.run_sync(lambda: command("check", cwd=tmp_path, **variables))
            assert f"ok    cluster: the Dask scheduler answers: {dask.address}" in checked.stdout
            assert checked.returncode == 0


def test_a_worker_without_the_setting_does_not_start(tmp_path: Path) -> None:
    """Exit 78 and one line; `handlers` says where each is run."""
    variables = install(tmp_path / "plugins", "support.conforming", "spinning_far")
    refused = command("run", "--sandbox", cwd=tmp_path, **variables)
    assert refused.returncode == 78
    assert refused.stderr == (
        "product-live-worker: the handler 'spinning' runs on a Dask cluster, and execution.dask_scheduler is not set: "
        "give it as tcp://HOST:PORT\n"
    )
    assert "on a Dask cluster, 1 at once" in command("handlers", cwd=tmp_path, **variables).stdout

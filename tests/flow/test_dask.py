"""Handlers on a Dask cluster, in a whole worker: an outage of the cluster costs nothing that had not begun."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from product_live_worker import handler
from product_live_worker.model.errors import SettingsError
from product_live_worker.model.execution import State
from product_live_worker.parts import task_settings
from product_live_worker.telemetry.events import HandlerProcessEnded, OutageEnded, OutageStarted
from support import conforming
from support.dask_clusters import cluster
from support.journals import query
from support.workers import running_worker, settings_for, until

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="clusters are for POSIX")]


async def test_an_outage_of_the_scheduler_is_told_and_survived(tmp_path: Path) -> None:
    """With `on_crash="rerun"` what ran is run again, with its checkpoint; else it is FAILED."""
    dying = replace(conforming.spinning_far, concurrency=2)
    with cluster(tmp_path) as running:
        execution = {"dask_scheduler": running.address}
        async with running_worker([conforming.lasting_far, dying], tmp_path, execution=execution) as worker:
            (rerun,), (failed,) = worker.submit("lasting", {}), worker.submit("spinning", {})
            journal = worker.daemon.journal
            await until(lambda: {e.checkpoint is None for e in journal.open_executions()} == {True, False})
            await until(lambda: all(e.state is State.RUNNING for e in journal.open_executions()))
            assert running.scheduler is not None
            running.scheduler.kill()
            await until(lambda: failed.status == "FAILED")
            assert failed.output["code"] == "handler_crashed"
            assert "connection to the Dask scheduler was lost" in failed.output["message"]
            assert rerun.status == "IN_PROGRESS"
            ready = await worker.get("/readyz")
            assert ready.status_code == 503
            assert "nothing is claimed for lasting, spinning: the Dask scheduler" in ready.text
            assert worker.daemon.dispatcher.free("spinning") == 0
            tasks = (await worker.get("/status")).json()["tasks"]
            assert "the Dask scheduler" in tasks[0]["next_poll"]["why"]
            await anyio.to_thread.run_sync(running.scheduler.wait)
            await anyio.to_thread.run_sync(running.start_scheduler)
            await anyio.to_thread.run_sync(running.start_worker)
            await until(lambda: rerun.status == "COMPLETED")
            assert rerun.output["first"] != rerun.output["process"]
            assert (await worker.get("/readyz")).status_code == 200
    assert {event.reason for event in worker.heard(HandlerProcessEnded)} == {"lost"}
    assert [event.what for event in worker.heard(OutageStarted)] == ["the Dask cluster"]
    assert [event.what for event in worker.heard(OutageEnded)] == ["the Dask cluster"]


async def test_leases_and_callbacks_reach_over_to_the_cluster(tmp_path: Path) -> None:
    """One at a time has the lease, and hears what is posted to its address."""
    http = {"port": 0, "public_url": "https://hooks.example.com", "callback_port": 0}
    with cluster(tmp_path) as running:
        execution = {"dask_scheduler": running.address}
        async with (
            running_worker([conforming.called_far], tmp_path, execution=execution, http=http) as worker,
            httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{worker.daemon.callback_port}") as outside,
        ):
            journal = worker.daemon.journal

            def waiting() -> dict[str, str]:
                return {one.id: one.checkpoint["url"] for one in journal.open_executions() if one.checkpoint}

            submitted = worker.submit("called", {"n": 1}, {"n": 2})
            for body in ("first", "second"):
                await until(lambda: len(waiting()) == 1)
                ((execution_id, url),) = waiting().items()
                # The other one waits for the lease.
                assert query(tmp_path / "worker.db", "SELECT execution FROM key_leases") == [(execution_id,)]
                path = url.removeprefix("https://hooks.example.com")
                assert (await outside.post(path, content=body.encode())).status_code == 200
                await until(lambda: journal.get(execution_id) is None)  # noqa: B023 (it is asked at once)
            assert sorted(one.output["got"] for one in submitted) == [["first"], ["second"]]
            assert [one.output["ended"] for one in submitted] == [None, None]


def test_a_start_without_a_cluster_is_refused(tmp_path: Path) -> None:
    """Where a handler that may be served needs one, the line names the handler and the setting."""
    settings = settings_for("http://127.0.0.1:9", tmp_path)
    handlers = {"dying": conforming.dying_far, "place": conforming.HANDLERS["thread", "place"]}
    with pytest.raises(SettingsError) as refused:
        task_settings(settings, handlers)
    assert str(refused.value) == (
        "the handler 'dying' runs on a Dask cluster, and execution.dask_scheduler is not set: give it as tcp://HOST:PORT"
    )
    # What is not served needs none: where sections name others, and where nothing names an explicit one.
    task_settings(settings_for("http://127.0.0.1:9", tmp_path, tasks={"place": {}}), handlers)
    explicit = handler("dying", isolation="dask", explicit=True)(conforming.dying.function)
    task_settings(settings, {"dying": explicit})
    task_settings(
        settings_for("http://127.0.0.1:9", tmp_path, execution={"dask_scheduler": "tls://[::1]:8786"}), handlers
    )

"""Files in a whole worker: down, up, and gone; the same from the loop, a thread and a process."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_worker import Context, File, Handler, handler
from product_live_worker.sandbox import Faults
from support.file_handlers import WAYS, forgive, linger
from support.raw_server import Request, raw_server
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio


def quick_worker(handlers: list[Handler], state: Path, **sections: Any) -> AbstractAsyncContextManager[RunningWorker]:
    """Run a worker that no limit holds up."""
    world = new_world(*(made.name for made in handlers), limit=0)
    return running_worker(handlers, state, **{"world": world, "budget": {"requests_per_minute": 0}, **sections})


def put(worker: RunningWorker, content: bytes = b"hello", filename: str = "hello.txt") -> dict[str, Any]:
    """Put a file on the platform, as a task before would have."""
    return worker.world.upload(filename, content, time.monotonic()).public(worker.url)


def left(state: Path) -> list[Path]:
    """List what executions have left on disk."""
    return list((state / "work").glob("*/*"))


@pytest.mark.parametrize("made", WAYS.values(), ids=WAYS)
async def test_a_file_goes_down_and_up_in_all_ways(tmp_path: Path, made: Handler) -> None:
    """In a private directory that is gone afterwards; the output is a file that a later task reads, and downloads."""
    async with quick_worker([made], tmp_path) as worker:
        file = put(worker)
        first, second = await worker.run("carry", {"file": file}, {"file": file["id"]})
        assert first.status == "COMPLETED", first.output
        (third,) = await worker.run("carry", {"file": first.output["file"]})
        contents = [
            worker.world.files[File.model_validate(execution.output["file"]).id or ""].content
            for execution in (first, second, third)
        ]
        await until(lambda: not left(tmp_path))
    assert contents == [b"HELLO"] * 3
    assert [execution.output["downloaded"] for execution in (first, second, third)] == [
        "hello.txt",
        "hello.txt",
        "reply.txt",
    ]
    assert first.output["mode"] == 0o700
    assert Path(first.output["workdir"]).is_relative_to(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


async def test_a_file_that_is_not_there_is_the_outcome_or_the_handlers_to_forgive(tmp_path: Path) -> None:
    """Its code and words reach the user of the job; a process may catch it as anybody else."""
    async with quick_worker([WAYS["loop"], forgive], tmp_path) as worker:
        (failed,) = await worker.run("carry", {"file": "0" * 64})
        (forgiven,) = await worker.run("forgive", {"file": "0" * 64})
    assert (failed.status, failed.output["code"]) == ("FAILED", "file_unavailable")
    assert forgiven.output == failed.output


async def test_an_expired_link_is_renewed(tmp_path: Path) -> None:
    """The platform is asked for a fresh one, once."""
    faults = Faults()
    faults.add("status", status=403, operations=["download_file"], count=1)
    async with quick_worker([WAYS["thread"]], tmp_path, faults=faults) as worker:
        (execution,) = await worker.run("carry", {"file": put(worker)})
        operations = [arrival.operation for arrival in worker.world.arrivals]
    assert execution.status == "COMPLETED"
    assert [name for name in operations if "file" in name] == [
        "download_file",
        "read_file",
        "download_file",
        "upload_file",
    ]


async def test_a_transfer_ends_with_its_handler(tmp_path: Path) -> None:
    """The connection is closed and the thread is free, although a thread cannot be stopped."""
    begun, gone = asyncio.Event(), asyncio.Event()

    async def never_end(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        begun.set()
        try:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            gone.set()

    async with (
        raw_server(never_end) as other,
        quick_worker([linger], tmp_path, files={"hosts": ["127.0.0.1"]}, drain={"timeout": 0}) as worker,
    ):
        (execution,) = worker.submit("linger", {"file": f"{other.url()}/endless"})
        await begun.wait()
        await worker.drain()
        await gone.wait()
        await until(lambda: worker.daemon.threads.stuck() == 0 and not left(tmp_path))
    assert execution.output["code"] == "cancelled"


async def test_what_a_handler_leaves_behind_is_gone_after_a_failure_too(tmp_path: Path) -> None:
    """And at the end of a drain; no report waits for it."""
    reached = anyio.Event()

    @handler("mess", concurrency=2)
    async def mess(given: dict[str, Any], context: Context) -> None:
        inner = context.workdir / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "link").symlink_to(tmp_path)
        inner.chmod(0o500)
        if given["fail"]:
            raise RuntimeError
        reached.set()
        await anyio.sleep_forever()

    async with quick_worker([mess], tmp_path, drain={"timeout": 0}) as worker:
        (failed,) = await worker.run("mess", {"fail": True})
        await until(lambda: not left(tmp_path))
        worker.submit("mess", {"fail": False})
        await reached.wait()
        assert len(left(tmp_path)) == 1
        await worker.drain()
        assert left(tmp_path) == []
    assert failed.status == "FAILED"
    assert (tmp_path / "worker.db").exists()


async def test_the_next_start_removes_what_a_dead_worker_has_left(tmp_path: Path) -> None:
    """What nobody locks is nobody's."""
    dead = tmp_path / "work" / "1-dead"
    (dead / "1-e1" / "inner").mkdir(parents=True)
    dead.with_suffix(".lock").touch()
    async with quick_worker([WAYS["loop"]], tmp_path):
        await until(lambda: not dead.exists() and not dead.with_suffix(".lock").exists())

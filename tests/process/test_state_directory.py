"""The directory of the journal, as a machine may have it: read-only, too small, damaged, or just now in use."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from product_live_worker import sandbox
from support.journals import add_reported, query
from support.processes import command, running
from support.workers import new_world, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

EX_CONFIG = 78
NOWHERE = "http://127.0.0.1:9"


def variables(url: str, state: Path) -> dict[str, str]:
    """Point a worker at a platform and a journal."""
    return {
        "PLW_API__BASE_URL": url,
        "PLW_API__KEY": "sandbox-key",
        "PLW_HTTP__PORT": "0",
        "PLW_STATE__URL": f"sqlite:///{state / 'worker.db'}",
        "PLW_STATE__LEASE": "1s",
        "PLW_BUDGET__REQUESTS_PER_MINUTE": "0",
    }


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Path]:
    """Mount a file system of its own on the directory; skip where this machine does not allow it."""
    directory.mkdir()
    made = subprocess.run(  # noqa: S603 (ours)
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(directory)],  # noqa: S607
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"needs the right to mount: {made.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)  # noqa: S603, S607 (the same)


@contextmanager
def read_only(directory: Path) -> Iterator[Path]:
    """Make a directory that this user cannot write to; root can, so for root it is mounted so."""
    if os.geteuid():
        directory.mkdir(mode=0o500)
        yield directory
        return
    with mounted(directory, "ro", "size=64k"):
        yield directory


def fill(file: Path) -> None:
    """Use up all that the file system has left."""
    with suppress(OSError), file.open("wb", buffering=0) as growing:
        while True:
            growing.write(bytes(512))


def test_a_read_only_directory_is_one_clear_error_at_the_start(tmp_path: Path) -> None:
    """It may be mended without new settings, so the start ends with 1; the message says where, why, and what to do."""
    with read_only(tmp_path / "state") as state:
        for arguments in (("run",), ("check",)):
            ended = command(*arguments, cwd=tmp_path, **variables(NOWHERE, state))
            assert ended.returncode == 1, ended.stdout
            # `check` goes on after it, and says it in a line of its own.
            said = ended.stderr.splitlines() + ended.stdout.splitlines()
            (line,) = (line for line in said if line.startswith(("product-live-worker", "FAIL  journal")))
            assert str(state / "worker.db") in line
            assert "state.url" in line
            assert any(why in line for why in ("Read-only file system", "Permission denied"))


def test_a_full_disk_at_the_start_is_one_clear_error(tmp_path: Path) -> None:
    """A journal that cannot even be made is said as that; nothing is claimed."""
    with mounted(tmp_path / "state", "size=64k") as state:
        (state / "big").write_bytes(bytes(60_000))
        ended = command("run", cwd=tmp_path, **variables(NOWHERE, state))
    assert ended.returncode == 1, ended.stdout
    (line,) = ended.stderr.splitlines()
    assert "full" in line or "No space" in line


async def test_a_real_disk_that_is_full_is_survived(tmp_path: Path) -> None:
    """On a small file system that somebody else fills: nothing more is claimed; with room again, all is done once."""
    world = new_world("power", limit=0)
    with mounted(tmp_path / "state", "size=2m") as state:
        async with (
            sandbox.serve(world) as url,
            running("run", cwd=tmp_path, variables=variables(url, state)) as worker,
        ):
            first = world.submit("power", {"power": 1}, 0.0)
            await until(lambda: first.status == "COMPLETED")
            filled = state / "somebody-elses"
            fill(filled)
            # What has room in the log that is there already may still be written.
            given = [world.submit("power", {"power": number}, 0.0) for number in range(2, 60)]
            await until(lambda: "the journal cannot be written" in worker.output)
            filled.unlink()
            await until(lambda: all(execution.status == "COMPLETED" for execution in (first, *given)))
            states = "SELECT DISTINCT state FROM executions"
            await until(lambda: query(state / "worker.db", states) == [("REPORTED",)])
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0
    assert [execution.output for execution in given] == [{"result": 2**number} for number in range(2, 60)]


async def test_damage_that_shows_when_the_rows_are_read_ends_the_start(tmp_path: Path) -> None:
    """Results that cannot be read any more would wait for ever, unseen: the worker says so and exits 78."""
    state = tmp_path / "state"
    world = new_world("power")
    async with sandbox.serve(world) as url:
        made = await anyio.to_thread.run_sync(lambda: command("check", cwd=tmp_path, **variables(url, state)))
        assert made.returncode == 0, made.stderr
        path = state / "worker.db"
        add_reported(path, 500, platform=url)
        query(path, "UPDATE executions SET state = 'SETTLED', output = '{}', reported_at = NULL")
        ((page,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'executions_open'")
        ((size,),) = query(path, "PRAGMA page_size")
        with path.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        ended = await anyio.to_thread.run_sync(lambda: command("run", cwd=tmp_path, **variables(url, state)))
    assert ended.returncode == EX_CONFIG, ended.stdout + ended.stderr
    assert str(path) in ended.stderr
    assert "damaged" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_only_read_needs_no_right_to_write(tmp_path: Path) -> None:
    """`executions list` and `show` answer while another process has locked the file, and leave nothing behind."""
    state = tmp_path / "state"
    missing = command("executions", "list", cwd=tmp_path, **variables(NOWHERE, state))
    assert (missing.returncode, "no journal" in missing.stderr, state.exists()) == (1, True, False)
    assert command("check", cwd=tmp_path, **variables(NOWHERE, state)).returncode == 1
    add_reported(state / "worker.db", 3, platform=NOWHERE)
    before = {file.name for file in state.iterdir()}
    listed = command("executions", "list", "--json", cwd=tmp_path, **variables(NOWHERE, state))
    rows = json.loads(listed.stdout)
    assert [row["correlation_id"] for row in rows] == ["job-2", "job-1", "job-0"]
    assert {file.name for file in state.iterdir()} == before
    with closing(sqlite3.connect(state / "worker.db", isolation_level=None)) as stopped:
        stopped.execute("BEGIN IMMEDIATE")
        stopped.execute("DELETE FROM executions")
        shown = command("executions", "show", rows[0]["id"], "--json", cwd=tmp_path, **variables(NOWHERE, state))
        assert json.loads(shown.stdout)["correlation_id"] == "job-2"
        refused = command("executions", "discard", rows[0]["id"], cwd=tmp_path, **variables(NOWHERE, state))
    assert (refused.returncode, "locked" in refused.stderr, "Traceback" in refused.stderr) == (1, True, False)

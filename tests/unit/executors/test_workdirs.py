"""Directories of executions: private, gone with all that is in them, and so is what dead workers have left."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from product_live_worker.executors.workdirs import BATCH, Workdirs, remove_tree
from product_live_worker.model.errors import WorkdirUnusable
from support.processes import running
from support.workers import until

pytestmark = pytest.mark.anyio

NOBODY = 65534
HOLD = """
import sys, time, anyio
from pathlib import Path
from product_live_worker.executors.workdirs import Workdirs

async def main():
    async with Workdirs.open(Path(sys.argv[1])) as workdirs:
        left = workdirs.new("e1")
        left.mkdir()
        (left / "data").write_text("x")
        print("ready", flush=True)
        sys.stdin.read()

anyio.run(main)
"""


def mess(top: Path, outside: Path) -> None:
    """Leave all that a handler may leave."""
    top.mkdir(parents=True)
    (top / "link-to-a-file").symlink_to(outside / "kept.txt")
    (top / "link-to-a-directory").symlink_to(outside)
    (top / "link-to-nothing").symlink_to(top / "gone")
    os.mkfifo(top / "pipe")
    (top / "caf\udce9").write_text("a name that is no UTF-8")
    locked = top / "read-only" / "inner"
    locked.mkdir(parents=True)
    (locked / "file").write_text("x")
    (locked / "file").chmod(0)
    locked.chmod(0o500)
    locked.parent.chmod(0)


async def test_a_directory_goes_with_all_that_is_in_it_and_nothing_else(tmp_path: Path) -> None:
    """Links are removed, never followed; read-only directories, pipes and odd names are no hindrance."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    outside.chmod(0o750)
    async with Workdirs.open(tmp_path / "work") as workdirs:
        directory = workdirs.new("e1")
        mess(directory, outside)
        await workdirs.remove(directory)
        assert not directory.exists()
        (own,) = (path for path in (tmp_path / "work").iterdir() if path.is_dir())
        assert list(own.iterdir()) == []
    assert list((tmp_path / "work").iterdir()) == []
    assert (outside / "kept.txt").read_text() == "kept"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o750


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can become somebody else")
def test_read_only_directories_are_no_hindrance_to_a_plain_user() -> None:
    """Root is not asked for permissions, so somebody else tries."""
    home = Path(tempfile.mkdtemp())
    os.chown(home, NOBODY, NOBODY)
    code = (
        "import os; from pathlib import Path\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"top = Path({str(home)!r}) / 'top'; inner = top / 'a' / 'b'; inner.mkdir(parents=True)\n"
        "(inner / 'f').write_text('x'); inner.chmod(0o500); inner.parent.chmod(0)\n"
        "print(repr(remove_tree(top)), top.exists())"
    )
    # Imported before it becomes somebody who may not read this checkout.
    code = "from product_live_worker.executors.workdirs import remove_tree\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 (our own code)
    home.rmdir()
    assert done.stdout == "'' False\n"


def test_depth_and_number_are_no_hindrance(tmp_path: Path) -> None:
    """A tree deeper than a path may be long, and a directory of more files than are looked at in one go."""
    top = tmp_path / "top"
    top.mkdir()
    # From the inside out: the whole path would be too long.
    for _ in range(1500):
        (tmp_path / "outer").mkdir()
        top.rename(tmp_path / "outer" / "deeper")
        (tmp_path / "outer").rename(top)
    wide = top / "wide"
    wide.mkdir()
    for number in range(BATCH + 10):
        (wide / str(number)).touch()
    assert remove_tree(top) == ""
    assert not top.exists()


def test_what_is_no_directory_is_removed_as_what_it_is(tmp_path: Path) -> None:
    """A handler may have replaced its directory by a link to another."""
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    assert remove_tree(tmp_path / "link") == ""
    assert remove_tree(tmp_path / "never-made") == ""
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


async def test_who_still_writes_finds_its_paths_gone(tmp_path: Path) -> None:
    """A thread that was left behind cannot make its directory again below the one that is removed."""
    async with Workdirs.open(tmp_path) as workdirs:
        directory = workdirs.new("e1")
        directory.mkdir()
        failed = threading.Event()

        def write() -> None:
            number = 0
            try:
                while True:
                    (directory / str(number % 100)).write_text("x")
                    number += 1
            except OSError:
                failed.set()

        thread = threading.Thread(target=write)
        thread.start()
        await workdirs.remove(directory)
        assert failed.wait(10)
        thread.join()
        assert not directory.exists()


async def test_what_a_killed_worker_has_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    """Told apart by a lock that the kernel lets go of, however a process ends."""
    base, program = tmp_path / "work", (sys.executable, "-c", HOLD)
    async with (
        running(str(base), cwd=tmp_path, variables={}, program=program) as dead,
        running(str(base), cwd=tmp_path, variables={}, program=program) as alive,
    ):
        await until(lambda: "ready" in dead.output and "ready" in alive.output)
        dead.process.kill()
        await dead.ended()
        assert len(list(base.glob("*/1-e1/data"))) == 2
        async with Workdirs.open(base) as workdirs:
            await workdirs.sweep()
            assert [path.parts[-3].partition("-")[0] for path in base.glob("*/1-e1/data")] == [str(alive.process.pid)]
            assert len(list(base.glob("*.lock"))) == 2
        assert alive.process.stdin is not None
        await alive.process.stdin.aclose()
        assert await alive.ended() == 0
    assert list(base.iterdir()) == []


async def test_an_id_is_no_path(tmp_path: Path) -> None:
    """The platform's word for an execution cannot lead elsewhere, and two of one name do not meet."""
    async with Workdirs.open(tmp_path) as workdirs:
        named = [workdirs.new(name) for name in ("e1", "e1", "../../up", "", "a/b", "x" * 300)]
    assert len(set(named)) == len(named)
    assert len({path.parent for path in named}) == 1


async def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """Which setting, what was found, what is allowed."""
    (tmp_path / "file").touch()
    with pytest.raises(WorkdirUnusable, match=r"execution\.workdir") as caught:
        async with Workdirs.open(tmp_path / "file"):
            raise AssertionError
    assert str(tmp_path / "file") in str(caught.value)

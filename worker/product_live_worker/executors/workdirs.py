"""A directory for each execution, private and gone with it; what a killed worker has left goes at the next start."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Self

import anyio
import anyio.to_thread

from product_live_worker.model.errors import WorkdirUnusable
from product_live_worker.telemetry.log import log_for

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover (Windows: handlers are written there, no worker is left running)
    fcntl = None

LOCK = ".lock"
CLOSING = 5.0
"""Seconds that the removal of everything may take at the end; the next start does the rest."""
BATCH = 1000
"""Entries of a directory that are looked at in one go: one with a million files must not fill the memory."""


class Workdirs:
    """The directories of a worker's executions, in one of its own under `base`, which several workers may share.

    `base/NAME` is a worker's, and `base/NAME.lock` is locked for as long as it lives.
    """

    def __init__(self, base: Path, own: Path) -> None:
        self._base = base
        self._own = own
        self._count = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def open(cls, base: Path) -> AsyncIterator[Self]:
        """Have a directory under `base` while the block runs; raises WorkdirUnusable where none can be made."""
        own = base / f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            descriptor = _made(own)
        except OSError as error:
            raise WorkdirUnusable(
                f"execution.workdir: no directory can be made in {base} ({error.strerror}); allowed is a directory "
                f"that the worker may write to"
            ) from error
        try:
            yield cls(base, own)
        finally:
            with anyio.move_on_after(CLOSING, shield=True):
                if not await anyio.to_thread.run_sync(remove_tree, own, abandon_on_cancel=True):
                    own.with_suffix(LOCK).unlink(missing_ok=True)
            os.close(descriptor)

    def new(self, execution: str) -> Path:
        """Name the directory of an execution; it is made when it is first used."""
        # An id is the platform's word: only a harmless one becomes a part of a path.
        shown = execution if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", execution) else "execution"
        return self._own / f"{next(self._count)}-{shown}"

    async def remove(self, directory: Path) -> None:
        """Remove an execution's directory, if it was made; what cannot be removed is told, and left for the next start.

        A thread that is left behind finds its paths gone at once, however long the rest takes.
        """
        if (doomed := _out_of_the_way(directory)) is None:
            return
        if why := await anyio.to_thread.run_sync(remove_tree, doomed, abandon_on_cancel=True):
            log_for().warning("a work directory is left for the next start to remove", directory=str(doomed), why=why)

    async def sweep(self) -> None:
        """Remove what workers that are dead have left."""
        left = await anyio.to_thread.run_sync(self._sweep, abandon_on_cancel=True)
        for directory, why in left.items():
            log_for().warning("a work directory of a dead worker cannot be removed", directory=directory, why=why)

    def _sweep(self) -> dict[str, str]:
        left = {}
        for lock in self._base.glob(f"*{LOCK}"):
            directory = lock.with_suffix("")
            if directory == self._own or (descriptor := _lock_of_the_dead(lock)) is None:
                continue
            if why := remove_tree(directory):
                left[str(directory)] = why
            else:
                lock.unlink(missing_ok=True)
            os.close(descriptor)
        return left


def remove_tree(top: Path) -> str:
    """Remove a directory with all that is in it; gives why that is not possible, or nothing.

    Nothing outside of it is touched: a symbolic link is removed, never followed. Subdirectories are moved up before
    they are emptied, so that neither depth nor the length of paths counts; each is made writable first.
    """
    aside, count = secrets.token_hex(4), itertools.count()
    try:
        if not stat.S_ISDIR(top.lstat().st_mode):
            top.unlink()
            return ""
        top.chmod(0o700)
        doomed = [top]
        while doomed:
            for entry in (entries := _some(doomed[-1])):
                # What still writes here, or removes, is not waited for.
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        Path(entry).chmod(0o700)
                        doomed.append(Path(entry).rename(top / f"{aside}.{next(count)}"))
                    else:
                        Path(entry).unlink()
            if not entries:
                with contextlib.suppress(FileNotFoundError):
                    doomed[-1].rmdir()
                doomed.pop()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    return ""


def _some(directory: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        return list(itertools.islice(entries, BATCH))
    return []


def _made(own: Path) -> int:
    own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = _lock(own.with_suffix(LOCK))
    own.mkdir(mode=0o700)
    return descriptor


def _out_of_the_way(directory: Path) -> Path | None:
    doomed = directory.with_name(f"{secrets.token_hex(4)}.gone")
    try:
        return directory.rename(doomed)
    except FileNotFoundError:
        return None
    except OSError:
        return directory


def _lock(path: Path) -> int:
    """Make a file and lock it; who sweeps may have taken it for a dead worker's in between."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is None:
            return descriptor
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _lock_of_the_dead(path: Path) -> int | None:
    """Lock a file that nobody locks; None where its owner lives, or nothing can be proven."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor

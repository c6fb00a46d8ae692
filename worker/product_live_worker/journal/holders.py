"""Who has a row in hand: a process, known by a name that is never used twice, alive as long as it locks its file."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from product_live_worker.journal.clock import boot_id
from product_live_worker.model.errors import JournalUnwritable

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # pragma: no cover (Windows: handlers are written there, no worker is left running)
    fcntl = None


def new_holder() -> str:
    """Name this process: host, boot, process and chance, so that a reborn pod of the same name is another holder."""
    return f"{socket.gethostname()}.{boot_id()[:8]}.{os.getpid()}.{uuid.uuid4().hex[:8]}"


def process_of(holder: str) -> str:
    """Give the process of a holder: one that lost its lease goes on under a new name."""
    return holder.partition("#")[0]


@contextmanager
def hold(directory: Path, process: str) -> Iterator[None]:
    """Be seen alive while the block runs; the kernel lets go of the lock however the process ends.

    Raises JournalUnwritable where the file cannot be made.
    """
    path = directory / process
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise JournalUnwritable(f"no file can be made in {directory}, beside the journal: {error.strerror}") from error
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def is_dead(directory: Path, process: str) -> bool:
    """Whether the process is provably gone: nobody locks its file. Where files cannot be locked, nothing is proven."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(directory / process, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        with contextlib.suppress(OSError):
            (directory / process).unlink()
        return True
    finally:
        os.close(descriptor)

"""A real Dask cluster: a scheduler and workers, processes of their own on loopback ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.processes import environment

DASK = "support.dask_clusters"


@dataclass
class Cluster:
    """A scheduler, and the workers that were started for it."""

    directory: Path
    port: int = 0
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where the scheduler is."""
        return f"tcp://127.0.0.1:{self.port}"

    def start_scheduler(self) -> None:
        """Start the scheduler, again on the same port; waits until it listens."""
        said = self.directory / "scheduler.log"
        lines = len(said.read_text().splitlines()) if said.exists() else 0
        self.scheduler = self._dask("scheduler", "--host", "127.0.0.1", "--port", str(self.port), log=said)
        words = "Scheduler at: "
        line = _line(said, words, after=lines)
        self.port = int(line.rpartition(":")[2])

    def start_worker(self, threads: int = 16, path: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a worker without a nanny, so that what it dies of is final; waits until the scheduler has it.

        `path` is where it finds modules first.
        """
        number = len(self.workers)
        said = self.directory / f"worker-{number}.log"
        worker = self._dask(
            "worker", self.address, "--host", "127.0.0.1", "--no-nanny", "--nthreads", str(threads),
            "--local-directory", str(self.directory), log=said, path=path,
        )  # fmt: skip
        self.workers.append(worker)
        _line(said, "Registered to: ")
        return worker

    def stop(self) -> None:
        """Kill all that was started."""
        for process in (*self.workers, self.scheduler):
            if process is not None:
                process.kill()
                process.send_signal(signal.SIGCONT)
                process.wait()

    def _dask(self, *arguments: str, log: Path, path: Path | None = None) -> subprocess.Popen[bytes]:
        paths = [str(path), *sys.path] if path else sys.path
        environ = environment(PYTHONPATH=os.pathsep.join(paths), PYTHONUNBUFFERED="1")
        command = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
        with log.open("ab") as said:
            return subprocess.Popen([*command, "--no-dashboard"], env=environ, stdout=said, stderr=said)  # noqa: S603 (our own)


def _line(log: Path, words: str, after: int = 0) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines()[after:] if log.exists() else ():
            if words in line:
                return line
        time.sleep(0.02)
    raise TimeoutError(f"{words!r} was never said: {log.read_text()}")


@contextmanager
def cluster(directory: Path, *, workers: int = 1, threads: int = 16) -> Iterator[Cluster]:
    """Keep a cluster while the block runs."""
    it = Cluster(directory)
    try:
        it.start_scheduler()
        for _ in range(workers):
            it.start_worker(threads)
        yield it
    finally:
        it.stop()


class Heard:
    """Who is told of outages of the cluster."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.lasts = False

    def failed(self, error: Exception) -> float:
        """Keep the reason."""
        self.reasons.append(str(error))
        self.lasts = True
        return 0.05

    def worked(self) -> None:
        """Keep that too."""
        self.lasts = False


def close_processes(address: str) -> None:
    """Have every Dask worker close the handlers' processes that wait there."""
    code = f"from {DASK} import _close_all; _close_all({address!r})"
    environ = environment(PYTHONPATH=os.pathsep.join(sys.path))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environ, check=True)  # noqa: S603 (our own)


def _close_all(address: str) -> None:
    from distributed import Client  # noqa: PLC0415 (in a process of its own)

    with Client(address, set_as_default=False) as client:  # type: ignore[no-untyped-call]  # Dask is typed in parts
        client.run(_close)


async def _close(dask_worker: Any) -> None:
    await dask_worker.plugins["product-live-worker"].processes.close()

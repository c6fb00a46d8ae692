"""The storm: the real worker is killed again and again while its platform fails in every way; then the laws hold.

`make chaos` runs it. Tasks have no response timeout: a claim that is lost on the wire stays lost and can be counted,
instead of coming back under another id.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import anyio
import psycopg

from support.chaos_laws import Kill, Record, broken_laws, table
from support.journals import Place, all_rows, url_of
from support.noted_handlers import TASKS, notes
from support.plugins import install
from support.processes import Running, running
from support.watched_sandbox import WatchedSandbox, watched_sandbox
from support.workers import until

LIMIT, WINDOW = 30, 2.0
"""The budget, scaled down from 50 in a minute so that a window passes within the life of a worker."""
TOTAL_TIMEOUT = 3.0
LATE = 4.0
"""Seconds that a late answer takes: the worker has given up by then."""
CALM = 120.0
"""Seconds at most that the work takes after the storm."""

Fault = dict[str, Any]


@dataclass(frozen=True)
class Storm:
    """How much of it; the same seed brings the same faults, inputs and lives, though not the same interleaving."""

    seed: int = 1
    executions: int = 320
    kills: int = 64
    longest: float = 590.0
    """Seconds after which it is given up."""


def faults(seed: int) -> list[Fault]:
    """Give all the faults, about one request in five; each has a generator of its own."""
    numbers = itertools.count(seed * 1000)
    return [
        {"operations": [operation], "seed": next(numbers), **fault}
        for operation in ("poll", "update_execution", "read_execution")
        for fault in _of_every_kind()
    ]


def _of_every_kind() -> Iterator[Fault]:
    yield {"kind": "status", "status": 503, "probability": 0.02}
    yield {"kind": "status", "status": 503, "retry_after": 1, "probability": 0.01}
    yield {"kind": "status", "status": 500, "effect": True, "probability": 0.01}
    yield {"kind": "status", "status": 429, "probability": 0.01}
    yield {"kind": "status", "status": 429, "retry_after": 1, "probability": 0.01}
    yield {"kind": "delay", "seconds": 0.3, "before": "effect", "probability": 0.02}
    yield {"kind": "delay", "seconds": 0.3, "before": "answer", "probability": 0.02}
    yield {"kind": "delay", "seconds": LATE, "before": "effect", "probability": 0.005}
    yield {"kind": "delay", "seconds": LATE, "before": "answer", "probability": 0.01}
    yield {"kind": "cut_before", "probability": 0.02}
    yield {"kind": "cut_after", "probability": 0.02}
    yield {"kind": "truncate", "probability": 0.02}
    yield {"kind": "garbage", "probability": 0.01}
    yield {"kind": "garbage", "effect": True, "probability": 0.01}
    yield {"kind": "html", "probability": 0.01}
    yield {"kind": "html", "effect": True, "probability": 0.01}
    yield {"kind": "wrong_type", "probability": 0.02}
    yield {"kind": "slow_body", "seconds": 0.05, "bytes": 64, "probability": 0.02}
    yield {"kind": "slow_body", "seconds": 1.0, "bytes": 64, "probability": 0.005}


@dataclass
class _Run:
    storm: Storm
    directory: Path
    place: Place
    sandbox: WatchedSandbox
    random: Random
    numbers: Iterator[int] = field(default_factory=itertools.count)
    killed: dict[int, Kill] = field(default_factory=dict)
    crashed: list[str] = field(default_factory=list)
    ambiguous: int = 0

    async def live(self, seconds: float, *, during_start: bool) -> None:
        """Let a worker live for so long after its first request, or after its birth, and kill it."""
        begun = len(self.sandbox.seen)
        async with self.worker() as worker:
            if not during_start:
                await until(lambda: len(self.sandbox.seen) > begun or worker.process.returncode is not None)
            self.submit(-(-self.storm.executions // self.storm.kills))
            await anyio.sleep(seconds)
            # One that has ended by itself is a crash, which the laws forbid.
            if worker.process.returncode is None:
                worker.send(signal.SIGKILL)
            code = await worker.ended()
            self.killed[self.sandbox.worker] = Kill(worker.process.pid, time.monotonic(), during_start)
        self.look(worker, code, expected=-signal.SIGKILL)

    async def calm(self) -> None:
        """Let a worker finish all that is left, and end it in an orderly way."""
        self.sandbox.faults.clear()
        begun = len(self.sandbox.seen)
        async with self.worker() as worker:
            with anyio.move_on_after(CALM):
                # Also when nothing is left to do: a process that is not up yet knows no orderly end.
                await until(lambda: len(self.sandbox.seen) > begun and self.is_done())
            worker.send(signal.SIGTERM)
            code = await worker.ended()
        self.look(worker, code, expected=0)

    def worker(self) -> AbstractAsyncContextManager[Running]:
        """Start a worker: the command as a customer has it, with the tests' handlers as a plugin."""
        self.sandbox.worker += 1
        variables = {
            "PLW_API__BASE_URL": self.sandbox.url,
            "PLW_API__KEY": "sandbox-key",
            "PLW_API__TOTAL_TIMEOUT": f"{TOTAL_TIMEOUT}s",
            "PLW_BUDGET__REQUESTS_PER_MINUTE": str(LIMIT),
            "PLW_BUDGET__WINDOW": f"{WINDOW}s",
            "PLW_HTTP__PORT": "0",
            "PLW_DRAIN__TIMEOUT": "10s",
            "PLW_STATE__URL": url_of(self.place),
            # In a file the dead are known at once; on a server nobody is before a lease has ended.
            "PLW_STATE__LEASE": "30s" if isinstance(self.place, Path) else "2s",
            "NOTES": str(self.directory / "notes"),
            **install(self.directory / "plugin", "support.noted_handlers", *TASKS),
        }
        return running("run", cwd=self.directory, variables=variables)

    def submit(self, count: int) -> None:
        """Submit executions of tasks drawn by lot, some of which take a while."""
        for _ in range(count):
            seconds = self.random.choice((0.0, 0.3, 1.0, 2.0))
            self.sandbox.submit(self.random.choice(TASKS), number=next(self.numbers), seconds=seconds)

    def look(self, worker: Running, code: int, *, expected: int) -> None:
        """Keep what the worker has said, where the laws need it."""
        self.ambiguous += worker.output.count("a poll may have claimed")
        if code != expected or "a stage of the worker died" in worker.output:
            self.crashed.append(f"worker {self.sandbox.worker} ended with {code}: {worker.output[-3000:]}")

    def is_done(self) -> bool:
        """Whether nothing waits to be claimed, and nothing that was claimed waits in the journal."""
        executions = self.sandbox.world.executions.values()
        return all(e.status != "SCHEDULED" for e in executions) and all(
            row["state"] == "REPORTED" for row in rows(self.place).values()
        )


def rows(place: Place) -> dict[str, dict[str, Any]]:
    """Read the journal, by execution; there is none before the first worker has made one."""
    try:
        return {row["id"]: row for row in all_rows(place)}
    except psycopg.errors.UndefinedTable:
        return {}


def file_in(directory: Path) -> Path:
    """Give where a worker has its journal that was not told."""
    return directory / "state" / "worker.db"


async def run(storm: Storm, directory: Path, place: Place | None = None) -> Record:
    """Let the storm rage and calm down; gives what is on record afterwards. The journal is a file, or at `place`."""
    place = place or file_in(directory)
    began, random = time.monotonic(), Random(storm.seed)
    async with watched_sandbox(*TASKS, limit=LIMIT, window=WINDOW) as sandbox:
        sandbox.faults.extend(faults(storm.seed))
        it = _Run(storm, directory, place, sandbox, random)
        with anyio.fail_after(storm.longest):
            for _ in range(storm.kills):
                during_start = random.random() < 0.1
                seconds = random.uniform(0.1, 1.0) if during_start else min(6.0, random.expovariate(1 / 2.0))
                await it.live(seconds, during_start=during_start)
            await it.calm()
        return Record(
            executions=dict(sandbox.world.executions),
            seen=sandbox.seen,
            arrivals=sandbox.world.arrivals,
            limiter=sandbox.world.limiter,
            rows=rows(place),
            notes=notes(directory / "notes"),
            killed=it.killed,
            crashed=it.crashed,
            ambiguous=it.ambiguous,
            answer_in_time=TOTAL_TIMEOUT * 0.8,
            seconds=time.monotonic() - began,
        )


def main() -> None:
    """Run a storm, print its table, and fail if a law was broken."""
    usual = Storm()
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--executions", type=int, default=usual.executions)
    parser.add_argument("--kills", type=int, default=usual.kills)
    parser.add_argument("--postgres", metavar="URL", help="an empty database for the journal, instead of a file")
    given = vars(parser.parse_args())
    place = given.pop("postgres")
    storm = Storm(**given)
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    record = anyio.run(run, storm, directory, place)
    broken = broken_laws(record)
    sys.stdout.write("\n".join([*table(record, storm.seed), *(f"BROKEN: {law}" for law in broken), ""]))
    sys.stdout.write(f"the journal and the notes are in {directory}\n")
    sys.stdout.flush()
    os._exit(1 if broken else 0)


if __name__ == "__main__":
    main()

"""A journal with a million reported rows beside an empty one: claim, settle, start-up."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.journals import add_reported, opened, unordered

from benchmarks.figures import Report, Row, median
from benchmarks.machine import load
from benchmarks.scale import Scale
from product_live_worker.journal.journal import Journal
from product_live_worker.model.execution import Execution, Outcome

ROWS = 1_000_000
ROUNDS = 7
EXECUTIONS = 300
"""Claimed and settled in a round, one after the other: each step is a commit of its own."""
MOST = 1.5
DONE = Outcome.completed({"result": 8})


async def run(scale: Scale) -> Report:
    """Measure both, in turns, so that a noisy neighbour meets both."""
    empty: dict[str, list[float]] = {}
    full: dict[str, list[float]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path in (folder / "empty.db", folder / "full.db"):
            async with opened(path):
                pass
        began = time.perf_counter()
        add_reported(folder / "full.db", ROWS)
        filled, size = time.perf_counter() - began, (folder / "full.db").stat().st_size / 2**20
        for _ in range(ROUNDS):
            for kind, found in (("empty", empty), ("full", full)):
                # A copy each time: neither shall know of the last round.
                path = folder / "measured.db"
                shutil.copyfile(folder / f"{kind}.db", path)
                for what, seconds in (await _measured(path)).items():
                    found.setdefault(what, []).append(seconds)
                path.unlink()
    return Report(
        "journal-million: a journal with a million reported rows",
        [_row(what, median(empty[what]), median(full[what])) for what in empty],
        f"Medians of {ROUNDS} rounds of {EXECUTIONS} executions, on a real disk. Start-up is opening the file with its "
        "checks, the budget's window, the lease and the first recovery, in a process that runs already. The million rows "
        f"are {size:.0f} MB, and took {filled:.0f} s to put there.",
        beside="empty journal",
    )


def _row(what: str, empty: float, full: float) -> Row:
    ratio = full / empty
    return Row(
        what,
        f"{full * 1000:.2f} ms, {ratio:.2f} ×",
        f"≤ {MOST} ×",
        "1 ×",
        f"{empty * 1000:.2f} ms",
        met=ratio <= MOST,
        reason=f"the load average was {load():.1f}.",
    )


async def _measured(path: Path) -> dict[str, float]:
    async with opened(path) as journal:
        found = await _executions(journal)
    began = time.perf_counter()
    async with opened(path) as journal:
        await journal.take_over()
        found["start-up"] = time.perf_counter() - began
        began = time.perf_counter()
        await journal.take_over()
        found["recovery, as it is repeated"] = time.perf_counter() - began
        began = time.perf_counter()
        await journal.prune(0.0)
        found["a look for rows to prune"] = time.perf_counter() - began
    return found


async def _executions(journal: Journal) -> dict[str, float]:
    claiming = settling = 0.0
    for number in range(EXECUTIONS):
        began = time.perf_counter()
        execution, _ = await journal.claim(_execution(number))
        claiming += time.perf_counter() - began
        execution = await journal.start(execution)
        began = time.perf_counter()
        execution = await journal.settle(execution, DONE)
        settling += time.perf_counter() - began
        await journal.close(execution)
    return {"claim": claiming / EXECUTIONS, "settle": settling / EXECUTIONS}


def _execution(number: int) -> Execution:
    return Execution(
        id=unordered("new id", number),
        task_id="t1",
        task="power",
        input={"power": 3},
        claimed_at=time.time(),
        idempotency_key=unordered("new key", number),
    )

"""What was reported costs nothing: no verb's work grows with the rows that are done with."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from product_live_worker.journal.journal import Journal
from product_live_worker.journal.records import open_records
from product_live_worker.model.action import Action
from product_live_worker.model.execution import State
from product_live_worker.model.window import Demand
from support.journals import DONE, PLATFORM, add_reported, an_execution, in_state, opened

pytestmark = pytest.mark.anyio

DONE_WITH = 20_000


class Steps:
    """Counts the steps of SQLite's machine in this process: the same on every computer, however busy it is."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._doing = ""

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count on every connection that is opened meanwhile."""
        event.listen(Engine, "connect", self._watch)
        try:
            yield
        finally:
            event.remove(Engine, "connect", self._watch)

    @contextmanager
    def of(self, doing: str) -> Iterator[None]:
        """Put the steps of the block down to this."""
        self._doing = doing
        yield
        self._doing = ""

    def _watch(self, connection: sqlite3.Connection, _: Any) -> None:
        connection.set_progress_handler(self._step, 1)

    def _step(self) -> None:
        self.spent[self._doing] += 1


async def _life(path: Path, steps: Steps) -> None:
    """Do all that a worker does with its journal, once."""
    with steps.of("open"):
        opening = opened(path)
        journal = await opening.__aenter__()
    await _work(journal, steps)
    with steps.of("leave"):
        await opening.__aexit__(None, None, None)
    with open_records(f"sqlite:///{path}", platform=PLATFORM, to_write=True) as records:
        with steps.of("list"):
            records.find(states=(State.UNDELIVERABLE,))
        with steps.of("show"):
            records.get("e1")
        with steps.of("redeliver"):
            records.act(Action(verb="redeliver", subject="e2", who="anna", at=1e9))


async def _work(journal: Journal, steps: Steps) -> None:
    with steps.of("recover"):
        await journal.take_over()
    with steps.of("claim"):
        execution, _ = await journal.claim(an_execution(idempotency_key="k"))
    with steps.of("repeat"):
        await journal.earlier(execution)
    with steps.of("start"):
        execution = await journal.start(execution)
    with steps.of("checkpoint"):
        execution = await journal.save_checkpoint(execution, {"at": 1})
    with steps.of("settle"):
        execution = await journal.settle(execution, DONE)
    with steps.of("must_hold"):
        await journal.must_hold(execution.id)
    with steps.of("postpone"):
        execution = await journal.postpone(execution, "no answer")
    with steps.of("close"):
        await journal.close(execution)
    with steps.of("again"):
        await journal.claim(an_execution())
    await in_state(journal, State.UNDELIVERABLE, an_execution("e2"))
    with steps.of("recover again"):
        await journal.take_over()
    with steps.of("renew"):
        await journal.renew()
    with steps.of("prune"):
        # A little before all that the test has put there.
        assert await journal.prune(9e8) == 0
    with steps.of("act"):
        await journal.board.act(Action(verb="pause", who="anna", at=time.time()))
    with steps.of("look"):
        assert len(await journal.board.look()) == 1
    with steps.of("survey"):
        await journal.board.survey()
    with steps.of("failures"):
        assert await journal.board.failures() == []
    with steps.of("slot"):
        slot = await journal.ledger.take(Demand(limit=50, hold=60))
        assert isinstance(slot, int)
        journal.ledger.answered(slot, time.monotonic())


async def test_no_verb_does_more_work_for_rows_that_are_done_with(tmp_path: Path) -> None:
    """With twenty thousand reported rows every verb, the start and recovery take the steps they take with none."""
    empty, full = Steps(), Steps()
    async with opened(tmp_path / "full.db"):
        pass
    add_reported(tmp_path / "full.db", DONE_WITH)
    async with opened(tmp_path / "empty.db"):
        pass
    for steps, name in ((empty, "empty.db"), (full, "full.db")):
        with steps.counted():
            await _life(tmp_path / name, steps)
    more = {
        doing: (empty.spent[doing], count) for doing, count in full.spent.items() if count > empty.spent[doing] + 50
    }
    assert more == {}
    assert {"open", "claim", "settle", "recover", "prune", "list"} <= set(full.spent)

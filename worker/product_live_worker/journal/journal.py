"""The journal's verbs: what the stages write down, and how each learns of what the others left for it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy import Connection, bindparam, delete, func, insert, make_url, select, update

from product_live_worker.journal.clock import boot_id, boot_now
from product_live_worker.journal.database import open_database
from product_live_worker.journal.holders import hold, is_dead, new_holder
from product_live_worker.journal.ledger import JournalLedger
from product_live_worker.journal.rows import from_row, outcome_columns, to_row
from product_live_worker.journal.tables import executions
from product_live_worker.journal.writer import Writer
from product_live_worker.model.errors import IllegalTransition
from product_live_worker.model.execution import IN_HAND, TRANSITIONS, Execution, Outcome, State

# Built once: what SQLAlchemy makes of a statement is kept with the statement.
_ROW = (executions.c.platform == bindparam("this_platform")) & (executions.c.id == bindparam("this_id"))
_INSERT = insert(executions)
_FIND = select(executions).where(_ROW)
_ADVANCE = update(executions).where(
    _ROW, executions.c.holder == bindparam("this_holder"), executions.c.state == bindparam("this_state")
)


class Journal:
    """The executions that this process holds; what is in memory follows each commit, never goes before it."""

    def __init__(
        self,
        writer: Writer,
        ledger: JournalLedger,
        *,
        platform: str,
        holder: str,
        holders: Path,
        keep_payloads: bool,
    ) -> None:
        self.ledger = ledger
        self._keep_payloads = keep_payloads
        self.holder = holder
        self._writer = writer
        self._platform = platform
        self._holders = holders
        self._open: dict[str, Execution] = {}
        self._in_hand: Counter[str] = Counter()
        self._fresh: dict[State, deque[str]] = {State.CLAIMED: deque(), State.SETTLED: deque()}
        self._changed = anyio.Event()
        self.undeliverable = 0
        """How many rows of this platform the platform refuses for good."""

    # What is there

    def get(self, execution_id: str) -> Execution | None:
        """Give an execution that this process holds and that is not reported yet."""
        return self._open.get(execution_id)

    def open_executions(self) -> Iterable[Execution]:
        """Give all that this process holds and has not reported yet, the oldest claim first."""
        return tuple(self._open.values())

    def in_hand(self, task: str) -> int:
        """Count the task's CLAIMED and RUNNING executions: what its concurrency is spent on."""
        return self._in_hand[task]

    def total_in_hand(self) -> int:
        """Count all CLAIMED and RUNNING executions."""
        return self._in_hand.total()

    def unreported(self) -> int:
        """Count the executions that still owe the platform a report."""
        return len(self._open)

    def reports_waiting(self) -> int:
        """Count the SETTLED executions."""
        return len(self._open) - self._in_hand.total()

    async def changed(self) -> None:
        """Wait until any row has changed."""
        await self._changed.wait()

    async def next(self, state: State) -> Execution:
        """Wait for an execution that has newly come into `state`, and give each just once."""
        while True:
            while self._fresh[state]:
                execution = self._open.get(self._fresh[state].popleft())
                if execution is not None and execution.state is state:
                    return execution
            await self._changed.wait()

    # The verbs

    async def claim(self, execution: Execution) -> tuple[Execution, bool]:
        """Write a claim down before anything else happens; gives the row, and whether it is new."""

        def step(connection: Connection) -> Execution | None:
            known = self._find(connection, execution.id)
            if known is None:
                row = {"platform": self._platform, "holder": self.holder, **to_row(execution)}
                connection.execute(_INSERT, row)
            return known

        known = await self._writer.do(step)
        if known is None:
            self._remember(execution)
        return known or execution, known is None

    async def start(self, execution: Execution) -> Execution:
        """CLAIMED → RUNNING."""
        return await self._advance(execution.id, State.RUNNING, from_states=(State.CLAIMED,), started_at=time.time())

    async def settle(self, execution: Execution, outcome: Outcome) -> Execution:
        """CLAIMED or RUNNING → SETTLED: the outcome is fixed before its first report."""
        settled = {"outcome": outcome, "settled_at": time.time(), "input": None}
        return await self._advance(execution.id, State.SETTLED, from_states=IN_HAND, **settled)

    async def rerun(self, execution: Execution) -> Execution:
        """RUNNING → CLAIMED: run it again."""
        return await self._advance(execution.id, State.CLAIMED, from_states=IN_HAND, started_at=None)

    async def postpone(self, execution: Execution, trouble: str) -> Execution:
        """SETTLED stays SETTLED: a report got no final answer."""
        again = {"attempts": execution.attempts + 1, "trouble": trouble}
        return await self._advance(execution.id, State.SETTLED, from_states=(State.SETTLED,), **again)

    async def close(self, execution: Execution, trouble: str = "") -> Execution:
        """→ REPORTED: the platform has a final status; the payloads go unless they are to be kept."""
        closed = {"reported_at": time.time(), "trouble": trouble}
        return await self._advance(execution.id, State.REPORTED, from_states=tuple(State), **closed)

    async def give_up(self, execution: Execution, trouble: str) -> Execution:
        """SETTLED → UNDELIVERABLE: the platform refuses the outcome for good; it is kept."""
        refused = {"attempts": execution.attempts + 1, "trouble": trouble}
        row = await self._advance(execution.id, State.UNDELIVERABLE, from_states=(State.SETTLED,), **refused)
        self.undeliverable += 1
        return row

    async def take_over(self) -> list[Execution]:
        """Take the open rows of processes that are gone; gives those that were RUNNING when their process ended."""
        mine = executions.c.holder == self.holder
        open_rows = (executions.c.platform == self._platform) & (executions.c.state != State.REPORTED)
        others = select(executions.c.holder).where(open_rows, ~mine).distinct()
        holders = await self._writer.do(lambda connection: connection.execute(others).scalars().all())
        gone = [holder for holder in holders if is_dead(self._holders, holder)]

        def step(connection: Connection) -> list[Execution]:
            theirs = open_rows & executions.c.holder.in_(gone)
            rows = connection.execute(select(executions).where(theirs).order_by(executions.c.claimed_at)).all()
            connection.execute(update(executions).where(theirs).values(holder=self.holder))
            return [from_row(row) for row in rows]

        taken = await self._writer.do(step) if gone else []
        self.undeliverable = await self._writer.do(self._count_undeliverable)
        for execution in taken:
            if execution.state is not State.UNDELIVERABLE:
                self._remember(execution)
        return [execution for execution in taken if execution.state is State.RUNNING]

    async def prune(self, before: float) -> int:
        """Forget what was reported before that moment; gives how many rows."""
        old = (executions.c.platform == self._platform) & (executions.c.reported_at < before)
        step = delete(executions).where(old)
        return await self._writer.do(lambda connection: connection.execute(step).rowcount)

    # How they are done

    def _count_undeliverable(self, connection: Connection) -> int:
        here = (executions.c.platform == self._platform) & (executions.c.state == State.UNDELIVERABLE)
        # The open rows' index answers this only when asked in its own words.
        return connection.execute(select(func.count()).where(here, executions.c.state != "REPORTED")).scalar_one()

    def _columns(self, now: Execution, to: Execution) -> dict[str, Any]:
        values: dict[str, Any] = {"state": to.state.value} | {
            name: getattr(to, name)
            for name in ("started_at", "settled_at", "reported_at", "attempts", "trouble")
            if getattr(to, name) != getattr(now, name)
        }
        if to.outcome is not now.outcome:
            values |= outcome_columns(to.outcome)
        if to.state is State.REPORTED and not self._keep_payloads:
            values |= {"input": None, "output": None, "checkpoint": None}
        return values

    def _find(self, connection: Connection, execution_id: str) -> Execution | None:
        this = {"this_platform": self._platform, "this_id": execution_id}
        row = connection.execute(_FIND, this).one_or_none()
        return None if row is None else from_row(row)

    async def _advance(
        self, execution_id: str, state: State, *, from_states: Collection[State], **changes: Any
    ) -> Execution:
        now = self._open.get(execution_id)
        steps = () if now is None else (*TRANSITIONS[now.state], now.state)
        if now is None or now.state not in from_states or state not in steps:
            found = "not in hand" if now is None else now.state
            raise IllegalTransition(f"execution {execution_id} is {found}: it cannot become {state}")
        to = replace(now, state=state, **changes)
        row = {
            "this_platform": self._platform,
            "this_id": to.id,
            "this_holder": self.holder,
            "this_state": now.state.value,
            **self._columns(now, to),
        }

        def step(connection: Connection) -> None:
            if connection.execute(_ADVANCE, row).rowcount != 1:
                raise IllegalTransition(f"execution {to.id} was {now.state} here, but another worker has taken it over")

        await self._writer.do(step)
        self._remember(to)
        return to

    def _remember(self, execution: Execution) -> None:
        before = self._open.get(execution.id)
        if before is not None and before.state in IN_HAND:
            self._in_hand[before.task] -= 1
        if execution.state in (State.REPORTED, State.UNDELIVERABLE):
            self._open.pop(execution.id, None)
        else:
            self._open[execution.id] = execution
        if execution.state in IN_HAND:
            self._in_hand[execution.task] += 1
        moved = before is None or before.state is not execution.state
        if moved and execution.state in self._fresh:
            self._fresh[execution.state].append(execution.id)
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def open_journal(url: str, *, platform: str, window: float, keep_payloads: bool) -> AsyncIterator[Journal]:
    """Open the journal for one worker process on one platform; `window` is the budget's, in seconds.

    Raises JournalUnusable for a database that this worker must not touch, JournalUnwritable for a disk that refuses.
    """
    engine = await anyio.to_thread.run_sync(open_database, url)
    path = Path(make_url(url).database or "")
    holders, holder = path.with_name(f"{path.name}.holders"), new_holder()
    try:
        with hold(holders, holder):
            writer = Writer(engine)
            ledger = JournalLedger(writer, platform, now=boot_now, boot=boot_id())
            await ledger.open(window)
            yield Journal(
                writer, ledger, platform=platform, holder=holder, holders=holders, keep_payloads=keep_payloads
            )
    finally:
        engine.dispose()

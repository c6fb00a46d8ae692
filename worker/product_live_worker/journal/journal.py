"""The journal's verbs: what the stages write down, and how each learns of what the others left for it."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from product_live_worker.journal.board import Board
from product_live_worker.journal.callbacks import Callbacks
from product_live_worker.journal.database import open_database
from product_live_worker.journal.holders import new_holder
from product_live_worker.journal.key_leases import KeyLeases
from product_live_worker.journal.leases import Leases, Living
from product_live_worker.journal.ledger import JournalLedger
from product_live_worker.journal.rows import from_row, outcome_columns, to_row
from product_live_worker.journal.schema import is_newer
from product_live_worker.journal.tables import IS_OPEN, IS_REPORTED, REVISION, executions
from product_live_worker.journal.task_list import TaskList
from product_live_worker.journal.writer import Writer
from product_live_worker.model.errors import IllegalTransition, JournalUnusable, JournalUnwritable, TakenOver
from product_live_worker.model.execution import IN_HAND, TRANSITIONS, Execution, Outcome, State

Result = TypeVar("Result")

# Built once: what SQLAlchemy makes of a statement is kept with the statement.
_ROW = (executions.c.platform == bindparam("this_platform")) & (executions.c.id == bindparam("this_id"))
_MINE = _ROW & (executions.c.holder == bindparam("this_holder"))
_INSERT = insert(executions)
_FIND = select(executions).where(_ROW)
_HELD = select(executions.c.state, executions.c.holder).where(_ROW)
_ADVANCE = update(executions).where(_MINE, executions.c.state == bindparam("this_state"))
_OVERWRITE = update(executions).where(_MINE)
_REOPEN = update(executions).where(_ROW, executions.c.state == bindparam("this_state"))
_NUMBER = select(executions.c.number).where(_ROW).scalar_subquery()
# By the order of the claims: the wall clock may have jumped between the two. What is not written down is the latest.
_EARLIER = (
    select(executions)
    .where(
        executions.c.platform == bindparam("this_platform"),
        executions.c.task == bindparam("this_task"),
        executions.c.idempotency_key == bindparam("this_key"),
        executions.c.number < func.coalesce(_NUMBER, sys.maxsize),
    )
    .order_by(executions.c.number.desc())
    .limit(1)
)

CLOSED = frozenset({State.REPORTED, State.UNDELIVERABLE})
REMEMBERED = 256
"""Outcomes kept in memory after their report, for a platform that offers an execution again."""
FORGOTTEN = "This execution was run and reported before, and its output is no longer kept; it is not run again."
PRUNED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Spent:
    """How long an execution waited for its start, ran, and took from its claim until now, in seconds."""

    waited: float
    ran: float
    in_all: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that serve this platform on this database."""

    workers: int = 1
    turn: int = 0
    """Which of them this one is, from 0, in an order that all of them know."""
    ahead: float = 0.0
    """How far the clock that they share is ahead of the journal's `now`, in seconds."""


class Journal:
    """The executions that this process holds. What is in memory follows each commit, never goes before it.

    One exception: while the disk refuses commits (`trouble` says why), outcomes are kept in memory, so that what runs
    can still be reported; `catch_up` writes them down as soon as the disk takes them.
    """

    def __init__(
        self,
        writer: Writer,
        ledger: JournalLedger,
        leases: Leases,
        *,
        platform: str,
        process: str,
        keep_payloads: bool,
        shared: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`process` is this process's name among the holders; `now` is a clock in seconds that never jumps.

        On a `shared` database a whole fleet may have been cut off from it: nobody is taken over for a lease after that.
        """
        self.ledger = ledger
        ledger.on_trouble = self._tell
        self.key_leases = KeyLeases(writer, platform)
        self.callbacks = Callbacks(writer, platform)
        self.task_list = TaskList(writer, platform, leases.clock, holder=lambda: self.holder)
        self.holder = process
        self.trouble = ""
        """Why nothing can be written just now."""
        self.fleet = Fleet()
        """As of the last renewal."""
        self.outgrown = ""
        """Why this worker has to end: a newer one has changed the schema."""
        self.look_again_in = math.inf
        """Seconds from the last `take_over` until the next lease of another worker with open rows ends."""
        self.undeliverable = 0
        """How many rows of this platform the platform refuses for good."""
        self.well_since = -math.inf
        """When the last trouble began or ended, on the clock `now`."""
        self.now = now
        self.board = Board(self._do, platform, leases)
        """What operators have asked for."""
        self._writer = writer
        self._leases = leases
        self._platform = platform
        self._process = process
        self._generation = 0
        self._keep_payloads = keep_payloads
        self._shared = shared
        self._lost = False
        self._taken_in_doubt = False
        self._claiming: set[str] = set()
        self._open: dict[str, Execution] = {}
        # What is written down is wall time, for people; ages are told by a clock that does not jump.
        self._reached: dict[str, dict[State, float]] = {}
        self._unwritten: dict[str, Execution] = {}
        self._advancing: Counter[str] = Counter()
        self._reported: dict[str, Outcome] = {}
        self._in_hand: Counter[str] = Counter()
        self._states: Counter[State] = Counter()
        self._fresh: dict[State, deque[str]] = {State.CLAIMED: deque(), State.SETTLED: deque()}
        self._changed = anyio.Event()

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

    def count(self, state: State) -> int:
        """Count the executions in this state, of those that are not reported yet."""
        return self._states[state]

    def unreported(self) -> int:
        """Count the executions that still owe the platform a report."""
        return len(self._open)

    def reports_waiting(self) -> int:
        """Count the SETTLED executions."""
        return len(self._open) - self._in_hand.total()

    def reached(self, state: State) -> Iterable[tuple[str, float]]:
        """Give the executions in this state, and since when this process has them there, on the clock `now`."""
        if not self._states[state]:
            return []
        return [(one.id, self._reached[one.id][state]) for one in self._open.values() if one.state is state]

    def spent(self, execution: Execution) -> Spent:
        """Say how long a settled execution took, until now; by the wall clock only across a restart."""
        reached = self._reached.get(execution.id, {})
        if State.CLAIMED in reached and State.SETTLED in reached:
            now, claimed, settled = self.now(), reached[State.CLAIMED], reached[State.SETTLED]
            started = reached.get(State.RUNNING, claimed)
        else:
            now, claimed = time.time(), execution.claimed_at
            started = execution.started_at or claimed
            settled = execution.settled_at or started
        return Spent(max(0.0, started - claimed), max(0.0, settled - started), max(0.0, now - claimed))

    async def changed(self) -> None:
        """Wait until any row has changed."""
        await self._changed.wait()

    async def troubled(self) -> None:
        """Wait until the disk refuses a commit."""
        while not self.trouble:
            await self._changed.wait()
        await anyio.sleep_forever()

    async def well(self) -> None:
        """Wait until the disk takes commits again."""
        while self.trouble:
            await self._changed.wait()

    async def written(self, execution_id: str) -> None:
        """Wait until a shared database has what is known here of an execution: before, another may end it otherwise.

        With a file, which only those on this machine share, what is in memory may be reported.
        """
        while self._shared and execution_id in self._unwritten:
            await self._changed.wait()

    async def must_hold(self, execution_id: str) -> None:
        """See that an outcome is still this process's to report; raises TakenOver, or IllegalTransition.

        The row itself is read: a person, or another worker, may have closed it past this process. While the journal
        cannot be written, nobody does.
        """
        if not self.trouble:
            this = {"this_platform": self._platform, "this_id": execution_id}
            with contextlib.suppress(JournalUnwritable):
                step = lambda connection: connection.execute(_HELD, this).one_or_none()  # noqa: E731 (one line)
                row = await self._do(step, writes=False)
                if row is not None and (row.holder != self.holder or State(row.state) in CLOSED):
                    self._drop(execution_id)
        if execution_id not in self._open:
            raise TakenOver(f"execution {execution_id} was closed by hand, or taken over by another worker")

    async def next(self, state: State) -> Execution:
        """Wait for an execution that has newly come into `state`, and give each just once."""
        while True:
            while self._fresh[state]:
                execution = self._open.get(self._fresh[state].popleft())
                if execution is not None and execution.state is state:
                    return execution
            await self._changed.wait()

    # The verbs of an execution

    async def claim(self, execution: Execution) -> tuple[Execution, bool]:
        """Write a claim down before anything else happens; gives the row, and whether it is new.

        One that is in hand already stays as it is. One that was reported before gets its stored outcome sent again.
        """
        held = self._open.get(execution.id)
        if held is not None:
            return held, False

        def step(connection: Connection) -> Execution | None:
            known = self._find(connection, execution.id)
            if known is None:
                connection.execute(_INSERT, self._row(execution))
            elif known.state in CLOSED:
                this = {"this_platform": self._platform, "this_id": known.id, "this_state": known.state.value}
                if connection.execute(_REOPEN, {**this, **self._row(self._reopened(known))}).rowcount != 1:
                    return self._find(connection, execution.id)
            return known

        self._claiming.add(execution.id)
        try:
            known = await self._do(step)
        except JournalUnwritable:
            known = None
            self._unwritten[execution.id] = execution
        finally:
            self._claiming.discard(execution.id)
        if known is None:
            self._remember(execution)
        elif known.state in CLOSED:
            self.undeliverable -= known.state is State.UNDELIVERABLE
            self._remember(self._reopened(known))
        return known or execution, known is None

    async def start(self, execution: Execution, inherited: dict[str, Any] | None = None) -> Execution:
        """CLAIMED → RUNNING; raises JournalUnwritable, since a start that is not written down could happen twice.

        `inherited` is the checkpoint of the execution that this one repeats.
        """
        begun: dict[str, Any] = {"started_at": time.time(), "checkpoint": execution.checkpoint or inherited}
        return await self._advance(execution.id, State.RUNNING, of=(State.CLAIMED,), **begun)

    async def save_checkpoint(self, execution: Execution, checkpoint: dict[str, Any]) -> Execution:
        """RUNNING stays RUNNING, and what a crash would repeat begins here; raises JournalUnwritable."""
        of = (State.RUNNING,)
        return await self._advance(execution.id, State.RUNNING, of=of, checkpoint=checkpoint, crashes=0)

    async def rerun(self, execution: Execution, *, crashes: int | None = None) -> Execution:
        """RUNNING → CLAIMED: run it again, after so many crashes if it was one; raises JournalUnwritable."""
        counted: dict[str, Any] = {} if crashes is None else {"crashes": crashes}
        return await self._advance(execution.id, State.CLAIMED, of=IN_HAND, started_at=None, **counted)

    async def settle(self, execution: Execution, outcome: Outcome) -> Execution:
        """CLAIMED or RUNNING → SETTLED: the outcome is fixed before its first report."""
        settled = {"outcome": outcome, "settled_at": time.time(), "input": None}
        return await self._advance(execution.id, State.SETTLED, of=IN_HAND, or_remember=True, **settled)

    async def postpone(self, execution: Execution, trouble: str) -> Execution:
        """SETTLED stays SETTLED: a report got no final answer."""
        again = {"attempts": execution.attempts + 1, "trouble": trouble}
        return await self._advance(execution.id, State.SETTLED, of=(State.SETTLED,), or_remember=True, **again)

    async def close(self, execution: Execution, trouble: str = "") -> Execution:
        """→ REPORTED: the platform has a final status; the payloads go unless they are to be kept."""
        closed = {"reported_at": time.time(), "trouble": trouble}
        row = await self._advance(execution.id, State.REPORTED, of=tuple(State), or_remember=True, **closed)
        if row.outcome is not None:
            self._reported[row.id] = row.outcome
            if len(self._reported) > REMEMBERED:
                del self._reported[next(iter(self._reported))]
        return row

    async def give_up(self, execution: Execution, trouble: str) -> Execution:
        """SETTLED → UNDELIVERABLE: the platform refuses the outcome for good; it is kept."""
        refused = {"attempts": execution.attempts + 1, "trouble": trouble}
        row = await self._advance(execution.id, State.UNDELIVERABLE, of=(State.SETTLED,), or_remember=True, **refused)
        self.undeliverable += 1
        return row

    async def earlier(self, execution: Execution) -> Execution | None:
        """Find the execution that this one repeats: the last before it of the same task and idempotency key."""
        this = {"this_platform": self._platform, "this_id": execution.id}
        repeated = {"this_task": execution.task, "this_key": execution.idempotency_key}
        step = lambda connection: connection.execute(_EARLIER, this | repeated).one_or_none()  # noqa: E731 (one line)
        row = await self._do(step, writes=False)
        return None if row is None else from_row(row)

    def let_go(self, execution_id: str) -> None:
        """Forget an outcome that still waits here to be reported: a person has closed its row."""
        held = self._open.get(execution_id)
        if held is not None and held.state is State.SETTLED:
            self._drop(execution_id)

    # The verbs of a holder

    async def join(self) -> None:
        """Begin this process's lease."""

        def step(connection: Connection) -> tuple[Living, float]:
            self._leases.join(connection, self.holder)
            return self._leases.living(connection), self.now()

        self._see(*await self._do(step))

    async def leave(self) -> None:
        """End it; what is still open can be taken over at once."""
        await self._do(lambda connection: self._leases.leave(connection, [self.holder]))

    async def renew(self) -> bool:
        """Prolong the lease; gives False when the rows were taken over meanwhile, and are forgotten here."""

        def step(connection: Connection) -> tuple[Living, float] | None:
            if not self._leases.renew(connection, self.holder):
                return None
            return self._leases.living(connection), self.now()

        seen = await self._do(step)
        if seen is None:
            # Never under the old name: what it held is somebody else's now, and stays so.
            self._lost = True
            self._generation += 1
            self.holder = f"{self._process}#{self._generation}"
            never_written = [one for one in self._unwritten.values() if one.state is State.CLAIMED]
            for execution_id in tuple(self._open):
                self._drop(execution_id)
            self._unwritten.clear()
            # Of these nobody else can know, unless they were written after all.
            for execution in never_written:
                await self.claim(execution)
            await self.join()
        else:
            self._see(*seen)
        lost, self._lost = self._lost, False
        return not lost

    async def take_over(self) -> list[Execution]:
        """Take the open rows of holders that are gone; gives those that were RUNNING when theirs ended.

        Each of these has a crash more than its row: `rerun` writes it down. A process that dies before it has decided
        what becomes of them has not run them, and adds nothing to the count.
        """
        if self._shared and self.now() - self.well_since < self._leases.seconds:
            return []
        here = (executions.c.platform == self._platform) & IS_OPEN
        mine = executions.c.holder == self.holder
        # What was taken and not known to be is ours by name: nobody else would look for it.
        in_doubt = self._taken_in_doubt

        def look(connection: Connection) -> tuple[list[str], float, int]:
            others = connection.execute(select(executions.c.holder).where(here, ~mine).distinct()).scalars().all()
            return *self._leases.gone(connection, others), self._count_undeliverable(connection)

        def take(connection: Connection) -> list[Execution]:
            still_gone, _ = self._leases.gone(connection, gone, locked=True)
            of_the_gone = executions.c.holder.in_(still_gone)
            theirs = here & (of_the_gone | mine if in_doubt else of_the_gone)
            found = select(executions).where(theirs).order_by(executions.c.claimed_at).with_for_update()
            rows = connection.execute(found).all()
            connection.execute(update(executions).where(theirs).values(holder=self.holder))
            self._leases.leave(connection, still_gone)
            return [from_row(row) for row in rows]

        gone, self.look_again_in, self.undeliverable = await self._do(look, writes=False)
        if not gone and not in_doubt:
            return []
        self._taken_in_doubt = True
        taken = await self._do(take, at_once=True)
        self._taken_in_doubt = False
        known = self._open.keys() | self._claiming
        taken = [execution for execution in taken if execution.id not in known and execution.state not in CLOSED]
        for execution in taken:
            self._remember(execution)
        return [replace(one, crashes=one.crashes + 1) for one in taken if one.state is State.RUNNING]

    async def catch_up(self) -> None:
        """Write down what was only remembered while the disk refused; raises JournalUnwritable while it still does."""
        for execution_id in tuple(self._unwritten):
            execution = self._unwritten.get(execution_id)
            if execution is None or self._advancing[execution_id]:
                # Written by now, or by the verb that is under way: what is known here would come after it, and be old.
                continue
            try:
                await self._do(partial(self._overwrite, execution=execution))
            except TakenOver:
                self._drop(execution_id)
            if self._unwritten.get(execution_id) is execution:
                del self._unwritten[execution_id]
                self._wake()

    async def prune(self, before: float) -> int:
        """Forget what was reported before that moment; gives how many rows."""
        here = executions.c.platform == self._platform
        old = select(executions.c.number).where(here, IS_REPORTED, executions.c.reported_at < before)
        # A few at a time: nobody's claim waits for the end of a long deletion.
        some = delete(executions).where(executions.c.number.in_(old.limit(PRUNED_AT_ONCE)))
        pruned = 0
        while (gone := await self._do(lambda connection: connection.execute(some).rowcount, writes=False)) > 0:
            pruned += gone
        return pruned

    # How they are done

    async def _do(self, step: Callable[[Connection], Result], *, writes: bool = True, at_once: bool = False) -> Result:
        try:
            result = await self._writer.do(step, at_once=at_once)
        except JournalUnwritable as error:
            self._tell(str(error))
            raise
        # A full disk can still be read: only what was written proves that there is room again.
        if writes:
            self._tell("")
        return result

    def _see(self, living: Living, now: float) -> None:
        """Take in who is alive, as seen at `now`."""
        turn = living.holders.index(self.holder) if self.holder in living.holders else 0
        self.fleet = Fleet(max(1, len(living.holders)), turn, living.at - now)
        self.ledger.alone = self.fleet.workers == 1
        if is_newer(living.revision):
            self.outgrown = (
                f"a newer worker has brought the journal to schema {living.revision}; this one knows {REVISION}"
            )

    def _tell(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            self.well_since = self.now()
            self._wake()
        self.trouble = trouble

    async def _advance(
        self, execution_id: str, state: State, *, of: Collection[State], or_remember: bool = False, **changes: Any
    ) -> Execution:
        now = self._open.get(execution_id)
        steps = () if now is None else (*TRANSITIONS[now.state], now.state)
        if now is None or now.state not in of or state not in steps:
            found = "not in hand" if now is None else now.state
            raise IllegalTransition(f"execution {execution_id} is {found}: it cannot become {state}")
        to = replace(now, state=state, **changes)
        behind = execution_id in self._unwritten

        def step(connection: Connection) -> None:
            if behind:
                self._overwrite(connection, to)
                return
            this = {**self._this(to), "this_state": now.state.value}
            if connection.execute(_ADVANCE, {**this, **self._changed_columns(now, to)}).rowcount != 1:
                self._refuse(connection, to)

        self._advancing[execution_id] += 1
        try:
            await self._do(step)
        except TakenOver:
            self._drop(execution_id)
            raise
        except JournalUnwritable:
            if not or_remember:
                # It may be committed all the same: what is known here is written over it.
                self._unwritten.setdefault(execution_id, now)
                raise
            self._unwritten[execution_id] = to
        else:
            self._unwritten.pop(execution_id, None)
        finally:
            self._advancing -= Counter([execution_id])
        self._remember(to)
        return to

    def _overwrite(self, connection: Connection, execution: Execution) -> None:
        if connection.execute(_OVERWRITE, {**self._this(execution), **self._row(execution)}).rowcount == 1:
            return
        if self._find(connection, execution.id) is not None:
            self._refuse(connection, execution)
        connection.execute(_INSERT, self._row(execution))

    def _refuse(self, connection: Connection, execution: Execution) -> NoReturn:
        this = {"this_platform": self._platform, "this_id": execution.id}
        row = connection.execute(_FIND, this).one_or_none()
        if row is None or row.holder != self.holder:
            raise TakenOver(f"execution {execution.id} was taken over by another worker")
        raise IllegalTransition(f"execution {execution.id} is {row.state} by now: it cannot become {execution.state}")

    def _this(self, execution: Execution) -> dict[str, str]:
        return {"this_platform": self._platform, "this_id": execution.id, "this_holder": self.holder}

    def _row(self, execution: Execution) -> dict[str, Any]:
        row = {"platform": self._platform, "holder": self.holder, **to_row(execution)}
        return row | self._blanks(execution)

    def _changed_columns(self, now: Execution, to: Execution) -> dict[str, Any]:
        values: dict[str, Any] = {"state": to.state.value} | {
            name: getattr(to, name)
            for name in ("started_at", "settled_at", "reported_at", "attempts", "trouble", "crashes")
            if getattr(to, name) != getattr(now, name)
        }
        if to.outcome is not now.outcome:
            values |= outcome_columns(to.outcome)
        if to.checkpoint is not now.checkpoint:
            values["checkpoint"] = json.dumps(to.checkpoint)
        return values | self._blanks(to)

    def _blanks(self, execution: Execution) -> dict[str, None]:
        if execution.state is not State.REPORTED or self._keep_payloads:
            return {}
        blank = ("input",) if execution.on_repeat == "adopt" else ("input", "checkpoint", "output")
        return dict.fromkeys(blank)

    def _reopened(self, known: Execution) -> Execution:
        outcome = self._reported.get(known.id) or known.outcome or Outcome.failed("repeated", FORGOTTEN)
        return replace(known, state=State.SETTLED, outcome=outcome, reported_at=None, attempts=0, trouble="")

    def _find(self, connection: Connection, execution_id: str) -> Execution | None:
        this = {"this_platform": self._platform, "this_id": execution_id}
        row = connection.execute(_FIND, this).one_or_none()
        return None if row is None else from_row(row)

    def _count_undeliverable(self, connection: Connection) -> int:
        here = (executions.c.platform == self._platform) & (executions.c.state == State.UNDELIVERABLE.value)
        return connection.execute(select(func.count()).where(here, IS_OPEN)).scalar_one()

    def _remember(self, execution: Execution) -> None:
        before = self._open.get(execution.id)
        if before is not None:
            self._states[before.state] -= 1
            self._in_hand[before.task] -= before.state in IN_HAND
        if execution.state in CLOSED:
            self._open.pop(execution.id, None)
        else:
            self._open[execution.id] = execution
            self._states[execution.state] += 1
            self._in_hand[execution.task] += execution.state in IN_HAND
        moved = before is None or before.state is not execution.state
        if execution.state in CLOSED:
            self._reached.pop(execution.id, None)
        elif moved:
            self._reached.setdefault(execution.id, {})[execution.state] = self.now()
        if moved and execution.state in self._fresh:
            self._fresh[execution.state].append(execution.id)
        self._wake()

    def _drop(self, execution_id: str) -> None:
        lost = self._open.pop(execution_id, None)
        self._reached.pop(execution_id, None)
        if lost is not None:
            self._states[lost.state] -= 1
            self._in_hand[lost.task] -= lost.state in IN_HAND
        self._unwritten.pop(execution_id, None)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def open_journal(
    url: str, *, platform: str, window: float, lease: float, keep_payloads: bool
) -> AsyncIterator[Journal]:
    """Open the journal for one worker process on one platform; `window` is the budget's, `lease` ours, in seconds.

    Raises JournalUnusable for a database that this worker must not touch, JournalUnwritable for a disk that refuses.
    """
    database = await anyio.to_thread.run_sync(open_database, url)
    process = new_holder()
    try:
        with database.hold(process):
            writer = Writer(database)
            ledger = JournalLedger(writer, platform, clock=database.clock, shared=database.shared)
            leases = Leases(database, platform, seconds=lease)
            journal = Journal(
                writer,
                ledger,
                leases,
                platform=platform,
                process=process,
                keep_payloads=keep_payloads,
                shared=database.shared,
            )
            await ledger.open(window)
            await journal.join()
            try:
                yield journal
            finally:
                with contextlib.suppress(JournalUnwritable, JournalUnusable):
                    await journal.leave()
    finally:
        database.close()

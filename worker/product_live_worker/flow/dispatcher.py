"""The dispatcher: runs the handler of each claimed execution and writes its outcome down."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import anyio

from product_live_worker.executors.perform import Executor, HandlerLost, perform
from product_live_worker.executors.workdirs import Workdirs
from product_live_worker.flow.backoff import Outage
from product_live_worker.flow.verbs import verbs_for
from product_live_worker.journal.journal import Journal
from product_live_worker.model.context import Context, Log, Verb
from product_live_worker.model.errors import IllegalTransition, JournalUnwritable
from product_live_worker.model.execution import IN_HAND, Execution, Outcome, State, Status
from product_live_worker.model.task import ServedTask
from product_live_worker.telemetry.events import Emit, ExecutionSettled, HandlerFailed, about

Result = TypeVar("Result")

REPEATED = "It repeats the execution {earlier}, and its handler refuses repeats."
LOOK_AGAIN = 2.0
"""Seconds between two looks at an execution that another worker runs."""
TRY_AGAIN = 0.2
"""Seconds at least between two attempts to write while the disk refuses."""
TOO_LATE = "The handler was not started: of the {limit:g} s that the platform waits, {waited:.0f} s had passed already."
CANCELLED = "The worker was stopped before the handler ended."


class Dispatcher:
    """Takes CLAIMED rows, leaves SETTLED ones."""

    def __init__(
        self,
        journal: Journal,
        tasks: Mapping[str, ServedTask],
        executors: Mapping[str, Executor],
        *,
        workdirs: Workdirs,
        max_output: int,
        log_for: Callable[[Execution], Log],
        verbs: Callable[[Execution, Path, Log], Mapping[str, Verb]],
        emit: Emit,
        callback_url: str = "",
    ) -> None:
        """`max_output` is in bytes of JSON; `log_for` gives the log that a handler writes to.

        `verbs` gives what the worker does for the handler of an execution beside the journal's own.
        `callback_url` is where others reach the listener for callbacks, if there is one.
        """
        self._journal = journal
        self._tasks = tasks
        self._executors = executors
        self._workdirs = workdirs
        self._max_output = max_output
        self._log_for = log_for
        self._verbs = verbs
        self._emit = emit
        self._callback_url = callback_url
        self.trouble = Outage("writing the journal", emit)
        self._intake = anyio.CancelScope()
        self._running: dict[str, anyio.CancelScope] = {}
        self._held_at: dict[str, float] = {}
        self._ended: dict[str, str] = {}

    async def run(self) -> None:
        """Run handlers until `stop`; then end those that still run."""
        async with anyio.create_task_group() as handlers:
            with self._intake:
                while True:
                    execution = await self._journal.next(State.CLAIMED)
                    handlers.start_soon(self._dispatch, execution)
            for scope in self._running.values():
                scope.cancel()

    async def idle(self) -> None:
        """Wait until no execution is claimed or running."""
        while self._journal.total_in_hand():
            await self._journal.changed()

    def stop(self) -> None:
        """Take in nothing more and end what runs: FAILED `cancelled`, or left for the next start to rerun."""
        self._intake.cancel()

    def cancel(self, execution_id: str, status: str) -> None:
        """End one that the platform has ended with this status; what becomes of its row is decided already."""
        if (scope := self._running.get(execution_id)) is not None:
            self._ended[execution_id] = status
            scope.cancel()

    async def end(self, execution_id: str, outcome: Outcome) -> None:
        """End one that is claimed or runs, with this outcome: whoever asks for it wants no rerun."""
        execution = self._journal.get(execution_id)
        if execution is None or execution.state not in IN_HAND:
            return
        ran = 0.0 if execution.started_at is None else max(0.0, time.time() - execution.started_at)
        if await self._settle(execution, outcome, handler_seconds=ran):
            self.cancel(execution_id, "CANCELED")

    def abandon(self) -> None:
        """End everything that runs, and settle none of it: the rows are another worker's by now."""
        for scope in self._running.values():
            scope.cancel()

    def free(self, task: str) -> int:
        """Count the task's free slots: its concurrency less what is in hand and what ignores its deadline."""
        served = self._tasks[task]
        executor = self._executors[served.handler.isolation]
        if executor.trouble():
            return 0
        return served.concurrency - self._journal.in_hand(task) - executor.overdue(task)

    def without_place(self, task: str) -> str:
        """Say why the task's handler cannot be run just now; empty when it can."""
        return self._executors[self._tasks[task].handler.isolation].trouble()

    def late(self) -> float:
        """Give how long a claimed execution has not been started although nothing stands in its way, in seconds."""
        if self._journal.trouble:
            return 0.0
        now, well, claimed = self._journal.now(), self._journal.well_since, self._journal.reached(State.CLAIMED)
        return max((now - max(at, well, self._held_at.get(one, at)) for one, at in claimed), default=0.0)

    async def _dispatch(self, execution: Execution) -> None:
        directory = self._workdirs.new(execution.id)
        try:
            await self._dispatch_in(directory, execution)
        finally:
            # Only now: no report waits for a large directory to be gone.
            await self._workdirs.remove(directory)

    async def _dispatch_in(self, directory: Path, execution: Execution) -> None:
        task = self._tasks.get(execution.task)
        if task is None:
            text = f"No handler is installed any more for the task {execution.task}."
            await self._settle(execution, Outcome.failed("worker_restarted", text))
            return
        started = time.monotonic()
        with anyio.CancelScope() as scope:
            self._running[execution.id] = scope
            if self._intake.cancel_called:
                scope.cancel()
            try:
                repeated = await self._repeated(execution)
                repetition = self._repetition(execution, repeated)
                inherited = repeated.checkpoint if repeated else None
                execution = await self._written(lambda: self._journal.start(execution, inherited))
                started = time.monotonic()
                outcome = repetition or await self._perform(execution, task, directory)
            except IllegalTransition:
                # Another worker holds the row by now: it is theirs to end.
                return
            except HandlerLost as lost:
                if task.on_crash == "rerun":
                    await self._again(execution)
                    return
                outcome = lost.outcome
            finally:
                del self._running[execution.id]
                self._held_at.pop(execution.id, None)
                self._ended.pop(execution.id, None)
        if scope.cancelled_caught:
            if self._journal.get(execution.id) is None:
                return
            if task.on_crash == "rerun":
                await self._left_for_the_next(execution)
                return
            outcome = Outcome.failed("cancelled", CANCELLED)
        await self._settle(execution, outcome, handler_seconds=time.monotonic() - started)

    async def _perform(self, execution: Execution, task: ServedTask, directory: Path) -> Outcome:
        waited = time.time() - execution.claimed_at
        timeout = task.may_run(waited)
        if timeout <= 0:
            return Outcome.failed("timeout", TOO_LATE.format(limit=task.platform_timeout, waited=waited))
        log = self._log_for(execution)
        context = Context(
            execution_id=execution.id,
            task=task.key,
            deadline=datetime.now(UTC) + timedelta(seconds=timeout),
            log=log,
            settings=task.settings,
            idempotency_key=execution.idempotency_key,
            checkpoint=execution.checkpoint,
            connection=task.connection,
            directory=directory,
            verbs={
                **verbs_for(self._journal, execution, ended=self._ended.get, callback_url=self._callback_url),
                **self._verbs(execution, directory, log),
            },
        )
        return await perform(
            self._executors,
            task.handler,
            execution.input,
            context,
            timeout=timeout,
            max_output=self._max_output,
            failed=lambda error: self._emit(HandlerFailed(**about(execution), error=error)),
        )

    async def _settle(self, execution: Execution, outcome: Outcome, *, handler_seconds: float = 0.0) -> bool:
        try:
            await self._journal.settle(execution, outcome)
        except IllegalTransition:
            return False
        self._emit(
            ExecutionSettled(
                **about(execution),
                status=outcome.status.value,
                code=outcome.code,
                message=outcome.message,
                handler_seconds=handler_seconds,
            )
        )
        return True

    def _repetition(self, execution: Execution, earlier: Execution | None) -> Outcome | None:
        """Give the outcome of an execution that repeats this earlier one; None to run it."""
        if earlier is None:
            return None
        if execution.on_repeat == "refuse":
            return Outcome.failed("repeated", REPEATED.format(earlier=earlier.id))
        return earlier.outcome if earlier.ended is Status.COMPLETED else None

    async def _repeated(self, execution: Execution) -> Execution | None:
        """Find what this execution repeats, if its handler wants to know, once it is over or counts as it is."""
        if execution.on_repeat == "run" or execution.checkpoint is not None:
            return None
        # Whether it may run is known only once the journal can be asked.
        while (earlier := await self._written(lambda: self._journal.earlier(execution))) is not None:
            done = earlier.ended is Status.COMPLETED
            over = earlier.state not in IN_HAND
            if execution.on_repeat == "refuse":
                return earlier if done or not over else None
            if over:
                return earlier
            self._held_at[execution.id] = self._journal.now()
            with anyio.move_on_after(LOOK_AGAIN):
                await self._journal.changed()
        return None

    async def _left_for_the_next(self, execution: Execution) -> None:
        # An orderly end is no crash: CLAIMED again, it does not count as one.
        with contextlib.suppress(JournalUnwritable, IllegalTransition):
            await self._journal.rerun(execution)

    async def _again(self, execution: Execution) -> None:
        # No crash of ours, and none to be counted: it waits for its place, with its last checkpoint.
        with contextlib.suppress(IllegalTransition):
            await self._written(lambda: self._journal.rerun(execution))

    async def _written(self, verb: Callable[[], Awaitable[Result]]) -> Result:
        while True:
            try:
                written = await verb()
            except JournalUnwritable as error:
                with anyio.move_on_after(self.trouble.failed(error)):
                    await anyio.sleep(TRY_AGAIN)
                    await self._journal.well()
            else:
                self.trouble.worked()
                return written

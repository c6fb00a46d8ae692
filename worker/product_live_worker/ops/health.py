"""Whether the worker is well, in words, and what to do about it.

Late is a poll that was due, with capacity and budget, and did not succeed. Full slots, a drain, or a full window after
a restart are healthy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from product_live_worker.executors.in_thread import InThread
from product_live_worker.flow.catalogue import Catalogue
from product_live_worker.flow.dispatcher import Dispatcher
from product_live_worker.flow.poller import Poller
from product_live_worker.journal.journal import Journal
from product_live_worker.model.errors import KeyRefused
from product_live_worker.model.execution import State

POLL_LATE = 30.0
"""Seconds that a poll may be overdue: a short outage is the platform's, a longer one the operator's."""
REPORT_LATE = 60.0
START_LATE = 10.0
STAGE_STUCK = 120.0
"""Seconds without any progress where nothing stands in the way, after which only a restart helps."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `reason` says what was found, `cure` what to do when it is not `ok`."""

    name: str
    ok: bool
    reason: str
    cure: str = ""


@dataclass
class Health:
    """Looks at the stages; asks nobody."""

    catalogue: Catalogue
    poller: Poller
    dispatcher: Dispatcher
    journal: Journal
    threads: InThread
    max_stuck_threads: int
    draining: str = field(default="")
    """Why the worker is stopping, when it is."""

    def ready(self) -> list[Check]:
        """Everything that must hold for work to go on as it should."""
        return [self._tasks(), self._polling(), self._handlers(), self._threads(), self._reports(), self._journal()]

    def live(self) -> list[Check]:
        """What only a restart can mend: a stage that makes no progress although nothing stands in its way."""
        stuck = self.poller.stalled()
        waiting = self._unstarted()
        return [
            Check("poller", stuck < STAGE_STUCK, _since("the poller has done nothing that was due", stuck), RESTART),
            Check(
                "dispatcher",
                waiting < STAGE_STUCK,
                _since("a claimed execution has not been started", waiting),
                RESTART,
            ),
        ]

    def key_refused(self) -> bool:
        """Whether the platform refuses the API key, to whichever stage asked last."""
        outages = self.catalogue.outage, self.poller.outage
        return any(isinstance(outage.error, KeyRefused) for outage in outages)

    def _tasks(self) -> Check:
        if not self.catalogue.loaded.is_set():
            why = self.catalogue.outage.reason or "the platform has not answered yet"
            return Check(
                "tasks", False, f"the account's tasks are not known: {why}", _cure(self.catalogue.outage.error)
            )
        if self.catalogue.problems:
            reason = "; ".join(self.catalogue.problems)
            return Check("tasks", False, reason, "Correct the [tasks] sections, or create the task on the platform.")
        return Check("tasks", True, f"{len(self.catalogue.tasks)} served")

    def _polling(self) -> Check:
        outage, overdue = self.poller.outage, self.poller.overdue()
        if self.draining:
            return Check("polling", True, f"stopping: {self.draining}")
        if isinstance(outage.error, KeyRefused):
            return Check("polling", False, f"the API key is refused: {outage.reason}", _cure(outage.error))
        if overdue > POLL_LATE:
            why = outage.reason or "the poller does not get to it"
            return Check("polling", False, _since(f"no poll has succeeded ({why})", overdue), _cure(outage.error))
        if self.poller.succeeded_at is None and not self.poller.waits_for_budget and self._may_poll():
            why = f": {outage.reason}" if outage.lasts else ""
            return Check("polling", False, f"the first poll has not been answered yet{why}", _cure(outage.error))
        return Check("polling", True, self.poller.paused() or outage.reason or "polls are answered")

    def _handlers(self) -> Check:
        late = self._unstarted()
        ok = late < START_LATE
        return Check(
            "handlers", ok, _since("a claimed execution has not been started", late) if not ok else "", RESTART
        )

    def _threads(self) -> Check:
        stuck = self.threads.stuck()
        return Check(
            "threads",
            stuck <= self.max_stuck_threads,
            f"{stuck} threads run on after their deadline",
            "Mend the handler so that it ends in time; restart the worker to be rid of the threads.",
        )

    def _reports(self) -> Check:
        late = max((self.journal.now() - at for _, at in self.journal.reached(State.SETTLED)), default=0.0)
        waiting = [e for e in self.journal.open_executions() if e.state is State.SETTLED]
        why = next((f" ({e.trouble})" for e in waiting if e.trouble), "")
        if late > REPORT_LATE:
            cure = "Nothing is lost: they are sent until the platform answers. Look at the reason."
            return Check("reports", False, _since(f"{len(waiting)} results wait to be reported{why}", late), cure)
        return Check("reports", True, f"{len(waiting)} waiting")

    def _journal(self) -> Check:
        if self.journal.trouble:
            cure = "Make room on the disk, or mend its permissions; work goes on by itself."
            return Check("journal", False, self.journal.trouble, cure)
        return Check("journal", True, f"{self.journal.undeliverable} undeliverable results kept")

    def _may_poll(self) -> bool:
        # After a restart, what is run again may take every slot at once.
        tasks = self.catalogue.tasks
        return not tasks or (not self.poller.paused() and any(self.dispatcher.free(task) > 0 for task in tasks))

    def _unstarted(self) -> float:
        return self.dispatcher.late() if self.catalogue.loaded.is_set() else 0.0


RESTART = "Restart the worker, and report this as a defect; the journal has everything."


def verdict(checks: list[Check]) -> str:
    """Say the first thing that is wrong, or that all is well."""
    return next((f"{check.name}: {check.reason}" for check in checks if not check.ok), "ok")


def _cure(error: Exception | None) -> str:
    if isinstance(error, KeyRefused):
        return "Put a valid key into api.key_file (it is read again by itself), or set PLW_API__KEY and restart."
    return "Check that the platform can be reached from here: `product-live-worker check`."


def _since(what: str, seconds: float) -> str:
    return f"{what} for {seconds:.0f} s"

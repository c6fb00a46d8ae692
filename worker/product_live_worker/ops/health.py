"""Whether the worker is well, in words, and what to do about it.

Late is a poll that was due, with capacity and budget, and did not succeed. Full slots, a pause, a drain, or a full
window after a restart are healthy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from product_live_worker.executors.in_thread import InThread
from product_live_worker.flow.catalogue import Catalogue
from product_live_worker.flow.dispatcher import Dispatcher
from product_live_worker.flow.poller import Poller
from product_live_worker.journal.journal import Journal
from product_live_worker.model.action import ALL
from product_live_worker.model.errors import KeyRefused, PlatformFailing, RateLimited
from product_live_worker.model.execution import State
from product_live_worker.product_live.budget import Budget
from product_live_worker.telemetry.history import MANY, History

POLL_LATE = 30.0
"""Seconds that a poll may be overdue: a short outage is the platform's, a longer one the operator's."""
REPORT_LATE = 60.0
START_LATE = 10.0
STAGE_STUCK = 120.0
"""Seconds without any progress where nothing stands in the way, after which only a restart helps."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `reason` says what was found, `cure` what to do about it."""

    name: str
    ok: bool
    reason: str
    cure: str = ""
    notable: bool = False
    """Healthy, and yet a person who looks should be told: a pause, a short outage."""


@dataclass
class Health:
    """Looks at the stages; asks nobody."""

    catalogue: Catalogue
    poller: Poller
    dispatcher: Dispatcher
    journal: Journal
    threads: InThread
    budget: Budget
    history: History
    max_stuck_threads: int
    draining: str = field(default="")
    """Why the worker is stopping, when it is."""

    def ready(self) -> list[Check]:
        """Everything that must hold for work to go on as it should."""
        return [
            self._journal(),
            self._tasks(),
            self._polling(),
            self._budget(),
            self._handlers(),
            self._places(),
            self._threads(),
            self._reports(),
            self._executions(),
            self._claims(),
        ]

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
            outage = self.catalogue.outage
            why = f"{REFUSED}: {outage.reason}" if isinstance(outage.error, KeyRefused) else outage.reason
            found = f"the account's tasks are not known: {why or 'the platform has not answered yet'}"
            return Check("tasks", False, found, _cure(outage.error))
        if self.catalogue.problems:
            reason = "; ".join(self.catalogue.problems)
            return Check("tasks", False, reason, "Correct the [tasks] sections, or create the task on the platform.")
        return Check("tasks", True, f"{len(self.catalogue.tasks)} served")

    def _polling(self) -> Check:
        return next(self._found_of_polling())

    def _found_of_polling(self) -> Iterator[Check]:
        """Give what there is to say of it, the most important first."""
        outage, overdue, pauses = self.poller.outage, self.poller.overdue(), self.journal.board.pauses()
        if self.draining:
            yield Check("polling", True, f"stopping: {self.draining}", notable=True)
        if pause := self.journal.board.paused(ALL):
            yield Check("polling", True, pause.told(), RESUME, notable=True)
        if isinstance(outage.error, KeyRefused):
            yield Check("polling", False, f"{REFUSED}: {outage.reason}", _cure(outage.error))
        if overdue > POLL_LATE:
            why = outage.reason or "the poller does not get to it"
            yield Check("polling", False, _since(f"no poll has succeeded ({why})", overdue), _cure(outage.error))
        if not self.catalogue.loaded.is_set():
            cure = _cure(self.catalogue.outage.error)
            yield Check("polling", False, "nothing is polled before the account's tasks are known", cure)
        if self.poller.succeeded_at is None and not self.poller.waits_for_budget and self._may_poll():
            found = f"no poll has succeeded yet: {outage.reason}" if outage.lasts else "the first poll is on its way"
            yield Check("polling", False, found, _cure(outage.error))
        if outage.lasts:
            failing = self.poller.failing()
            of = "" if len(failing) == len(self.catalogue.tasks) else f" of {', '.join(failing[:NAMED])}"
            found = _since(f"polls{of} are not answered ({outage.reason})", outage.seconds())
            yield Check("polling", True, f"{found}; they go on by themselves", _cure(outage.error), notable=True)
        if (paused := self.poller.paused()) and not self.journal.trouble:
            yield Check("polling", True, paused, "Look at the results that wait.", notable=True)
        if pauses:
            told = "; ".join(f"{pause.subject} is {pause.told()}" for pause in pauses[:NAMED])
            more = f"; and {len(pauses) - NAMED} more" if len(pauses) > NAMED else ""
            yield Check("polling", True, told + more, RESUME, notable=True)
        yield Check("polling", True, "polls are answered")

    def _budget(self) -> Check:
        held_off, limit, allowed = self.budget.held_off(), self.budget.limit, self.budget.allowed()
        share = f"{allowed} of {limit} requests are ours for now" if limit else "no limit is set here"
        if held_off:
            found = f"the platform answers 429 and asks us to wait: requests go on in {held_off:.0f} s; {share}"
            return Check("budget", True, found, SHARED, notable=True)
        if allowed < limit:
            return Check("budget", True, f"the platform has answered 429: {share}", SHARED, notable=True)
        return Check("budget", True, f"{self.budget.used()} of {limit} requests used" if limit else "no limit is set")

    def _handlers(self) -> Check:
        late = self._unstarted()
        ok = late < START_LATE
        return Check(
            "handlers", ok, _since("a claimed execution has not been started", late) if not ok else "", RESTART
        )

    def _places(self) -> Check:
        troubles = {key: why for key in self.catalogue.tasks if (why := self.dispatcher.without_place(key))}
        if troubles:
            tasks, why = ", ".join(troubles), next(iter(troubles.values()))
            return Check("places", False, f"nothing is claimed for {tasks}: {why}", PLACES)
        return Check("places", True, "every handler has a place to run")

    def _threads(self) -> Check:
        stuck = self.threads.stuck()
        return Check(
            "threads",
            stuck <= self.max_stuck_threads,
            "1 thread runs on after its deadline; its slot stays taken"
            if stuck == 1
            else f"{stuck} threads run on after their deadline",
            "Mend the handler so that it ends in time; restart the worker to be rid of the threads.",
            notable=stuck > 0,
        )

    def _reports(self) -> Check:
        late = max((self.journal.now() - at for _, at in self.journal.reached(State.SETTLED)), default=0.0)
        count = self.journal.reports_waiting()
        waiting = (e for e in self.journal.open_executions() if count and e.state is State.SETTLED)
        why = next((f" ({e.trouble})" for e in waiting if e.trouble), "")
        results = "1 result waits" if count == 1 else f"{count} results wait"
        if late > REPORT_LATE:
            cure = "Nothing is lost: they are sent until the platform answers. Look at the reason."
            return Check("reports", False, _since(f"{results} to be reported{why}", late), cure)
        notable = bool(why) and late > 0
        return Check("reports", True, f"{count} waiting{why}", "They are sent again by themselves.", notable=notable)

    def _executions(self) -> Check:
        failing, ended = self.history.failing(), self.history.ended_with_the_worker()
        if len(ended) >= MANY:
            tasks = ", ".join(sorted({one.task for one in ended})[:NAMED])
            found = f"{len(ended)} executions of the last hour ended because their worker did: of {tasks}"
            return Check("executions", True, found, RESTARTED, notable=True)
        told = "; ".join(f"{failed} of {all_} of {task}" for task, failed, all_ in failing[:NAMED])
        more = f"; and {len(failing) - NAMED} tasks more" if len(failing) > NAMED else ""
        found = f"most executions of the last half hour failed: {told}{more}" if failing else ""
        return Check("executions", True, found, "Read their messages below.", notable=bool(failing))

    def _claims(self) -> Check:
        lost = self.history.lost()
        if not lost:
            return Check("claims", True, "")
        polls = "1 poll" if len(lost) == 1 else f"{len(lost)} polls"
        found = f"{polls} of the last hour may have claimed what never arrived, the last of {lost[-1].task}"
        return Check("claims", True, f"{found}: {lost[-1].reason}", LOST, notable=True)

    def _journal(self) -> Check:
        if self.journal.trouble:
            cure = "Make room on the disk, mend its permissions, or bring its server back; work goes on by itself."
            return Check("journal", False, self.journal.trouble, cure)
        kept = self.journal.undeliverable
        found = f"{kept} undeliverable {'result is' if kept == 1 else 'results are'} kept"
        return Check("journal", True, found, UNDELIVERABLE, notable=kept > 0)

    def _may_poll(self) -> bool:
        # After a restart, what is run again may take every slot at once.
        tasks, paused = self.catalogue.tasks, self.journal.board.paused
        free = (task for task in tasks if self.dispatcher.free(task) > 0 and not paused(task))
        return not tasks or (not self.poller.paused() and any(free))

    def _unstarted(self) -> float:
        return self.dispatcher.late() if self.catalogue.loaded.is_set() else 0.0


PLACES = "Start the Dask scheduler, or mend execution.dask_scheduler; nothing is lost, and work goes on by itself."
RESTART = "Restart the worker, and report this as a defect; the journal has everything."
RESUME = "Resume when the reason has gone: on the page, or `product-live-worker resume`."
REFUSED = "the API key is refused"
RESTARTED = (
    "Read in the log what came before each start; a handler that takes its worker along belongs into "
    '`isolation="process"`, where only its execution fails.'
)
SHARED = "Somebody else uses the account's requests too: find who, or lower budget.requests_per_minute here."
UNDELIVERABLE = "The platform refuses them for good: read why below, then redeliver or discard each."
LOST = "Only the task's responseTimeoutSeconds brings it back: `product-live-worker check` names the tasks without one."
NAMED = 3
"""Pauses, and tasks, that are named at most."""


def verdict(checks: list[Check]) -> str:
    """Say the first thing that is wrong, else the first of which a person should be told, else that all is well."""
    said = (*(check for check in checks if not check.ok), *(check for check in checks if check.notable))
    return next((f"{check.name}: {check.reason}" for check in said), "ok")


def _cure(error: Exception | None) -> str:
    if isinstance(error, KeyRefused):
        return "Put a valid key into api.key_file (it is read again by itself), or set PLW_API__KEY and restart."
    if isinstance(error, RateLimited):
        return SHARED
    if isinstance(error, PlatformFailing):
        return "The platform has trouble of its own: wait, or ask Product-Live; nothing is lost meanwhile."
    return "Check that the platform can be reached from here: `product-live-worker check`."


def _since(what: str, seconds: float) -> str:
    return f"{what} for {seconds:.0f} s"

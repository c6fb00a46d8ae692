"""The one state machine of the connectors: a job of another system is started at most once, and waited for.

    baseline ─▶ posting ─▶ started ─▶ (polls) ─▶ ended
                  │  ▲
                  ▼  │ conclusively not there
                looking

None of these systems knows an idempotency key. So what is known before the start is written down before it; a start
whose answer is lost is looked for, adopted when it is found, sent again only where finding nothing is conclusive, and
else FAILED `ambiguous_start`. After a crash, and in a retry by the platform, the checkpoint says where to go on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, Protocol, TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, Field, model_validator

from product_live_handlers.bounds import LONGEST_NAME, LONGEST_TEXT, cut, shorten
from product_live_handlers.remote_http import LoginRefused, NoAnswer, Refused, RemoteError
from product_live_handlers.settings import HandlerSettings
from product_live_worker import Context, Handler, NotSaved, TaskFailed, handler

Result = TypeVar("Result")
Json = dict[str, Any]

MARGIN = 15.0
"""Seconds before the handler's deadline at which the waiting ends; of a short one, a tenth."""
CANCELLING = 60.0
"""Seconds in which a cancelled job must say that it is."""
LAST_WORDS = 10.0
"""Seconds for cancelling a job while the handler itself is being ended."""
LONGEST_BUSY = 300.0
"""Seconds at most for which another system's Retry-After is obeyed."""
SEEN_EVERY = 600.0
"""Seconds after which a look that shows nothing new is written down: some systems forget what was not looked at."""
WANTED_AGAIN = frozenset({"TIMED_OUT", "FAILED"})
"""Ends of an execution after which the platform may retry it: the retry adopts the job."""


class Outcome(StrEnum):
    """How a remote job ended, the same for all systems."""

    SUCCEEDED = "succeeded"
    WARNING = "succeeded_with_warnings"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    TIMED_OUT = "timed_out"
    UNKNOWN = "unknown"


CODES = {
    Outcome.WARNING: "remote_warning",
    Outcome.FAILED: "remote_failed",
    Outcome.CANCELLED: "remote_cancelled",
    Outcome.SKIPPED: "remote_skipped",
    Outcome.TIMED_OUT: "timed_out",
    Outcome.UNKNOWN: "remote_unknown",
}
"""The codes of FAILED, by outcome."""
WORDS = {
    Outcome.SUCCEEDED: "has ended well",
    Outcome.WARNING: "has ended with warnings",
    Outcome.FAILED: "has failed",
    Outcome.CANCELLED: "was cancelled",
    Outcome.SKIPPED: "was skipped",
    Outcome.TIMED_OUT: "has not ended in time",
    Outcome.UNKNOWN: "may have ended or not",
}
"""The same for a person."""


class Given(BaseModel):
    """An input: unknown names are mistakes, and what a job has not wired (null, an empty text) is the default."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if v is not None and v != ""} if isinstance(given, dict) else given


class WaitPolicy(Given):
    """How long to wait, how often to look, and what becomes of the job when nobody waits any more."""

    timeout_s: float = Field(default=14400, gt=0)
    poll_initial_s: float = Field(default=5, ge=0.5)
    poll_max_s: float = Field(default=60, ge=0.5)
    poll_multiplier: float = Field(default=1.5, ge=1)
    poll_jitter: float = Field(default=0.2, ge=0, le=0.5)
    max_consecutive_poll_errors: int = Field(default=10, ge=1)
    on_timeout: Literal["leave_running", "cancel"] = "leave_running"
    on_cancel: Literal["leave_running", "cancel"] = "cancel"


class JobInput(Given):
    """What the input of every connector may say beside what names the job."""

    key: str | None = None
    """Tells equal turns of a loop inside one job apart; otherwise they are one."""
    wait: WaitPolicy | None = None


class ConnectorSettings(HandlerSettings):
    """The section `[tasks.<key>.settings]` of a task that a connector serves."""

    connection: str
    """The account: a section `[connections.<name>]`."""
    wait: WaitPolicy | None = None
    """How to wait where the input does not say."""


def connector(name: str, *, timeout: float) -> Callable[[Callable[..., Any]], Handler]:
    """Make a handler of a function that waits for a remote job: `handler`, as all of these want to be run.

    `timeout` is a little longer than the wait that is the default.
    """
    return handler(
        name,
        concurrency=1000,
        timeout=timeout,
        explicit=True,
        on_crash="rerun",
        on_repeat="adopt",
        settings=ConnectorSettings,
    )


class RemoteResult(BaseModel):
    """What every output says; of a FAILED execution, beside `message` and `code`."""

    outcome: Outcome
    remote_id: str = ""
    raw_status: str = ""
    correlation: Literal["exact", "inferred", "adopted"] = "exact"
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    truncated: bool = False
    """Whether something that the system said is cut here."""


Output = TypeVar("Output", bound=RemoteResult)


class Clock:
    """Time as the machine needs it: Unix seconds that do not jump while the process lives."""

    def __init__(self) -> None:
        self._zero = time.time() - time.monotonic()

    def now(self) -> float:
        """Give Unix seconds."""
        return self._zero + time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a search for our own run has found."""

    remote: Json | None = None
    pending: bool = False
    """It cannot be known yet: what runs has to end first, or what is scheduled may still be replaced."""
    scheduled: Json | None = None
    """The run that it is unless somebody replaces it before it begins."""
    several: bool = False
    """More than one could be ours."""
    conclusive: bool = True
    """Whether nothing found means that nothing was started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a system says of a run."""

    raw: str
    outcome: Outcome | None = None
    """None while it lives, or while it says what nobody knows."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the output."""
    strange: bool = False
    """Whether its state is none that is known."""


class Occupied(Exception):
    """The system runs this job already; `remote` is that run, where it is known."""

    def __init__(self, text: str, remote: Json | None = None) -> None:
        super().__init__(text)
        self.remote = remote


class Job(Protocol[Output]):
    """One job of one system, as the machine starts it and waits for it. All values are JSON: they are checkpoints."""

    system: str
    output: type[Output]
    lease: str
    """Two executions with the same one are not started at once; empty where that does no harm."""
    if_already_running: str
    """"fail", "attach" or "wait_then_start": what an Occupied means."""
    max_resends: int
    """How often a start that is conclusively lost is sent again."""
    grace: float
    """Seconds in which a run that was started must have become visible; 0 where runs cannot be searched for."""
    failing: frozenset[Outcome]
    """Outcomes that are FAILED."""

    async def baseline(self) -> Json:
        """Give what must be known before the start; raises Occupied, TaskFailed, RemoteError."""

    async def start(self, baseline: Json) -> Json | None:
        """Start it, once; None where the system does not say which run that is. Raises Occupied, RemoteError.

        Cancelled while its request is in the air, it hears the answer first.
        """

    async def look(self, baseline: Json) -> Look:
        """Search for a run that was started since the baseline, last looked for at `looked_at`; raises RemoteError."""

    async def running(self) -> Json | None:
        """Give the run that is in the way; raises RemoteError."""

    async def status(self, remote: Json) -> Seen:
        """Ask for the run, which was last seen at `seen_at`; raises RemoteError."""

    async def cancel(self, remote: Json) -> bool:
        """Ask for its end; False where that is impossible. Raises RemoteError."""

    async def pause(self, seconds: float) -> None:
        """Wait for the next look, or for less when something has happened."""

    def name(self, remote: Json) -> str:
        """Give the run's id, as the system's own people know it."""


class Machine(Generic[Output]):
    """Runs one job for one execution."""

    def __init__(
        self,
        job: Job[Output],
        context: Context,
        wait: WaitPolicy,
        *,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`clock` and `chance` (numbers from 0 to 1) are arguments, so that hours can be tested."""
        self._job = job
        self._context = context
        self._wait = wait
        self._clock = clock
        self._chance = chance
        self._known: Json = {}
        self._said: set[str] = set()
        self._unsaved = False
        """Whether what is known now is not what a crash would leave."""
        self._denials = 0
        """Starts in a row that were not sent, or not taken for too many requests."""
        self._margin = min(MARGIN, context.remaining() / 10)

    async def run(self) -> Output:
        """Give the result of a job that ended well; raises TaskFailed for all else."""
        try:
            return await self._run()
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(LAST_WORDS, shield=True):
                await self._unwanted()
            raise

    async def _run(self) -> Output:
        self._known = dict(self._context.checkpoint or {})
        if self._known.get("phase") == "ended":
            if (over := self._over()) is not None:
                return over
            self._known = {}
        if self._known.get("execution") != self._context.execution_id:
            # A retry by the platform has a time of its own to wait.
            self._known |= {"began": self._clock.now(), "execution": self._context.execution_id}
        await self._start()
        return await self._finish()

    def _over(self) -> Output | None:
        """Give what has ended already; None where this is a retry of what failed, and starts anew."""
        failure, result = self._known["failure"], self._known["result"]
        if failure is None:
            return self._job.output.model_validate(result)
        if self._known["execution"] == self._context.execution_id:
            raise TaskFailed(failure["message"], code=failure["code"], output=result)
        return None

    # Starting

    async def _start(self) -> None:
        if self._known.get("phase") == "started":
            return
        async with AsyncExitStack() as turn:
            if self._job.lease:
                await self._take(turn)
            await self._start_alone()

    async def _take(self, turn: AsyncExitStack) -> None:
        """Take the lease; raises TaskFailed when the time is over before another execution gives it back."""
        try:
            await turn.enter_async_context(self._context.lease(self._job.lease, timeout=0.0))
        except TimeoutError as taken:
            self._say("another execution is starting this job; its turn is waited for", why=str(taken))
        else:
            return
        # Written down, so that only crashes in a row count.
        await self._save(phase=self._known.get("phase", "waiting"))
        left = max(0.0, self._left())
        try:
            await turn.enter_async_context(self._context.lease(self._job.lease, timeout=left))
        except TimeoutError as taken:
            raise self._out_of_time(f"Its turn to be started has not come: {taken}.") from None

    async def _start_alone(self) -> None:
        while self._known.get("phase") != "started":
            if self._known.get("phase") in ("posting", "accepted"):
                # Of an earlier life: what became of that start is not known.
                await self._find()
            elif "baseline" not in self._known:
                await self._prepare()
            if self._known.get("phase") != "started" and "baseline" in self._known:
                await self._post()

    async def _prepare(self) -> None:
        try:
            self._known["baseline"] = await self._patiently(self._job.baseline)
        except Occupied as occupied:
            await self._make_way(occupied)

    async def _post(self) -> None:
        """Send the start; what it leaves is `started`, or a phase in which it is to be looked for, or prepared anew."""
        sent = self._known.get("sent", 0)
        again = sent > 0
        await self._save_first(phase="posting", looked_at=self._clock.now(), sent=sent + 1)
        try:
            remote = await self._job.start(self._known["baseline"])
        except Occupied as occupied:
            if not again:
                return await self._make_way(occupied)
            # In our own way, perhaps: what was lost has arrived.
            look = await self._search()
            if look.remote is None:
                raise self._ambiguous("what runs there may have come of it") from None
            await self._adopt(look.remote, "adopted")
        except NoAnswer as error:
            self._context.log.warning("the answer to a start was lost", system=self._job.system, error=str(error))
        except Refused as error:
            refused = _told(error)
            if not again:
                await self._over_with(refused)
            raise refused from None
        except RemoteError as error:
            await self._put_off(error, sent)
        else:
            await (self._save(phase="accepted") if remote is None else self._adopt(remote, "exact"))
        return None

    async def _put_off(self, error: RemoteError, sent: int) -> None:
        """Wait before a start that was certainly not done is sent again; what runs by then is looked at anew."""
        self._denials += 1
        if sent == 0:
            del self._known["baseline"]
        await self._save(phase="waiting", sent=sent)
        if self._denials >= self._wait.max_consecutive_poll_errors:
            text = f"{self._denials} starts in a row were not taken. {error}"
            raise TaskFailed(text, code="remote_unreachable") from None
        await self._in_time()
        await self._clock.sleep(self._after(error, self._denials))

    async def _find(self) -> None:
        """Adopt the run that is ours, or say why a start may be sent again; raises TaskFailed where it may not."""
        accepted = self._known["phase"] == "accepted"
        look = await self._search()
        if look.remote is not None:
            await self._adopt(look.remote, "inferred" if accepted else "adopted")
        elif accepted and not look.several and not look.conclusive:
            text = "The start was taken, and no run of it is found; what became of it cannot be known. Look there."
            raise self._failed(Seen(raw="not found", outcome=Outcome.UNKNOWN), text)
        elif accepted and not look.several:
            text = "The start was taken, but no run of it has become visible."
            failure = self._failed(Seen(raw="not visible", outcome=Outcome.SKIPPED), text)
            await self._over_with(failure)
            raise failure
        elif look.several or not look.conclusive or self._known["sent"] > self._job.max_resends:
            raise self._ambiguous("several runs could be it" if look.several else "whether it was done cannot be known")
        else:
            self._known["phase"] = "resending"

    async def _search(self) -> Look:
        until: float | None = None
        interval = self._wait.poll_initial_s
        while self._job.grace:
            try:
                look = await self._patiently(self._look)
            except TaskFailed as failed:
                raise self._ambiguous(f"it cannot be looked for: {failed.message}") from None
            if look.remote is not None:
                return look
            now = self._clock.now()
            until = None if look.pending else until or now + self._job.grace
            if until is not None and now >= until:
                return look
            if look.conclusive and now - self._known.get("looked_at", 0.0) >= SEEN_EVERY:
                await self._save(looked_at=now)
            if self._left() <= 0 and look.scheduled is not None:
                # In time it would have been known for sure; without an id nobody could look for it, or end it.
                return replace(look, remote=look.scheduled)
            await self._in_time()
            await self._clock.sleep(interval)
            interval = min(interval * self._wait.poll_multiplier, self._wait.poll_max_s)
        return Look()

    async def _look(self) -> Look:
        return await self._job.look({**self._known["baseline"], "looked_at": self._known.get("looked_at")})

    def _ambiguous(self, why: str) -> TaskFailed:
        text = f"The answer to the start was lost, and {why}. Look there, and start it again if it does not run."
        return self._failed(Seen(raw="ambiguous", outcome=Outcome.UNKNOWN), text, "ambiguous_start")

    async def _make_way(self, occupied: Occupied) -> None:
        """Do what is to be done about a run that is in the way."""
        policy = self._job.if_already_running
        if policy == "attach":
            remote = occupied.remote or await self._patiently(self._job.running)
            if remote is not None:
                self._known["attached"] = True
                return await self._adopt(remote, "adopted")
        elif policy != "wait_then_start":
            text = f"{self._job.system}: nothing was started. {occupied}"
            failure = TaskFailed(text, code="already_running", output=self._output(Outcome.UNKNOWN, "running already"))
            await self._over_with(failure)
            raise failure
        self._say("the job runs already; its end is waited for", job=self._job.lease)
        self._known = {name: self._known[name] for name in ("began", "execution")}
        await self._save(phase="waiting")
        await self._in_time()
        await self._clock.sleep(self._interval(self._wait.poll_max_s))
        return None

    async def _adopt(self, remote: Json, correlation: str) -> None:
        self._known |= {"remote": remote, "correlation": correlation, "seen_at": self._clock.now()}
        await self._save(phase="started")
        self._context.log.info(
            "remote job started", system=self._job.system, remote=self._job.name(remote), correlation=correlation
        )

    # Waiting

    async def _finish(self) -> Output:
        interval, errors = self._wait.poll_initial_s, 0
        first = True
        while True:
            try:
                seen = await self._status()
            except RemoteError as error:
                errors += 1
                if errors >= self._wait.max_consecutive_poll_errors:
                    await self._give_up(f"{errors} looks in a row have failed; the job may still run. {error}")
                if self._left() <= 0:
                    return await self._late(Seen(raw=str(self._known.get("raw", ""))), sure=False)
                await self._clock.sleep(self._after(error, errors))
                continue
            errors = 0
            if seen.strange:
                self._say("a state that is not known; it counts as running", state=seen.raw[:100])
            if seen.outcome is not None:
                return await self._end(seen)
            await self._note(seen, first=first)
            first = False
            if self._left() <= 0:
                return await self._late(seen)
            await self._job.pause(min(self._interval(interval), max(0.0, self._left())))
            interval = min(interval * self._wait.poll_multiplier, self._wait.poll_max_s)

    async def _status(self) -> Seen:
        return await self._job.status({**self._known["remote"], "seen_at": self._known.get("seen_at")})

    async def _note(self, seen: Seen, *, first: bool) -> None:
        """Write down what is new; after a restart, that the wait goes on, so that only crashes in a row count."""
        now, before, raw = self._clock.now(), self._known.get("seen_at", 0.0), shorten(seen.raw, LONGEST_NAME)
        if first or self._unsaved or raw != self._known.get("raw") or now - before >= SEEN_EVERY:
            await self._save(raw=raw, seen_at=now)

    async def _late(self, seen: Seen, *, sure: bool = True) -> Output:
        spent = f"It did not end within {self._clock.now() - self._known['began']:.0f} s"
        late, still = replace(seen, outcome=Outcome.TIMED_OUT), "it runs on" if sure else "it may still run"
        if self._wait.on_timeout == "leave_running":
            raise self._failed(late, f"{spent}; {still}.")
        if not await self._may_cancel():
            with suppress(RemoteError):
                # Perhaps there was nothing left to cancel.
                if (last := await self._status()).outcome is not None:
                    return await self._end(last)
            text = f"{spent}, and cannot be cancelled from here; {still}."
            raise self._failed(late, text, "cancel_unsupported")
        until = self._clock.now() + CANCELLING
        while seen.outcome is None:
            if self._is_over(until):
                text = f"{spent}; it was told to end, and has not said that it did."
                raise self._failed(Seen(raw=seen.raw, outcome=Outcome.UNKNOWN), text, "cancel_unconfirmed")
            await self._clock.sleep(min(self._wait.poll_initial_s, 5.0))
            try:
                seen = await self._status()
            except RemoteError as error:
                self._say("the remote job's end could not be confirmed yet", error=str(error))
        if seen.outcome is Outcome.CANCELLED:
            return await self._end(seen, f"{spent}, and was cancelled.", "timed_out")
        # It was quicker.
        return await self._end(seen)

    async def _may_cancel(self) -> bool:
        if self._known.get("attached"):
            return False
        # The time to wait is over: this has some of its own.
        until = self._clock.now() + CANCELLING
        while True:
            try:
                return await self._job.cancel(self._known["remote"])
            except RemoteError as error:
                if isinstance(error, Refused) or self._is_over(until):
                    self._context.log.warning("the remote job could not be cancelled", error=str(error))
                    return False
            await self._clock.sleep(min(self._wait.poll_initial_s, 5.0))

    def _is_over(self, until: float) -> bool:
        return self._clock.now() >= until or self._context.remaining() < self._margin / 3

    async def _end(self, seen: Seen, text: str = "", code: str = "") -> Output:
        """Write the end down, and give it, or raise it."""
        if seen.outcome is None or seen.outcome is Outcome.UNKNOWN:
            # Not an end: a retry by the platform looks again.
            raise self._failed(seen, text, code)
        if seen.outcome in self._job.failing:
            failure = self._failed(seen, text, code)
            await self._over_with(failure)
            raise failure
        result = self._output(seen.outcome, seen.raw, seen.fields)
        await self._over_with(None, result)
        return self._job.output.model_validate(result)

    async def _over_with(self, failure: TaskFailed | None, result: Json | None = None) -> None:
        told = failure and {"message": failure.message, "code": failure.code}
        result = dict(failure.output) if failure else result
        await self._save(phase="ended", result=result, failure=told)
        outcome = (result or {}).get("outcome", "refused")
        self._context.log.info(
            "remote job ended", system=self._job.system, remote=(result or {}).get("remote_id", ""), outcome=outcome
        )

    async def _give_up(self, text: str) -> None:
        raise self._failed(Seen(raw=str(self._known.get("raw", "")), outcome=Outcome.UNKNOWN), text, "poll_failed")

    def _failed(self, seen: Seen, text: str = "", code: str = "") -> TaskFailed:
        outcome = seen.outcome or Outcome.UNKNOWN
        output = self._output(outcome, seen.raw, seen.fields)
        said = text or output.get("error_message") or ""
        subject = f"{self._job.system}: the job {output.get('remote_id') or ''}".rstrip()
        state = f" ({output['raw_status']})" if seen.raw else ""
        message = f"{subject} {WORDS[outcome]}{state}. {said}".strip()
        return TaskFailed(message, code=code or CODES[outcome], output=output)

    def _output(self, outcome: Outcome, raw: str, fields: Mapping[str, Any] | None = None) -> Json:
        remote = self._known.get("remote")
        values = {
            "remote_id": self._job.name(remote) if remote else "",
            "correlation": self._known.get("correlation", "exact"),
            **(fields or {}),
            "outcome": outcome,
            "raw_status": raw,
        }
        values["error_message"] = values.get("error_message") or None
        return bounded(self._job.output.model_validate(values).model_dump(mode="json", by_alias=True))

    # Ending early

    async def _unwanted(self) -> None:
        """Cancel the job of an execution that the platform has ended for good, where the policy says so."""
        status = await self._context.ended()
        if status is None or status in WANTED_AGAIN:
            return
        remote = self._known.get("remote")
        if self._wait.on_cancel == "leave_running" or self._known.get("attached"):
            if self._known.get("phase") in ("posting", "accepted", "started"):
                named = self._job.name(remote) if remote else ""
                self._context.log.info("the remote job is left running", system=self._job.system, remote=named)
            return
        try:
            if remote is None and self._known.get("phase") in ("posting", "accepted") and self._job.grace:
                look = await self._look()
                remote = look.remote or look.scheduled
            done = remote is not None and await self._job.cancel(remote)
        except (RemoteError, TaskFailed) as error:
            self._context.log.warning("the remote job could not be cancelled", error=str(error))
            return
        said = "remote job cancelled" if done else "the remote job cannot be cancelled, and runs on"
        self._context.log.info(said, system=self._job.system, remote=self._job.name(remote) if remote else "")

    # How long

    def _left(self) -> float:
        """Give the seconds for which it is still waited; never beyond the handler's own deadline."""
        own = float(self._known["began"]) + self._wait.timeout_s - self._clock.now()
        return min(own, self._context.remaining() - self._margin)

    async def _in_time(self) -> None:
        if self._left() <= 0:
            raise self._out_of_time(f"No run of it is known after {self._clock.now() - self._known['began']:.0f} s.")

    def _out_of_time(self, text: str) -> TaskFailed:
        """Say that the time was over before a run was known, and what may come of it all the same."""
        phase = self._known.get("phase")
        left = {"posting": "It may have been started.", "accepted": "The start was taken; it may still run."}
        seen = Seen(raw=str(self._known.get("raw", "")), outcome=Outcome.TIMED_OUT)
        code = "cancel_unsupported" if phase in left and self._wait.on_timeout == "cancel" else ""
        return self._failed(seen, f"{text} {left.get(str(phase), 'Nothing was started.')}", code)

    def _interval(self, seconds: float) -> float:
        return float(seconds * (1 + self._wait.poll_jitter * (2 * self._chance() - 1)))

    def _after(self, error: RemoteError, errors: int) -> float:
        grown = self._wait.poll_initial_s * float(self._wait.poll_multiplier**errors)
        waited = self._interval(min(grown, self._wait.poll_max_s))
        return max(waited, min(error.retry_after or 0.0, LONGEST_BUSY))

    async def _patiently(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask again while an answer is only missing."""
        errors = 0
        while True:
            try:
                return await ask()
            except Refused as error:
                raise _told(error) from None
            except RemoteError as error:
                errors += 1
                if errors >= self._wait.max_consecutive_poll_errors:
                    text = f"{errors} requests in a row have failed. {error}"
                    raise TaskFailed(text, code="remote_unreachable") from None
                await self._in_time()
                await self._clock.sleep(self._after(error, errors))

    async def _save(self, **more: Any) -> None:
        """Write down what is known. While that is refused, what was started is waited for all the same."""
        self._known |= more
        try:
            await self._context.save_checkpoint(self._known)
        except NotSaved as error:
            self._unsaved = True
            self._say("the journal takes nothing now; it is written down later", error=str(error))
        else:
            self._unsaved = False

    async def _save_first(self, **more: Any) -> None:
        """Write down what must be known before a start is sent."""
        while True:
            try:
                await self._context.save_checkpoint(self._known | more)
            except NotSaved as error:
                self._say("the journal takes nothing now; nothing is started before it does", error=str(error))
            else:
                self._known |= more
                self._unsaved = False
                return
            await self._in_time()
            await self._clock.sleep(self._wait.poll_initial_s)

    def _say(self, text: str, **fields: Any) -> None:
        if text not in self._said:
            self._said.add(text)
            self._context.log.warning(text, system=self._job.system, **fields)


def _told(error: Refused) -> TaskFailed:
    code = "login_refused" if isinstance(error, LoginRefused) else "remote_refused"
    return TaskFailed(str(error), code=code, output=refusal(error))


def refusal(error: Refused) -> Json:
    """Give what an output says of a refusal."""
    return {"status_code": error.status, "error_code": error.code or None, **error.details}


def bounded(output: Json) -> Json:
    """Give an output of a size, and say in it whether anything is cut."""
    kept = {name: cut(said, LONGEST_TEXT if name == "error_message" else LONGEST_NAME) for name, said in output.items()}
    return {**kept, "truncated": output["truncated"] or kept != output}


async def ask(
    question: Callable[[], Awaitable[Result]], *, clock: Clock, context: Context, attempts: int = 5, wait: float = 2.0
) -> Result:
    """Ask what may be asked again, and tell what went wrong as a TaskFailed."""
    for attempt in range(1, attempts + 1):
        try:
            return await question()
        except Refused as error:
            raise _told(error) from None
        except RemoteError as error:
            if attempt == attempts:
                raise TaskFailed(str(error), code="remote_unreachable") from None
            context.log.warning("asked again", error=str(error), attempt=attempt)
            await clock.sleep(max(wait * 2**attempt, min(error.retry_after or 0.0, LONGEST_BUSY)))
    raise AssertionError("there is a last attempt")

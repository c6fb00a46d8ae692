"""The state machine of the connectors, on a pretended system and a clock that leaps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import Field

from product_live_handlers.remote_http import Busy, LoginRefused, NoAnswer, NotSent, Refused
from product_live_handlers.remote_job import (
    Clock,
    Json,
    Look,
    Machine,
    Occupied,
    Outcome,
    RemoteResult,
    Seen,
    WaitPolicy,
)
from product_live_worker import Context, NotSaved, TaskFailed
from support.contexts import Lines, a_context
from support.job_clock import Leaping, no_chance

pytestmark = pytest.mark.anyio

DONE = Seen(raw="DONE", outcome=Outcome.SUCCEEDED)
LIVE = Seen(raw="RUNNING")


@dataclass
class Pretended:
    """A system with one job; `answers` are what its calls do in turn, an exception being raised."""

    clock: Clock
    statuses: list[Any] = field(default_factory=lambda: [LIVE, LIVE, DONE])
    starts: list[Any] = field(default_factory=list)
    """Of each start in turn: None is well, an error is raised, "lost" does it and loses the answer, and "accepted" does
    it and has no result."""
    baselines: list[Any] = field(default_factory=list)
    cancels: bool = True
    cancellings: list[Any] = field(default_factory=list)
    visible_after: int = 0
    looks: list[Any] = field(default_factory=list)
    system: str = "Pretended"
    output: type[RemoteResult] = RemoteResult
    lease: str = "one"
    if_already_running: str = "fail"
    max_resends: int = 2
    grace: float = 30.0
    failing: frozenset[Outcome] = frozenset(Outcome) - {Outcome.SUCCEEDED, Outcome.WARNING}
    names: bool = True
    runs: list[str] = field(default_factory=list)
    posts: int = 0
    cancelled: list[Json] = field(default_factory=list)
    asked: int = 0
    looked_at: list[float] = field(default_factory=list)
    """When each look was told that the one before it was."""

    async def baseline(self) -> Json:
        """See Job."""
        self._next(self.baselines)
        return {"known": len(self.runs)}

    async def start(self, baseline: Json) -> Json | None:
        """See Job."""
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        self.posts += 1
        told = self._next(self.starts)
        self.runs.append(f"r{len(self.runs) + 1}")
        if told == "accepted":
            await anyio.sleep_forever()
        if told == "lost":
            raise NoAnswer("Pretended gave no answer: ReadTimeout")
        return {"id": self.runs[-1]} if self.names else None

    async def look(self, baseline: Json) -> Look:
        """See Job."""
        self.looked_at.append(baseline["looked_at"])
        if self.looks:
            return self._next(self.looks)  # type: ignore[no-any-return]  # of Look
        new = self.runs[baseline["known"] :]
        self.visible_after -= 1
        if not new or self.visible_after >= 0:
            return Look()
        return Look(several=True) if len(new) > 1 else Look(remote={"id": new[0]})

    async def running(self) -> Json | None:
        """See Job."""
        return {"id": "other"}

    async def status(self, remote: Json) -> Seen:
        """See Job."""
        self.asked += 1
        told = self.statuses[0] if len(self.statuses) == 1 else self.statuses.pop(0)
        if isinstance(told, Exception):
            raise told
        return told  # type: ignore[no-any-return]  # of Seen

    async def cancel(self, remote: Json) -> bool:
        """See Job."""
        self._next(self.cancellings)
        self.cancelled.append(remote)
        return self.cancels

    async def pause(self, seconds: float) -> None:
        """See Job."""
        await self.clock.sleep(seconds)

    def name(self, remote: Json) -> str:
        """See Job."""
        return str(remote["id"])

    def _next(self, left: list[Any]) -> Any:
        told = left.pop(0) if left else None
        if isinstance(told, Exception):
            raise told
        return told


@dataclass
class Life:
    """An execution and its journal, over as many lives as a test gives it."""

    saved: list[Json] = field(default_factory=list)
    ended: str | None = None
    lines: Lines = field(default_factory=Lines)
    leases: list[str | None] = field(default_factory=list)
    """Who has the lease whenever it is asked for; nobody in the end."""
    waited: list[float] = field(default_factory=list)
    die_at: Callable[[Json], bool] = lambda _: False
    refusals: list[bool] = field(default_factory=list)
    """Whether the journal refuses what is to be saved, in turn."""
    id: str = "e1"

    def context(self, seconds: float = 86400.0) -> Context:
        """Give the context of the next life."""
        return replace(
            a_context("task", seconds=seconds),
            execution_id=self.id,
            checkpoint=self.saved[-1] if self.saved else None,
            verbs={"save_checkpoint": self.save, "ended": self.how, "lease": self.lease},
            log=self.lines,
        )

    async def save(self, checkpoint: Json) -> None:
        """Keep it, and die if this is the moment."""
        if self.refusals and self.refusals.pop(0):
            raise NotSaved("disk is full")
        self.saved.append(checkpoint)
        if self.die_at(checkpoint):
            raise KeyboardInterrupt

    async def lease(self, wanted: dict[str, Any]) -> str | None:
        """Say who has it."""
        self.waited.append(wanted["timeout"])
        return self.leases.pop(0) if self.leases else None

    async def how(self, _: Any) -> str | None:
        """Say how the platform has ended it."""
        return self.ended

    async def run(self, job: Pretended, *, seconds: float = 86400.0, **policy: Any) -> RemoteResult:
        """Live once."""
        wait = WaitPolicy(poll_initial_s=10, **policy)
        return await Machine(job, self.context(seconds), wait, clock=job.clock, chance=no_chance).run()

    async def failure(self, job: Pretended, **policy: Any) -> TaskFailed:
        """Live once, and fail."""
        with pytest.raises(TaskFailed) as failed:
            await self.run(job, **policy)
        return failed.value


def pretended(**fields: Any) -> Pretended:
    """Give a system."""
    return Pretended(Leaping(), **fields)


async def test_a_job_is_started_once_and_waited_for() -> None:
    """What is known before the start is durable before it, the id after it, and the end at the end."""
    job, life = pretended(), Life()
    result = await life.run(job)
    assert (result.outcome, result.remote_id, result.correlation, job.posts) == (Outcome.SUCCEEDED, "r1", "exact", 1)
    assert [saved["phase"] for saved in life.saved] == ["posting", "started", "started", "ended"]
    assert "remote" not in life.saved[0]


@pytest.mark.parametrize("error", [NotSent("away"), Busy("later", 120.0)])
async def test_a_start_that_never_arrived_is_sent_again(error: Exception) -> None:
    """Nothing was done, so nothing is looked for; Retry-After is obeyed, and what runs by then is looked at anew."""
    job, life = pretended(starts=[error, error], baselines=[None] * 9), Life()
    began = job.clock.now()
    assert (await life.run(job)).correlation == "exact"
    assert (job.posts, len(job.runs), 9 - len(job.baselines)) == (3, 1, 3)
    assert [saved["phase"] for saved in life.saved[:4]] == ["posting", "waiting", "posting", "waiting"]
    assert (job.clock.now() - began > 240) is isinstance(error, Busy)


@pytest.mark.parametrize("error", [NotSent("away"), Busy("later", 120.0)])
async def test_a_start_that_was_never_taken_leaves_nothing_in_doubt(error: Exception) -> None:
    """At the deadline, or after too many: nothing was started, and a retry by the platform begins anew."""
    job, life = pretended(starts=[error] * 5), Life()
    late = await life.failure(job, timeout_s=50, max_consecutive_poll_errors=9, on_timeout="cancel")
    assert (late.code, late.message.endswith("Nothing was started.")) == ("timed_out", True)
    job.starts, life.id = [error] * 3, "e2"
    assert (await life.failure(job, max_consecutive_poll_errors=3)).code == "remote_unreachable"
    life.id = "e3"
    assert (await life.run(job)).correlation == "exact"
    assert len(job.runs) == 1


async def test_a_journal_in_trouble_ends_no_wait() -> None:
    """What was started is waited for, and written down when that is possible again, its end or not."""
    job, life = pretended(statuses=[LIVE] * 5 + [DONE]), Life(refusals=[False, *[True] * 3])
    assert (await life.run(job)).outcome is Outcome.SUCCEEDED
    assert [saved["phase"] for saved in life.saved] == ["posting", "started", "ended"]
    unwritten = Life(refusals=[False, *[True] * 50])
    assert (await unwritten.run(pretended())).outcome is Outcome.SUCCEEDED
    assert [saved["phase"] for saved in unwritten.saved] == ["posting"]


async def test_nothing_is_started_before_it_is_written_down() -> None:
    """While the journal refuses, the start waits; at the deadline nothing was started, and that is said."""
    job, life = pretended(), Life(refusals=[True] * 3)
    assert (await life.run(job)).outcome is Outcome.SUCCEEDED
    assert (job.posts, life.saved[0]["phase"]) == (1, "posting")
    job, life = pretended(), Life(refusals=[True] * 50)
    failed = await life.failure(job, timeout_s=100)
    assert (failed.code, failed.message.endswith("Nothing was started."), job.posts) == ("timed_out", True, 0)


async def test_what_ended_right_before_it_was_to_be_cancelled_has_ended() -> None:
    """Nothing is left to be cancelled, and nothing is said of a job that runs on."""
    job = pretended(statuses=[*[LIVE] * 4, DONE], cancels=False)
    assert (await Life().run(job, timeout_s=30, poll_max_s=10, on_timeout="cancel")).outcome is Outcome.SUCCEEDED


async def test_a_start_whose_answer_is_lost_is_adopted() -> None:
    """It was done: it is found, though not at once, and not done again."""
    job = pretended(starts=["lost"], visible_after=2)
    assert (await Life().run(job)).correlation == "adopted"
    assert (job.posts, job.runs) == (1, ["r1"])


async def test_a_start_that_is_conclusively_lost_is_sent_again() -> None:
    """Nothing is found in the time that it may take: it was not done."""
    job = pretended(starts=[NoAnswer("reset"), NoAnswer("reset")])
    assert (await Life().run(job)).outcome is Outcome.SUCCEEDED
    assert (job.posts, len(job.runs)) == (3, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"starts": [NoAnswer("reset")] * 3},
        {"starts": [NoAnswer("reset")], "max_resends": 0},
        {"starts": [NoAnswer("reset")], "max_resends": 0, "grace": 0},
        {"starts": [NoAnswer("reset")], "looks": [Look(several=True)] * 20},
        {"starts": [NoAnswer("reset")], "looks": [Look(conclusive=False)] * 20},
        {"starts": [NoAnswer("reset")], "looks": [Refused("Pretended answered 403", status=403)] * 2},
        {"starts": [NoAnswer("reset")], "looks": [NoAnswer("away")] * 20},
    ],
)
async def test_what_cannot_be_told_is_ambiguous_and_stays_so(fields: dict[str, Any]) -> None:
    """Sent as often as is allowed, or several could be it: FAILED; a retry by the platform sends none either."""
    job, life = pretended(**fields), Life()
    failed = await life.failure(job)
    assert (failed.code, failed.output["outcome"]) == ("ambiguous_start", "unknown")
    assert life.saved[-1]["phase"] == "posting"
    posts, life.id, job.looks = job.posts, "e2", [Look(several=True)] * 20
    assert (await life.failure(job)).code == "ambiguous_start"
    assert (job.posts, job.runs) == (posts, [])


async def test_a_system_that_names_no_run_is_searched_for_it() -> None:
    """The run is inferred; what must end first gives it more time; one that never shows was skipped."""
    job = pretended(names=False, looks=[Look(pending=True)] * 50)
    assert (await Life().run(job)).correlation == "inferred"
    hidden, life = pretended(names=False, visible_after=100), Life()
    failed = await life.failure(hidden)
    assert (failed.code, hidden.posts) == ("remote_skipped", 1)
    assert (await life.failure(hidden)).code == "remote_skipped"


async def test_a_start_that_was_taken_and_is_not_found_for_sure_is_unknown() -> None:
    """Not skipped: it is no end, and a retry by the platform looks again and starts nothing."""
    job, life = pretended(names=False, looks=[Look(conclusive=False)] * 4), Life()
    failed = await life.failure(job)
    assert (failed.code, life.saved[-1]["phase"]) == ("remote_unknown", "accepted")
    life.id, job.looks = "e2", []
    assert (await life.run(job)).remote_id == "r1"
    assert job.posts == 1


@pytest.mark.parametrize("names", [True, False])
async def test_a_look_knows_how_long_nobody_has_looked(names: bool) -> None:
    """Since the start, of a worker that was down; while it is looked for, since the last look or a little longer."""
    phase = "posting" if names else "accepted"
    job, life = pretended(names=names, starts=["lost"] * names), Life(die_at=lambda saved: saved["phase"] == phase)
    began = job.clock.now()
    with pytest.raises(KeyboardInterrupt):
        await life.run(job)
    await job.clock.sleep(7200)
    life.die_at, job.looks = lambda _: False, [Look(pending=True)] * 100
    await life.run(job)
    assert job.looked_at[0] == began
    assert began + 7200 + 100 * 60 - 700 < job.looked_at[-1] < job.clock.now()


async def test_a_look_that_is_not_conclusive_is_none() -> None:
    """What was forgotten stays so, however often it is looked for."""
    job = pretended(names=False, looks=[Look(conclusive=False, pending=True)] * 100)
    began = job.clock.now()
    await Life().run(job)
    assert set(job.looked_at) == {began}


@pytest.mark.parametrize("phase", ["posting", "accepted", "started", "ended"])
@pytest.mark.parametrize("names", [True, False])
async def test_a_crash_at_a_checkpoint_starts_nothing_twice(phase: str, names: bool) -> None:
    """Whatever the next life finds last in the journal, one run is there at the end, and it is the result."""
    job, life = pretended(names=names), Life(die_at=lambda saved: saved["phase"] == phase)
    if names and phase == "accepted":
        return
    with pytest.raises(KeyboardInterrupt):
        await life.run(job)
    life.die_at = lambda _: False
    assert (await life.run(job)).remote_id == "r1"
    assert job.runs == ["r1"]


async def test_a_refused_start_is_a_failure_and_not_looked_for() -> None:
    """With the reason; the same execution says it again, a retry by the platform starts anew."""
    job, life = pretended(starts=[Refused("Pretended answered 404", status=404, code="nope", details={"a": 1})]), Life()
    failed = await life.failure(job)
    assert (failed.code, failed.output) == ("remote_refused", {"status_code": 404, "error_code": "nope", "a": 1})
    assert (await life.failure(job)).code == "remote_refused"
    assert job.posts == 1
    life.id = "e2"
    assert (await life.run(job)).outcome is Outcome.SUCCEEDED


async def test_bad_secrets_are_told_apart() -> None:
    """Nothing was started."""
    job = pretended(baselines=[LoginRefused("no", status=401)])
    assert (await Life().failure(job)).code == "login_refused"
    assert job.posts == 0


async def test_what_never_answers_before_the_start_is_unreachable() -> None:
    """After as many attempts as the policy allows."""
    job = pretended(baselines=[NoAnswer("away")] * 3)
    failed = await Life().failure(job, max_consecutive_poll_errors=3)
    assert (failed.code, job.posts) == ("remote_unreachable", 0)
    assert failed.message.endswith("away")


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.FAILED, "remote_failed"),
        (Outcome.CANCELLED, "remote_cancelled"),
        (Outcome.SKIPPED, "remote_skipped"),
        (Outcome.UNKNOWN, "remote_unknown"),
    ],
)
async def test_a_job_that_did_not_end_well_is_failed(outcome: Outcome, code: str, names: bool) -> None:
    """With its id, its state and its own words, which are cut; a retry starts anew where the end is known."""
    end = Seen(raw="BAD", outcome=outcome, fields={"error_message": "x" * 9000, "error_code": "17"})
    job, life = pretended(statuses=[LIVE, end], names=names), Life()
    failed = await life.failure(job)
    assert (failed.code, failed.output["remote_id"], failed.output["raw_status"]) == (code, "r1", "BAD")
    assert len(failed.output["error_message"]) == 2000
    life.id, job.statuses = "e2", [DONE]
    again = await life.run(job)
    assert again.remote_id == ("r1" if outcome is Outcome.UNKNOWN else "r2")


async def test_a_warning_is_as_the_job_says() -> None:
    """COMPLETED, or FAILED where it counts as one."""
    warned = Seen(raw="2", outcome=Outcome.WARNING)
    assert (await Life().run(pretended(statuses=[warned]))).outcome is Outcome.WARNING
    strict = pretended(statuses=[warned], failing=frozenset(Outcome) - {Outcome.SUCCEEDED})
    assert (await Life().failure(strict)).code == "remote_warning"


async def test_looks_that_fail_are_borne_for_a_while() -> None:
    """A few in a row are nothing; too many are `poll_failed`, which does not say that the job has failed."""
    away = NoAnswer("away")
    job = pretended(statuses=[away, away, LIVE, away, away, DONE])
    assert (await Life().run(job, max_consecutive_poll_errors=3)).outcome is Outcome.SUCCEEDED
    job, life = pretended(statuses=[LIVE, *[away] * 3, DONE]), Life()
    failed = await life.failure(job, max_consecutive_poll_errors=3)
    assert (failed.code, failed.output["outcome"]) == ("poll_failed", "unknown")
    life.id = "e2"
    assert (await life.run(job)).remote_id == "r1"


async def test_a_state_that_nobody_knows_is_not_an_end() -> None:
    """It is said once, and the wait goes on."""
    strange = Seen(raw="PONDERING", strange=True)
    life = Life()
    assert (await life.run(pretended(statuses=[strange, strange, DONE]))).outcome is Outcome.SUCCEEDED
    said = life.lines.said("a state that is not known; it counts as running")
    assert [line["state"] for line in said] == ["PONDERING"]


async def test_polls_grow_apart() -> None:
    """From the first interval to the longest, so that hours cost little."""
    job = pretended(statuses=[LIVE])
    failed = await Life().failure(job, timeout_s=36000, poll_max_s=60)
    assert failed.code == "timed_out"
    assert 36000 / 60 < job.asked < 36000 / 60 + 10


async def test_a_deadline_leaves_the_job_running_and_a_retry_adopts_it() -> None:
    """FAILED `timed_out`; the retry by the platform waits for the same run."""
    job, life = pretended(statuses=[LIVE]), Life()
    failed = await life.failure(job, timeout_s=100)
    assert (failed.code, failed.output["outcome"], job.cancelled) == ("timed_out", "timed_out", [])
    life.id, job.statuses = "e2", [LIVE, DONE]
    # With the whole of its time, not with what the first has left of it.
    assert (await life.run(job, timeout_s=100)).remote_id == "r1"
    assert job.posts == 1


async def test_the_wait_ends_before_the_handlers_own_deadline() -> None:
    """So that what is known can still be said; the clock of the wait may have hours left."""
    job = pretended(statuses=[LIVE])
    job.clock = Clock()
    assert (await Life().failure(job, seconds=1.0, poll_max_s=0.5)).code == "timed_out"


@pytest.mark.parametrize(
    ("end", "cancels", "code"),
    [
        (Seen(raw="GONE", outcome=Outcome.CANCELLED), True, "timed_out"),
        (Seen(raw="BAD", outcome=Outcome.FAILED), True, "remote_failed"),
        (LIVE, True, "cancel_unconfirmed"),
        (LIVE, False, "cancel_unsupported"),
    ],
)
async def test_a_deadline_may_cancel_the_job(end: Seen, cancels: bool, code: str) -> None:
    """What the report says is what the system confirms."""
    job = pretended(cancels=cancels)
    job.statuses = [*[LIVE] * 8, end]
    failed = await Life().failure(job, timeout_s=100, poll_max_s=20, on_timeout="cancel")
    assert (failed.code, job.cancelled) == (code, [{"id": "r1"}])


@pytest.mark.parametrize(
    ("policy", "code", "last"),
    [("leave_running", "timed_out", "it may still run."), ("cancel", "timed_out", "cancelled.")],
)
async def test_a_deadline_counts_though_looks_fail(policy: Any, code: str, last: str) -> None:
    """What is to become of the job then is done, and nothing is said of what nobody has seen."""
    job = pretended(statuses=[LIVE, *[NoAnswer("away")] * 6, Seen(raw="GONE", outcome=Outcome.CANCELLED)])
    failed = await Life().failure(job, timeout_s=100, poll_max_s=20, on_timeout=policy)
    assert (failed.code, failed.message.endswith(last)) == (code, True)
    assert (job.cancelled, failed.output["remote_id"]) == ([{"id": "r1"}] * (policy == "cancel"), "r1")


@pytest.mark.parametrize(
    ("policy", "cancels", "code"),
    [("leave_running", True, "timed_out"), ("cancel", True, "timed_out"), ("cancel", False, "cancel_unsupported")],
)
async def test_a_deadline_finds_a_run_that_is_only_scheduled(policy: Any, cancels: bool, code: str) -> None:
    """The report has its id, it is cancelled where that is wanted, and a retry by the platform waits for it."""
    end = Seen(raw="GONE", outcome=Outcome.CANCELLED)
    scheduled = Look(pending=True, scheduled={"id": "r1"})
    job, life = (
        pretended(names=False, looks=[scheduled] * 50, cancels=cancels, statuses=[LIVE, end if cancels else LIVE]),
        Life(),
    )
    failed = await life.failure(job, timeout_s=100, poll_max_s=20, on_timeout=policy)
    assert (failed.code, failed.output["remote_id"], failed.output["correlation"]) == (code, "r1", "inferred")
    assert job.cancelled == [{"id": "r1"}] * (policy == "cancel")
    if code == "timed_out" and policy == "leave_running":
        life.id, job.statuses = "e2", [DONE]
        assert (await life.run(job)).remote_id == "r1"


@pytest.mark.parametrize(("policy", "code"), [("leave_running", "timed_out"), ("cancel", "cancel_unsupported")])
async def test_a_deadline_before_a_run_is_known_says_what_may_come_of_it(policy: Any, code: str) -> None:
    """Taken, it may still run, and nothing is there to be cancelled; a retry goes on looking for it."""
    job, life = pretended(names=False, looks=[Look(pending=True)] * 50), Life()
    failed = await life.failure(job, timeout_s=100, poll_max_s=20, on_timeout=policy)
    assert (failed.code, failed.output["outcome"], failed.output["remote_id"]) == (code, "timed_out", "")
    assert failed.message.endswith("The start was taken; it may still run.")
    life.id, job.looks = "e2", []
    assert (await life.run(job)).remote_id == "r1"
    assert job.posts == 1


async def test_the_turn_of_a_job_is_waited_for_within_its_time() -> None:
    """Written down once, so that restarts meanwhile are no crashes in a row; then it is started."""
    job, life = pretended(), Life(leases=["e7"])
    await life.run(job, timeout_s=100)
    assert (life.saved[0]["phase"], life.waited) == ("waiting", [0.0, 100.0])
    assert "e7" in life.lines.said("another execution is starting this job; its turn is waited for")[0]["why"]


async def test_a_turn_that_does_not_come_in_time_says_who_has_it() -> None:
    """FAILED `timed_out`, with nothing started; the retry by the platform starts it."""
    job, life = pretended(), Life(leases=["e7", "e8"])
    failed = await life.failure(job, timeout_s=100)
    assert (failed.code, failed.output["outcome"], job.posts) == ("timed_out", "timed_out", 0)
    assert "the execution e8 has the lease 'one', which was waited for 100 s. Nothing was started." in failed.message
    life.id = "e2"
    assert (await life.run(job)).remote_id == "r1"


async def test_a_turn_that_does_not_come_after_a_crash_in_the_start_leaves_that_open() -> None:
    """It may have been started: that is said."""
    job, life = pretended(), Life(die_at=lambda saved: saved["phase"] == "posting")
    with pytest.raises(KeyboardInterrupt):
        await life.run(job)
    life.die_at, life.leases = lambda _: False, ["e7", "e7"]
    failed = await life.failure(job, timeout_s=100)
    assert (failed.message.endswith("It may have been started."), life.saved[-1]["phase"]) == (True, "posting")


async def test_cancelling_at_the_deadline_has_a_patience_of_its_own() -> None:
    """One answer that is missing, or one that says to come later, leaves no job running that was to be ended."""
    away = [NoAnswer("away"), Busy("later", 120.0), NotSent("away")]
    job = pretended(statuses=[*[LIVE] * 8, *away, Seen(raw="GONE", outcome=Outcome.CANCELLED)], cancellings=[*away])
    failed = await Life().failure(job, timeout_s=100, poll_max_s=20, on_timeout="cancel")
    assert (failed.code, failed.output["outcome"], job.cancelled) == ("timed_out", "cancelled", [{"id": "r1"}])


@pytest.mark.parametrize(("error", "most"), [(NoAnswer("away"), 14), (Refused("no", status=403), 1)])
async def test_cancelling_ends_some_time(error: Exception, most: int) -> None:
    """What is refused is not asked again, and what never answers not for ever; nor is its end."""
    job = pretended(statuses=[LIVE], cancellings=[error] * 99)
    failed = await Life().failure(job, timeout_s=100, poll_max_s=20, on_timeout="cancel")
    assert (failed.code, job.cancelled) == ("cancel_unsupported", [])
    assert 99 - len(job.cancellings) <= most
    job = pretended(statuses=[*[LIVE] * 8, error])
    failed = await Life().failure(job, timeout_s=100, poll_max_s=20, on_timeout="cancel")
    assert (failed.code, failed.output["outcome"]) == ("cancel_unconfirmed", "unknown")


async def test_a_job_that_ends_before_its_cancellation_has_succeeded() -> None:
    """The race is normal."""
    job = pretended(statuses=[*[LIVE] * 8, DONE])
    assert (await Life().run(job, timeout_s=100, poll_max_s=20, on_timeout="cancel")).outcome is Outcome.SUCCEEDED
    assert job.cancelled


@pytest.mark.parametrize(
    ("ended", "policy", "cancelled"),
    [
        ("CANCELED", "cancel", True),
        ("CANCELED", "leave_running", False),
        ("TIMED_OUT", "cancel", False),
        (None, "cancel", False),
    ],
)
async def test_a_job_is_cancelled_with_the_execution_that_nobody_wants(
    ended: str | None, policy: Any, cancelled: bool
) -> None:
    """A stop of the worker leaves it for the next life, a timeout of the platform for the retry."""
    job, life = pretended(statuses=[LIVE]), Life(ended=ended)
    with anyio.CancelScope() as scope:
        life.die_at = lambda saved: scope.cancel() if saved["phase"] == "started" else None  # type: ignore[func-returns-value]
        await life.run(job, on_cancel=policy)
    assert scope.cancelled_caught
    assert bool(job.cancelled) is cancelled


async def test_a_start_in_the_air_is_not_torn_off() -> None:
    """Cancelled in the middle of the start, its answer is still heard, and the run that it made is cancelled."""
    job, life = pretended(statuses=[LIVE]), Life(ended="CANCELED")
    with anyio.CancelScope() as scope:
        life.die_at = lambda saved: scope.cancel() if saved["phase"] == "posting" else None  # type: ignore[func-returns-value]
        await life.run(job)
    assert (job.runs, job.cancelled) == (["r1"], [{"id": "r1"}])


async def test_what_a_start_waits_for_after_its_request_is_not_waited_for_in_the_end() -> None:
    """Cancelled meanwhile, the run is looked for, and cancelled."""
    job, life = pretended(starts=["accepted"]), Life(ended="CANCELED")
    async with anyio.create_task_group() as group:
        group.start_soon(life.run, job)
        while not job.runs:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert job.cancelled == [{"id": "r1"}]


async def test_what_runs_already_is_refused_or_adopted_or_waited_for() -> None:
    """As the policy says, whether it is found before the start or by it."""
    for at in ("baselines", "starts"):
        busy = {at: [Occupied("it runs already")]}
        failed = await Life().failure(pretended(**busy))
        assert (failed.code, "it runs already" in failed.message) == ("already_running", True)
        attached = pretended(if_already_running="attach", **{at: [Occupied("it runs already")]})
        result = await Life().run(attached)
        assert (result.remote_id, result.correlation, attached.runs) == ("other", "adopted", [])
        waiting = pretended(if_already_running="wait_then_start", **{at: [Occupied("it runs already")] * 3})
        assert (await Life().run(waiting)).remote_id == "r1"
        assert len(waiting.runs) == 1


async def test_a_run_that_somebody_else_has_started_is_never_cancelled() -> None:
    """It was only waited for."""
    job = pretended(if_already_running="attach", baselines=[Occupied("busy", {"id": "theirs"})], statuses=[LIVE])
    failed = await Life().failure(job, timeout_s=100, on_timeout="cancel")
    assert (failed.code, failed.output["remote_id"], job.cancelled) == ("cancel_unsupported", "theirs", [])


async def test_our_own_lost_start_in_our_way_is_ours() -> None:
    """Sent again after an empty look, it meets itself: it is adopted, whatever the policy says of others."""
    job = pretended(starts=["lost", Occupied("busy")], looks=[Look()] * 4)
    result = await Life().run(job)
    assert (result.remote_id, result.correlation, job.runs) == ("r1", "adopted", ["r1"])


@pytest.mark.parametrize("policy", ["fail", "attach", "wait_then_start"])
@pytest.mark.parametrize("look", [Look(), Look(several=True), Look(conclusive=False)])
async def test_what_may_be_our_own_lost_start_is_no_strangers_run(look: Look, policy: str) -> None:
    """Sent again, and in our way is what cannot be told: nothing more is started, and it is not over."""
    job = pretended(starts=["lost", Occupied("busy")], looks=[*[Look()] * 4, *[look] * 4], if_already_running=policy)
    life = Life()
    assert (await life.failure(job)).code == "ambiguous_start"
    assert (life.saved[-1]["phase"], job.posts) == ("posting", 2)


async def test_a_run_is_seen_when_it_is_found() -> None:
    """So that a worker which is down from then on knows for how long."""
    life = Life(die_at=lambda saved: saved["phase"] == "started")
    job = pretended()
    with pytest.raises(KeyboardInterrupt):
        await life.run(job)
    assert life.saved[-1]["seen_at"] == job.clock.now()


async def test_many_wait_at_once_and_none_needs_a_thread() -> None:
    """A thousand executions on one loop."""
    jobs = [pretended(statuses=[*[LIVE] * 20, DONE]) for _ in range(1000)]
    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(Life().run, job)
    assert all(job.runs == ["r1"] for job in jobs)


class Long(RemoteResult):
    """An output with a list, a text and an object of the system's own."""

    names: list[str] = Field(default_factory=list)
    place: str = ""
    said: Json = Field(default_factory=dict)


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED])
async def test_an_absurd_answer_changes_no_outcome(outcome: Outcome) -> None:
    """Each part of an output has a size, and it says that something is cut; so has what is written down."""
    absurd = {"names": ["n" * 100] * 9999, "place": "p" * 99999, "said": {f"{n}": "x" * 999 for n in range(9999)}}
    end = Seen(
        raw="R" * 99999, outcome=outcome, fields={**absurd, "error_message": "e" * 99999, "error_code": "c" * 999}
    )
    job, life = pretended(statuses=[Seen(raw="L" * 99999), end], output=Long), Life()
    if outcome is Outcome.SUCCEEDED:
        output = (await life.run(job)).model_dump(mode="json")
    else:
        failed = await life.failure(job)
        output = dict(failed.output)
        assert len(failed.message) < 3000
    assert (output["outcome"], output["truncated"]) == (outcome, True)
    assert len(json.dumps(output)) < 50_000
    assert (len(output["raw_status"]), len(output["error_message"]), len(output["place"])) == (500, 2000, 500)
    assert output["names"][0] == "n" * 100
    assert max(len(json.dumps(saved)) for saved in life.saved) < 60_000


async def test_an_ordinary_answer_is_whole() -> None:
    """And says so."""
    end = Seen(raw="DONE", outcome=Outcome.SUCCEEDED, fields={"names": ["n"] * 500, "place": "p" * 500})
    output = await Life().run(pretended(statuses=[end], output=Long))
    assert (output.truncated, len(output.names), output.place) == (False, 500, "p" * 500)  # type: ignore[attr-defined]  # of Long

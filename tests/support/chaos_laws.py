"""What must be true after a storm, checked on the server's record, the handlers' notes and the journal's file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from product_live_worker.flow.recovery import QUARANTINED, RESTARTED
from product_live_worker.sandbox.records import FINAL, Execution
from product_live_worker.sandbox.traffic import Arrival, Limiter
from support.noted_handlers import Note, Told, kind
from support.watched_sandbox import Seen

MAX_CRASHES = 3
"""The default of state.max_crashes."""
TAKEN_IN = 3.0
"""Seconds after which an answer that has come is in the journal for certain; it takes milliseconds."""


class Kill(NamedTuple):
    """The end of a worker process."""

    process: int
    at: float
    during_start: bool


@dataclass(frozen=True)
class Record:
    """All that is known after a storm."""

    executions: dict[str, Execution]
    seen: list[Seen]
    arrivals: list[Arrival]
    limiter: Limiter
    rows: dict[str, dict[str, Any]]
    notes: list[Note]
    killed: dict[int, Kill]
    """By the worker's number."""
    crashed: list[str]
    """Workers that ended otherwise than they were told to, with what they said."""
    ambiguous: int
    """Polls that workers have said may have claimed what never arrived."""
    answer_in_time: float
    """Seconds in which an answer has certainly come in time."""
    seconds: float

    def noted(self, execution: str) -> list[Note]:
        """Give the handler's own notes of its runs of an execution."""
        return [note for note in self.notes if note.execution == execution]

    def starts(self, execution: str) -> list[Note]:
        """Give the runs of an execution."""
        return [note for note in self.noted(execution) if note.word == "start"]

    def patches(self, execution: str) -> list[Told]:
        """Give what each PATCH of an execution said."""
        return [
            one.told() for one in self.seen if one.operation == "update_execution" and one.id == execution and one.asked
        ]

    def processes(self) -> set[int]:
        """Give the processes that were killed."""
        return {kill.process for kill in self.killed.values()}


def broken_laws(record: Record) -> list[str]:
    """Say which law was broken, by which execution."""
    broken = [*record.crashed]
    if record.limiter.refused or record.limiter.largest_window > record.limiter.limit:
        broken.append(f"{record.limiter.largest_window} requests in a window, {record.limiter.refused} refused")
    for execution in record.executions.values():
        broken += [f"{execution.task_key} {execution.id}: {why}" for law in LAWS for why in law(record, execution)]
    return broken


def is_known(record: Record, execution: Execution) -> bool:
    """Whether a worker has written the execution down."""
    return execution.id in record.rows


def what_is_known_ends(record: Record, execution: Execution) -> Iterator[str]:
    """Every execution that a worker knew of has a final status at the server, and its row is closed."""
    if is_known(record, execution):
        if execution.status not in FINAL:
            yield f"it is held: {execution.status}"
        if record.rows[execution.id]["state"] != "REPORTED":
            yield f"its row is {record.rows[execution.id]['state']}: {record.rows[execution.id]['trouble']}"
    elif execution.status == "SCHEDULED":
        yield "nobody has claimed it"


def what_is_unknown_was_lost_on_the_wire(record: Record, execution: Execution) -> Iterator[str]:
    """An execution that was claimed and that no worker knows was lost between the two, and was neither run nor told."""
    if not is_known(record, execution) and execution.status != "SCHEDULED":
        if why_lost(record, execution) is None:
            yield "its claim was answered well and in time, and no worker knows it"
        if record.noted(execution.id) or record.patches(execution.id):
            yield "no worker knows it, and yet it was run or reported"


def it_ends_with_its_own_outcome(record: Record, execution: Execution) -> Iterator[str]:
    """Status and output are the handler's own, or tell truly that a crash came between."""
    told = (execution.status, execution.output)
    if execution.status not in FINAL or told == right(execution):
        if execution.status in FINAL and not any(note.word == "end" for note in record.noted(execution.id)):
            yield "it has an outcome, and its handler never came to its end"
        return
    allowed = {"worker_restarted": _may_be_restarted, "quarantined": _may_be_quarantined}
    judge = allowed.get(str(execution.output.get("code")))
    if judge is None or not judge(record, execution):
        yield f"it ended as {told}, not as {right(execution)}; its runs: {record.noted(execution.id)}"


def a_settled_outcome_never_changes(record: Record, execution: Execution) -> Iterator[str]:
    """All PATCHes of an execution say what the server has in the end, and only final statuses."""
    told = record.patches(execution.id)
    if any(said != told[0] for said in told):
        yield f"its reports differ: {told}"
    if told and execution.status in FINAL and tuple(told[0]) != (execution.status, execution.output):
        yield f"the server has something else than was reported: {told[0]}"


def nothing_runs_oftener_than_it_may(record: Record, execution: Execution) -> Iterator[str]:
    """A handler marked "fail" is started once; another until it has ended, or has crashed too often; no step twice."""
    starts, words = len(record.starts(execution.id)), [note.word for note in record.noted(execution.id)]
    reruns = kind(execution.task_key, execution.input["number"]).reruns
    if starts > 1 and not reruns:
        yield f"it was started {starts} times"
    if execution.task_key == "again" and starts > MAX_CRASHES:
        yield f"it was started {starts} times, although it crashed each time"
    saved = [word for word in words if word.startswith("saved")]
    if saved != sorted(set(saved)):
        yield f"a step whose checkpoint was saved was done again: {words}"
    living = [note for note in record.starts(execution.id) if note.process not in record.processes()]
    if living and execution.status in FINAL and (execution.status, execution.output) != right(execution):
        yield "it was run by a process that nobody killed, and ended otherwise"


Law = Callable[[Record, Execution], Iterator[str]]
LAWS: tuple[Law, ...] = (
    what_is_known_ends,
    what_is_unknown_was_lost_on_the_wire,
    it_ends_with_its_own_outcome,
    a_settled_outcome_never_changes,
    nothing_runs_oftener_than_it_may,
)


def right(execution: Execution) -> Told:
    """Give the one right end of an execution that no crash has touched."""
    return kind(execution.task_key, execution.input["number"]).told


def _may_be_restarted(record: Record, execution: Execution) -> bool:
    told = {"message": RESTARTED, "code": "worker_restarted"}
    reruns = kind(execution.task_key, execution.input["number"]).reruns
    killed = all(note.process in record.processes() for note in record.starts(execution.id))
    return (execution.status, execution.output) == ("FAILED", told) and not reruns and killed


def _may_be_quarantined(record: Record, execution: Execution) -> bool:
    told = {"message": QUARANTINED.format(crashes=MAX_CRASHES), "code": "quarantined"}
    reruns = kind(execution.task_key, execution.input["number"]).reruns
    words = [note.word for note in record.noted(execution.id)]
    last = max((index for index, word in enumerate(words) if word.startswith("saved")), default=0)
    # A process may be killed after a start is written down, and before the handler has noted it.
    often = words[last:].count("start") + (last > 0) >= MAX_CRASHES - 1
    return (execution.status, execution.output) == ("FAILED", told) and reruns and often


def why_lost(record: Record, execution: Execution) -> str | None:
    """Say how a claim was lost; None when nothing excuses it."""
    (poll,) = (one for one in record.seen if one.claimed == execution.id)
    if poll.answered_at is None:
        return "its answer was cut"
    if not poll.brings_claim():
        return "its answer was spoilt"
    if poll.answered_at - poll.arrived_at > record.answer_in_time:
        return "its answer came too late"
    kill = record.killed.get(poll.worker)
    if kill is not None and kill.at < poll.answered_at + TAKEN_IN:
        return "the worker was killed before it could be written down"
    return None


def table(record: Record, seed: int) -> list[str]:
    """Give the lines that tell what happened."""
    known = [e for e in record.executions.values() if is_known(record, e)]
    ends = Counter(
        "as the handler ended" if (e.status, e.output) == right(e) else str(e.output.get("code", e.status))
        for e in known
    )
    lost = Counter(str(why_lost(record, e)) for e in record.executions.values() if not is_known(record, e))
    starting = sum(kill.during_start for kill in record.killed.values())
    struck = Counter(arrival.fault for arrival in record.arrivals if arrival.fault)
    runs = Counter(len(record.starts(e.id)) for e in known)
    limiter = record.limiter
    sections: list[tuple[str, object]] = [
        ("seed", seed),
        ("seconds", round(record.seconds)),
        ("executions", len(record.executions)),
        *((f"  {task}", number) for task, number in Counter(e.task_key for e in record.executions.values()).items()),
        ("kills", len(record.killed)),
        ("  while the worker started", starting),
        ("requests", len(record.arrivals)),
        ("  most in a window", f"{limiter.largest_window} of {limiter.limit}"),
        ("  refused by the limiter", limiter.refused),
        ("faults", struck.total()),
        *((f"  {fault}", number) for fault, number in sorted(struck.items())),
        ("known to a worker, and ended", len(known)),
        *((f"  {end}", number) for end, number in ends.most_common()),
        ("their runs", sum(number * count for number, count in runs.items())),
        *((f"  run {number} times", count) for number, count in sorted(runs.items())),
        ("reports sent", sum(len(record.patches(e.id)) for e in known)),
        ("claims lost on the way", lost.total()),
        *((f"  {why}", number) for why, number in lost.most_common()),
        ("polls told to be ambiguous", record.ambiguous),
    ]
    return [f"{name:<56}{value:>12}" for name, value in sections]

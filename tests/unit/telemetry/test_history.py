"""The recent past, as events tell it: bounded, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from product_live_worker.model.context import Log
from product_live_worker.telemetry import events
from product_live_worker.telemetry.history import (
    DURATIONS,
    FAILURES,
    LINES,
    MINUTES,
    REQUESTS,
    STEPS,
    TEXT,
    TRAILS,
    History,
)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 60_000.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


def reported(execution: str, status: str = "COMPLETED", **fields: Any) -> events.ExecutionReported:
    """Say that an execution has been reported."""
    failed = status == "FAILED"
    return events.ExecutionReported(
        **{
            "task": "power",
            "execution": execution,
            "correlation": None,
            "status": status,
            "code": "odd" if failed else "",
            "message": "That is odd." if failed else "",
            "waited_seconds": 0.0,
            "ran_seconds": 1.0,
            "claim_to_report_seconds": 2.0,
            "attempts": 1,
            **fields,
        }
    )


def settled(execution: str, status: str = "COMPLETED", **fields: Any) -> events.ExecutionSettled:
    """Say that a handler has ended."""
    given = {"task": "power", "execution": execution, "correlation": None, "status": status, "code": ""}
    return events.ExecutionSettled(**{**given, "handler_seconds": 1.0, **fields})


def test_an_hour_is_kept_minute_by_minute() -> None:
    """Each minute with a report, with what completed and what failed in it; older ones are forgotten."""
    clock = Clock()
    history = History(now=clock)
    for number in range(2 * MINUTES):
        history.read(reported(f"a{number}"))
        history.read(reported(f"b{number}", "FAILED"))
        clock.now += 60
    past = history.tasks["power"]
    assert (past.completed, past.failed) == (2 * MINUTES, 2 * MINUTES)
    assert len(past.minutes) == MINUTES
    assert past.minutes[-1] == (1000 + 2 * MINUTES - 1, 1, 1)


def test_a_clock_that_goes_back_loses_no_report() -> None:
    """They count for the latest minute."""
    clock = Clock()
    history = History(now=clock)
    history.read(reported("a"))
    clock.now -= 3600
    history.read(reported("b"))
    assert list(history.tasks["power"].minutes) == [(1000, 2, 0)]


def test_a_failure_is_remembered_once_from_its_end_on() -> None:
    """Before its report has arrived; what recovery has failed without a handler, from the report on."""
    history = History()
    history.read(settled("a", "FAILED", code="odd", message="m" * 9999))
    assert [(one.code, len(one.message)) for one in history.failures.values()] == [("odd", TEXT)]
    history.read(reported("a", "FAILED"))
    history.read(reported("b", "FAILED", code="worker_restarted"))
    assert list(history.failures) == ["a", "b"]


def test_nothing_grows_without_end() -> None:
    """Requests, failures, durations, lines, ways and tasks have each their most."""
    history = History()
    for number in range(1200):
        history.read(events.RequestAnswered(operation="poll", code="404", seconds=0.1, purpose="poll"))
        history.read(settled(f"e{number}", "FAILED", code="odd", message="odd"))
        history.read(settled("same"))
    for number in range(LINES + 10):
        history.note(f"e{number}", "info", "l" * 9999)
    assert len(history.requests) == REQUESTS
    assert len(history.failures) == FAILURES
    assert len(history.tasks["power"].durations) == DURATIONS
    assert len(history.lines) == LINES
    assert {len(line.text) for line in history.lines.values()} == {TEXT}
    assert len(history.trail("same")) == STEPS
    assert sum(bool(history.trail(f"e{number}")) for number in range(1200)) == TRAILS - 1
    history.read(events.TasksServed(platform="", tasks=(("other", "other"),)))
    assert history.tasks == {}


def test_the_way_of_an_execution_is_told_in_order() -> None:
    """With what was odd about it, each with its moment."""
    clock = Clock()
    history = History(now=clock)
    about = {"task": "power", "execution": "e1", "correlation": None}
    for event in (
        events.ExecutionClaimed(**about),
        events.ExecutionRecovered(**about, decision="rerun", crashes=1),
        events.HandlerProcessEnded(**about, reason="memory"),
        settled("e1"),
        events.ReportPostponed(**about, reason="503", attempts=1, again_in=2.0),
        events.ExecutionRepeated(**about, state="SETTLED"),
        events.ReportConflicted(**about, sent="COMPLETED", found="CANCELED"),
        events.ExecutionUnwanted(**about, status="CANCELED"),
        events.ReportUndeliverable(**about, reason="422"),
    ):
        history.read(event)
        clock.now += 1
    way = history.trail("e1")
    assert [step.what for step in way] == [
        "claimed",
        "recovered",
        "its process ended",
        "settled",
        "report postponed",
        "offered again",
        "conflict",
        "no longer wanted",
        "undeliverable",
    ]
    assert [step.at for step in way] == sorted(step.at for step in way)
    assert way[4].detail == "attempt 1, again in 2 s: 503"


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., str]:
        return lambda event, **fields: self.said.append((level, event, fields)) or "written"


class Speechless:
    """A value that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


def test_a_handlers_log_is_noted_and_written_as_ever() -> None:
    """Its last line is remembered until it ends; what else the log can do, it still can, whatever it is given."""
    history, log = History(), Lines()
    noting: Any = history.noting("e1", cast("Log", log))
    for level in ("debug", "info", "warning", "error"):
        getattr(noting, level)("a line", at=1)
    assert log.said == [(level, "a line", {"at": 1}) for level in ("debug", "info", "warning", "error")]
    assert (history.lines["e1"].level, history.lines["e1"].text) == ("error", "a line at=1")
    assert noting.critical("worse") == "written"
    noting.info("odd", value=Speechless())
    assert log.said[-1][1] == "odd"
    history.read(settled("e1"))
    assert "e1" not in history.lines


def test_the_window_has_what_was_sent_in_it() -> None:
    """By the moment at which it was sent, not answered."""
    clock = Clock()
    history = History(window=60.0, now=clock)
    history.read(events.RequestAnswered(operation="poll", code="200", seconds=30.0, purpose="poll"))
    clock.now += 29
    assert len(history.of_window()) == 1
    clock.now += 2
    assert history.of_window() == []


def test_a_task_that_mostly_fails_is_told_and_one_that_failed_once_is_not() -> None:
    """For half an hour; more than half of them, and three at least."""
    clock = Clock()
    history = History(now=clock)
    for number in range(3):
        history.read(reported(f"a{number}", "FAILED", task="bad"))
        history.read(reported(f"b{number}", "FAILED", task="mixed"))
        history.read(reported(f"c{number}", task="mixed"))
    history.read(reported("d", "FAILED", task="once"))
    assert history.failing() == [("bad", 3, 3)]
    clock.now += 60 * 31
    assert history.failing() == []


def test_claims_that_may_be_lost_are_told_for_an_hour() -> None:
    """The latest twenty, however many there were."""
    clock = Clock()
    history = History(now=clock)
    for number in range(30):
        history.read(events.ClaimAmbiguous(task=f"t{number}", reason="no answer within 20 s"))
    assert [one.task for one in history.lost()][::19] == ["t10", "t29"]
    clock.now += 3600
    assert history.lost() == []

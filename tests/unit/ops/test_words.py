"""Durations and moments in words, and numbers as pictures."""

from __future__ import annotations

from typing import Any, cast

import pytest

from product_live_worker.ops.document import BudgetPart
from product_live_worker.ops.page.pages import commands, cut, unchanged
from product_live_worker.ops.page.words import bars, relative, requests, slots, span


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (0, "0 s"),
        (0.004, "0.004 s"),
        (9.96, "10 s"),
        (59, "59 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3600, "60 min"),
        (5400, "2 h"),
        (86400, "24 h"),
        (200_000, "2 d"),
    ],
)
def test_a_duration_has_two_figures_at_most(seconds: float | None, said: str) -> None:
    """In the unit that a person would take."""
    assert span(seconds) == said


def test_a_moment_is_told_from_now() -> None:
    """Before it and after it."""
    now = "2026-01-01T12:00:00+00:00"
    assert relative("2026-01-01T11:59:48+00:00", now) == "12 s ago"
    assert relative("2026-01-01T12:10:00+00:00", now) == "in 10 min"
    assert relative("2026-01-01T12:00:00.400+00:00", now) == "now"


def test_the_bars_of_an_hour_show_the_least_too() -> None:
    """What failed stands on what completed; one in a thousand is still seen; minutes without any are not drawn."""
    drawn = bars([(0, 999, 1), (59, 500, 0)])
    assert drawn == {"done": "M59.5 16v-15M0.5 16v-8", "failed": "M59.5 1v-1"}
    assert bars([]) == {"done": "", "failed": ""}


def budget(**fields: Any) -> BudgetPart:
    """Give a budget of which only this matters."""
    return cast("BudgetPart", {"limit": 10, "allowed": 10, "used": 0, "reserved": 0, "window_seconds": 60.0, **fields})


def test_each_slot_is_one_thing() -> None:
    """Used, kept for reports, free, or not ours for now; never more than there are."""
    drawn = slots(budget(used=3, reserved=2, allowed=7))
    assert drawn == ["used"] * 3 + ["reserved"] * 2 + ["free"] * 2 + ["away"] * 3
    assert slots(budget(used=12, reserved=2)) == ["used"] * 10
    assert slots(budget(limit=0)) == slots(budget(limit=5000)) == []


def test_requests_stay_within_the_picture() -> None:
    """However long they took; an empty poll is well, and a refused report is not."""
    made = [
        {"seconds_ago": 60.0, "seconds": 0.0, "purpose": "poll", "operation": "poll", "code": "404"},
        {"seconds_ago": 0.0, "seconds": 0.1, "purpose": "report", "operation": "update_execution", "code": "422"},
        {"seconds_ago": 70.0, "seconds": 900.0, "purpose": "define", "operation": "list_tasks", "code": "200"},
    ]
    drawn = requests(budget(requests=made))
    assert [one["kind"] for one in drawn] == ["well", "bad", "well"]
    assert all(float(one["x"]) >= 0 and float(one["x"]) + float(one["width"]) <= 600 for one in drawn)


def test_only_commands_are_set_as_such_and_all_else_is_escaped() -> None:
    """Also where somebody else has written backticks."""
    assert str(commands("do `run <b>`, & wait")) == "do <code>run &lt;b&gt;</code>, &amp; wait"
    assert cut("abcdef", 4) == "abc…"


def test_how_long_ago_something_was_is_no_change() -> None:
    """The page itself keeps it true; another moment is one."""
    first = '<td><time datetime="a" title="b">1 s ago</time> x</td>'
    assert unchanged(first) == unchanged(first.replace("1 s", "2 s"))
    assert unchanged(first) != unchanged(first.replace('"a"', '"c"'))

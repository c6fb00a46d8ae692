"""How long to wait after failures, and what a row of failures is: an outage, told on its edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_live_worker.flow.backoff import FIRST, LONGEST, Outage, delay
from product_live_worker.telemetry.events import Event, OutageEnded, OutageStarted

CHANCE = st.floats(0, 1)
ATTEMPTS = st.integers(1, 10**9)


@given(ATTEMPTS, CHANCE)
def test_a_delay_stays_between_half_the_first_and_the_longest(attempt: int, chance: float) -> None:
    """However long an outage lasts, the next attempt comes within the longest delay, and never at once."""
    assert FIRST / 2 <= delay(attempt, chance) <= LONGEST


@given(ATTEMPTS, CHANCE)
def test_a_delay_never_shrinks_from_one_attempt_to_the_next(attempt: int, chance: float) -> None:
    """With equal luck a later attempt waits at least as long, and at most twice as long."""
    assert delay(attempt, chance) <= delay(attempt + 1, chance) <= 2 * delay(attempt, chance)


@pytest.mark.parametrize(("attempt", "longest"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)])
def test_a_delay_doubles_up_to_the_longest(attempt: int, longest: float) -> None:
    """The whole delay is 1 s, 2 s, 4 s … 60 s, and chance spreads it over its upper half."""
    assert (delay(attempt, 0), delay(attempt, 1)) == (longest / 2, longest)


@given(ATTEMPTS, CHANCE, st.floats(0, 10**6))
def test_a_delay_is_at_least_what_the_platform_asked_for(attempt: int, chance: float, at_least: float) -> None:
    """Retry-After lengthens a delay and never shortens it."""
    assert delay(attempt, chance, at_least=at_least) == max(at_least, delay(attempt, chance))


@given(st.integers(1, 10), CHANCE, st.floats(0.001, 100), st.floats(0.001, 1000))
def test_a_delay_keeps_to_the_bounds_it_is_given(attempt: int, chance: float, first: float, longest: float) -> None:
    """Another first and longest delay scale the same curve."""
    found = delay(attempt, chance, first=first, longest=longest)
    assert min(first, longest) / 2 <= found <= longest


class World:
    """An outage, its clock, and what it told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[Event] = []
        self.outage = Outage("polling", self.told.append, now=lambda: self.now, chance=lambda: 1.0)


def test_what_works_is_no_outage() -> None:
    """Success after success tells nothing."""
    world = World()
    world.outage.worked()
    assert (world.outage.lasts, world.outage.seconds(), world.told) == (False, 0.0, [])


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends() -> None:
    """However many attempts fail, there are two lines: the first reason, and the length in seconds and attempts."""
    world = World()
    for reason in ("no route", "no answer", "503"):
        world.outage.failed(OSError(reason))
        world.now += 30
    assert world.outage.lasts
    assert (world.outage.reason, str(world.outage.error)) == ("503", "503")
    assert world.outage.seconds() == 90
    world.outage.worked()
    world.outage.worked()
    assert world.told == [
        OutageStarted(what="polling", reason="no route"),
        OutageEnded(what="polling", seconds=90.0, attempts=3),
    ]
    assert (world.outage.lasts, world.outage.reason, world.outage.error) == (False, "", None)


def test_a_new_outage_begins_with_the_first_delay_again() -> None:
    """What once failed for long is not held against it later."""
    world = World()
    assert [world.outage.failed(OSError()) for _ in range(3)] == [1.0, 2.0, 4.0]
    world.outage.worked()
    assert world.outage.failed(OSError()) == 1.0


def test_an_outage_waits_as_its_reporter_asks() -> None:
    """A first delay of its own and the platform's wish are both honoured."""
    world = World()
    assert world.outage.failed(OSError(), first=5.0) == 5.0
    assert world.outage.failed(OSError(), first=5.0) == 10.0
    assert world.outage.failed(OSError(), first=5.0, at_least=77.0) == 77.0


@given(st.lists(st.booleans(), max_size=50))
def test_every_outage_that_begins_ends_when_something_works(results: list[bool]) -> None:
    """Beginnings and ends alternate, and an end is owed exactly while the last attempt failed."""
    world = World()
    for works in results:
        world.outage.worked() if works else world.outage.failed(OSError("x"))
    kinds = [type(event) for event in world.told]
    assert kinds == ([OutageStarted, OutageEnded] * len(kinds))[: len(kinds)]
    assert world.outage.lasts is bool(results and not results[-1]) is (len(kinds) % 2 == 1)

"""When a slot of the window can be taken: exactly then, and not a moment later."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from product_live_worker.model.window import LOOK_AGAIN, Demand, Held, wait_beside, wait_for_slot


def fractions(longest: int) -> st.SearchStrategy[float]:
    """Give seconds that floats add up without rounding."""
    return st.integers(0, longest * 64).map(lambda parts: parts / 64)


HELD = st.lists(fractions(200), max_size=30)


def free(held: list[float], limit: int, moment: float) -> int:
    """Count the free slots at a moment."""
    return limit - sum(1 for at in held if at > moment)


@given(HELD, fractions(200), st.integers(1, 20), st.data())
def test_the_wait_for_a_slot_is_exactly_as_long_as_needed(
    held: list[float], now: float, limit: int, data: st.DataObject
) -> None:
    """After the wait so many slots are free, at no moment before, and there is none when they are free now."""
    leave = data.draw(st.integers(0, limit - 1))
    wait = wait_for_slot(Demand(limit=limit, hold=82, leave=leave), {"": held}, now)
    assert wait >= 0
    assert free(held, limit, now + wait) >= 1 + leave
    assert all(free(held, limit, at) < 1 + leave for at in [now, *held] if now <= at < now + wait)


@given(HELD, st.integers(10, 30), st.integers(0, 5), st.lists(fractions(60), max_size=5).map(sorted))
def test_a_slot_that_is_promised_stays_possible(
    held: list[float], limit: int, leave: int, promised: list[float]
) -> None:
    """Once the slot is taken, each promise still finds its own when it falls due, whatever stays free beside it."""
    kept = promised[: (limit - leave) // 2]
    demand = Demand(limit=limit, hold=82, leave=leave, promised=promised)
    wait = wait_for_slot(demand, {"": held}, 0.0)

    def keeps(at: float) -> bool:
        return free(held, limit, at) > leave and all(
            free(held, limit, max(at, due)) >= 1 + leave + nth for nth, due in enumerate(kept, 1)
        )

    assert keeps(wait)
    assert not any(keeps(at) for at in [0.0, *held] if at < wait)


def test_promises_never_stop_everything_else() -> None:
    """However many are promised, an empty window gives a slot, and half of a window at that."""
    crowd = [0.0] * 1000
    assert wait_for_slot(Demand(limit=50, hold=82, promised=crowd), {}, 0.0) == 0
    assert wait_for_slot(Demand(limit=50, hold=82, promised=crowd), {"": [60.0] * 24}, 0.0) == 0
    assert wait_for_slot(Demand(limit=50, hold=82, promised=crowd), {"": [60.0] * 25}, 0.0) == 60


def test_the_last_slot_that_stays_free_may_be_one_that_comes_free_soon() -> None:
    """A slot is taken although the last of those to be left is held for another while, but for no longer than said."""
    held = {"": [2.0, *[60.0] * 8]}
    assert wait_for_slot(Demand(limit=10, hold=82, leave=1, last_within=3), held, 0.0) == 0
    assert wait_for_slot(Demand(limit=10, hold=82, leave=1, last_within=1), held, 0.0) == 2
    assert wait_for_slot(Demand(limit=10, hold=82, leave=2, last_within=3), held, 0.0) == 60


def test_what_stays_free_may_be_in_another_lane() -> None:
    """Where each resource has a limit of its own, a poll leaves room where its report goes, and only there."""
    demand = Demand(limit=4, hold=82, lane="tasks", leave=2, leave_in="task_executions")
    assert wait_for_slot(demand, {"tasks": [60.0] * 3, "task_executions": [50.0] * 2}, 0.0) == 0
    assert wait_for_slot(demand, {"tasks": [60.0] * 4, "task_executions": [50.0] * 2}, 0.0) == 60
    assert wait_for_slot(demand, {"tasks": [60.0] * 3, "task_executions": [40.0, 50.0, 60.0]}, 0.0) == 40


@given(HELD.map(sorted), st.integers(1, 30), st.integers(1, 20), st.data())
def test_slots_that_are_counted_and_not_known_are_no_reason_to_send(
    first: list[float], unknown: int, limit: int, data: st.DataObject
) -> None:
    """Where fewer are known than are too many, the last of them is waited for, or a moment: never none."""
    held = [1.0 + at for at in first]
    leave = data.draw(st.integers(max(0, limit - 1 - unknown), limit - 1))
    too_many = len(held) + unknown + 1 + leave - limit
    wait = wait_beside({"": Held(len(held) + unknown, held)}, Demand(limit=limit, hold=82, leave=leave))
    assert wait == (held[:too_many] or [LOOK_AGAIN])[-1] or too_many <= 0
    assert wait > 0 or too_many <= 0

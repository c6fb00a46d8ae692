"""The arithmetic of the budget's window: when a slot can be taken, given those that are held. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A slot that is wanted, and what has to stay free beside it."""

    limit: int
    hold: float
    """Seconds for which the slot is held, if nothing is heard of it."""
    lane: str = ""
    leave: int = 0
    """Slots that stay free in the lane `leave_in`, in which reports are sent."""
    leave_in: str = ""
    last_within: float = 0.0
    """Seconds within which the last of them has to be free, the others being so at once."""
    promised: Sequence[float] = ()
    """Seconds from now, ascending, at each of which the lane must have one more slot free."""


def wait_for_slot(demand: Demand, free_at: Mapping[str, Sequence[float]], now: float) -> float:
    """Give the seconds until the slot can be taken; 0 when it can be now.

    `free_at` has for each lane the moments at which the slots now held become free.
    """
    # What is promised may keep half of what is left, so that a crowd of promises never stops everything else.
    kept = demand.promised[: (demand.limit - demand.leave) // 2]
    together = demand.leave_in == demand.lane
    own = 1 + (demand.leave if together else 0)
    needed = [(0.0, 1), *((due, own + nth) for nth, due in enumerate(kept, 1))]
    left = [(0.0, demand.leave - 1), (demand.last_within, demand.leave)]
    if together:
        needed += [(due, 1 + slots) for due, slots in left]
    wait = _first_fit(free_at.get(demand.lane, ()), now, demand.limit, needed)
    if not together:
        wait = max(wait, _first_fit(free_at.get(demand.leave_in, ()), now, demand.limit, left))
    return wait


def _first_fit(free_at: Sequence[float], now: float, limit: int, needed: Sequence[tuple[float, int]]) -> float:
    """Give the seconds until so many slots are free at each of the moments at which they are needed."""
    held = sorted(moment - now for moment in free_at if moment > now)

    def fits(wait: float) -> bool:
        return all(len(held) - bisect_right(held, max(wait, due)) + slots <= limit for due, slots in needed)

    waits = [0.0, *held]
    return waits[min(bisect_left(waits, True, key=fits), len(held))]

"""The arithmetic of the budget's window: when a slot can be taken, given those that are held. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LOOK_AGAIN = 0.05
"""Seconds to wait where slots are too many of which none is known: nothing is sent on a guess."""


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


@dataclass(frozen=True, slots=True)
class Held:
    """The slots that are held in a lane."""

    count: int = 0
    first: Sequence[float] = ()
    """Seconds from now, ascending, in which those come free that do so first: as many as are too many beside those that
    are needed, or more."""


def wait_for_slot(demand: Demand, free_at: Mapping[str, Sequence[float]], now: float) -> float:
    """Give the seconds until the slot can be taken; 0 when it can be now.

    `free_at` has for each lane the moments at which the slots now held become free.
    """
    lanes = {lane: sorted(moment - now for moment in moments if moment > now) for lane, moments in free_at.items()}
    return wait_beside({lane: Held(len(held), held) for lane, held in lanes.items()}, demand)


def wait_beside(held: Mapping[str, Held], demand: Demand) -> float:
    """Give the seconds until the slot can be taken beside those that are held in each lane; 0 when it can be now."""
    return max(_first_fit(held.get(lane, Held()), demand.limit, needed) for lane, needed in _needed(demand).items())


def most_needed(demand: Demand) -> dict[str, int]:
    """Give for each lane that matters how many slots have to be free at most, the one that is wanted among them."""
    return {lane: max((slots for _, slots in needed), default=0) for lane, needed in _needed(demand).items()}


def _needed(demand: Demand) -> dict[str, list[tuple[float, int]]]:
    """Give for each lane the moments, in seconds from now, at each of which so many slots have to be free."""
    # What is promised may keep half of what is left, so that a crowd of promises never stops everything else.
    kept = demand.promised[: (demand.limit - demand.leave) // 2]
    together = demand.leave_in == demand.lane
    own = 1 + (demand.leave if together else 0)
    needed = [(0.0, 1), *((due, own + nth) for nth, due in enumerate(kept, 1))]
    left = [(0.0, demand.leave - 1), (demand.last_within, demand.leave)]
    if together:
        return {demand.lane: needed + [(due, 1 + slots) for due, slots in left]}
    return {demand.lane: needed, demand.leave_in: left}


def _first_fit(held: Held, limit: int, needed: Sequence[tuple[float, int]]) -> float:
    """Give the seconds until so many slots are free at each of the moments at which they are needed."""
    wait = 0.0
    for due, slots in needed:
        too_many = min(held.count + slots - limit, held.count)
        if too_many > 0 and (free_in := _last(held.first[:too_many])) > due:
            wait = max(wait, free_in)
    return wait


def _last(first: Sequence[float]) -> float:
    # Those that are counted and not among them have come free meanwhile; where all have, who is to say what is left?
    return first[-1] if first else LOOK_AGAIN

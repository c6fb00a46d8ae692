"""Programmable faults: what goes wrong, on which requests, how often.

Every kind takes these parameters:
  operations    names of the API's operations; left out, all
  after         so many matching requests are let pass first (0)
  count         how often it strikes; left out, for ever
  probability   of striking a matching request (1), drawn from a generator of its own, made of `seed` (0)

kind          what the client gets                           parameters (defaults)                   the effect happens
status        an error, or any other status                  status, retry_after (none)              if `effect` (false)
garbage       200 with bytes that are no text                                                        if `effect` (false)
html          200 with a page                                                                        if `effect` (false)
empty, null   200 with no body, or the JSON null                                                     if `effect` (false)
redirect      a redirection                                  location, status (307)                  if `effect` (false)
body          any answer                                     body, status (200), content_type        if `effect` (false)
delay         the true answer, late                          seconds, before ("effect" or "answer")  late, or in time
cut_before    the connection ends without an answer                                                  never
cut_after     the connection ends without an answer                                                  always
truncate      the true answer's head, part of its body, end  bytes (half)                            always
slow_body     the true answer, in pieces                     seconds before each, bytes (1)          always
wrong_type    the true answer as another type                content_type ("text/plain")             always

`retry_after` is a number of seconds, or a date in HTTP's form.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from product_live_worker.sandbox.kinds import KINDS, Fault
from product_live_worker.sandbox.refusals import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from product_live_worker.sandbox.records import Json


@dataclass(slots=True)
class Planned:
    """A fault, and how often it matched and struck so far."""

    kind: str
    fault: Fault
    random: Random
    matched: int = field(default=0)
    struck: int = field(default=0)

    def strikes(self, operation: str) -> bool:
        """Decide whether the fault strikes this request, and count it."""
        fault = self.fault
        if fault.operations and operation not in fault.operations:
            return False
        self.matched += 1
        if self.matched <= fault.after or self.struck == fault.count:
            return False
        if self.random.random() >= fault.probability:
            return False
        self.struck += 1
        return True

    def inside(self) -> Json:
        """Show it as the control API does."""
        return {"kind": self.kind, **asdict(self.fault), "matched": self.matched, "struck": self.struck}


class Faults:
    """The faults in force. The first that strikes takes the request; those after it do not see it."""

    def __init__(self) -> None:
        self._planned: list[Planned] = []

    def add(self, kind: str, **parameters: Any) -> Planned:
        """Put a fault in force; raises MalformedError."""
        return self.extend([{"kind": kind, **parameters}])[0]

    def extend(self, specifications: list[Json]) -> list[Planned]:
        """Put several in force, or none if one is wrong; raises MalformedError."""
        planned = [_plan(specification) for specification in specifications]
        self._planned += planned
        return planned

    def choose(self, operation: str) -> Planned | None:
        """Find the fault that strikes this request."""
        return next((planned for planned in self._planned if planned.strikes(operation)), None)

    def clear(self) -> None:
        """Put all out of force."""
        self._planned.clear()

    def inside(self) -> list[Json]:
        """Show it as the control API does."""
        return [planned.inside() for planned in self._planned]


def _plan(specification: Json) -> Planned:
    parameters = dict(specification)
    kind = parameters.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise MalformedError(f"kind must be one of {', '.join(KINDS)}")
    for name, value in parameters.items():
        if name not in _ACCEPTABLE or not _ACCEPTABLE[name](value):
            raise MalformedError(f"{kind}: {name} is not acceptable")
    parameters["operations"] = tuple(parameters.get("operations", ()))
    try:
        fault = KINDS[kind](**parameters)
    except TypeError as error:
        raise MalformedError(f"{kind}: {error}") from error
    return Planned(kind, fault, Random(fault.seed))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_whole(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_header(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


_ACCEPTABLE: dict[str, Callable[[Any], bool]] = {
    "operations": lambda value: isinstance(value, list | tuple) and all(isinstance(name, str) for name in value),
    "after": _is_whole,
    "count": lambda value: value is None or _is_whole(value),
    "probability": lambda value: _is_number(value) and value <= 1,
    "seed": _is_whole,
    "effect": lambda value: isinstance(value, bool),
    # A status without a body, or an informational one, would not be an answer of the kind that is meant here.
    "status": lambda value: _is_whole(value) and 200 <= value < 600 and value not in (204, 304),
    "retry_after": lambda value: _is_number(value) or _is_header(value),
    "seconds": _is_number,
    "before": lambda value: value in ("effect", "answer"),
    "bytes": lambda value: _is_whole(value) and value > 0,
    "location": _is_header,
    "content_type": _is_header,
    "body": lambda value: isinstance(value, str),
}

"""What a benchmark gives: rows of figures, and how they are written down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: as measured, its goal, the theoretical limit, and the plain loop's beside it."""

    figure: str
    measured: str
    goal: str = ""
    limit: str = ""
    plain: str = ""
    met: bool = True
    reason: str = ""
    """Why the goal is missed, where it is."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one scenario has measured; `reading` says in a line what the figures mean."""

    title: str
    rows: Sequence[Row]
    reading: str
    beside: str = "plain loop"
    """What the last column is of."""
    appendix: str = ""
    """What else there is to say, in Markdown."""

    def missed(self) -> list[Row]:
        """Give the rows whose goal is missed."""
        return [row for row in self.rows if not row.met]

    def table(self) -> Iterator[str]:
        """Write the table in Markdown, its columns aligned."""
        head = ("figure", "measured", "goal", "limit", self.beside)
        body = [(r.figure, r.measured, r.goal + ("" if r.met else " **missed**"), r.limit, r.plain) for r in self.rows]
        lines = [tuple(cell or "–" for cell in line) for line in body]
        widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
        yield _line(head, widths)
        yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        for line in lines:
            yield _line(line, widths)

    def text(self) -> str:
        """Write all of it in Markdown."""
        reasons = [f"Missed, {row.figure}: {row.reason or 'see the reading.'}" for row in self.missed()]
        more = [f"\n{one}" for one in (*reasons, self.appendix) if one]
        return "\n".join([f"## {self.title}", "", *self.table(), "", self.reading, *more])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def mean(values: Sequence[float]) -> float:
    """Give the arithmetic mean; infinity of nothing."""
    return sum(values) / len(values) if values else float("inf")


def percentile(ascending: Sequence[float], share: float) -> float:
    """Give the value that so large a share of the values does not exceed; infinity of nothing."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))] if ascending else float("inf")


def median(values: Sequence[float]) -> float:
    """Give the value in the middle."""
    return sorted(values)[len(values) // 2]

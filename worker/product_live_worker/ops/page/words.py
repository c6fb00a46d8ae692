"""Moments and durations as people say them, and numbers as pictures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from product_live_worker.ops.document import BudgetPart

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
CELLS = 120
"""Slots that are drawn one by one; of a larger budget, shares are."""
HOUR = 60


def span(seconds: float | None) -> str:
    """Say a duration: "0.25 s", "42 s", "3 min", "2 h", "5 d"; of an unknown one, a dash."""
    if seconds is None:
        return "-"
    for length, unit in _UNITS:
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s" if seconds else "0 s"


def relative(moment: str, now: str) -> str:
    """Say a moment as seen from now: "12 s ago", "in 3 min"; both are ISO 8601."""
    passed = (datetime.fromisoformat(now) - datetime.fromisoformat(moment)).total_seconds()
    whole = abs(round(passed))
    if not whole:
        return "now"
    return f"{span(whole)} ago" if passed > 0 else f"in {span(whole)}"


def exact(moment: str) -> str:
    """Write a moment for whoever wants it exactly."""
    return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M:%S UTC")


def bars(last_hour: Iterable[Sequence[int]]) -> dict[str, str]:
    """Draw an hour's reports, 60 wide and 16 high: the paths of what COMPLETED, and above it of what FAILED."""
    minutes = tuple(last_hour)
    most = max((done + failed for _, done, failed in minutes), default=0)
    completed, failures = [], []
    for ago, done, failed in minutes:
        # What was there is seen, however little it was beside the most.
        low, high = -(-15 * done // most), -(-15 * failed // most)
        if done:
            completed.append(f"M{HOUR - ago - 1}.5 16v-{low}")
        if failed:
            failures.append(f"M{HOUR - ago - 1}.5 {16 - low}v-{high}")
    return {"done": "".join(completed), "failed": "".join(failures)}


def requests(budget: BudgetPart) -> list[dict[str, str]]:
    """Draw the requests of a window, 600 wide: each where it was sent, as wide as it took, by its purpose."""
    window = budget["window_seconds"]
    drawn = []
    for request in budget["requests"]:
        ago = min(request["seconds_ago"], window)
        width = max(3.0, 600 * request["seconds"] / window)
        x = min(600 * (1 - ago / window), 600 - width)
        well = request["code"].startswith("2") or (request["purpose"] == "poll" and request["code"] == "404")
        drawn.append(
            {
                "x": f"{max(0.0, x):.1f}",
                "width": f"{min(width, 600.0):.1f}",
                "purpose": request["purpose"],
                "kind": "well" if well else "bad",
                "told": f"{request['operation']} {request['code']}",
            }
        )
    return drawn


def slots(budget: BudgetPart) -> list[str]:
    """Say of each slot what it is: used, reserved, free, or not ours just now."""
    limit, allowed = budget["limit"], budget["allowed"]
    if not 0 < limit <= CELLS:
        return []
    used = min(budget["used"], limit)
    reserved = max(0, min(budget["reserved"], allowed - used))
    free = max(0, allowed - used - reserved)
    return (["used"] * used + ["reserved"] * reserved + ["free"] * free + ["away"] * limit)[:limit]

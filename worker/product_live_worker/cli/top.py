"""`top`: the status document in a terminal, live."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from product_live_worker.cli.running import NoAnswer, address_of, read_status
from product_live_worker.cli.told import errors_told
from product_live_worker.ops.document import StatusDocument, TaskLine
from product_live_worker.ops.page.pages import headline
from product_live_worker.ops.page.words import relative, slots, span

STYLES = {"well": "green", "notice": "yellow", "paused": "blue", "stopping": "blue", "unwell": "red"}
SLOTS = {"used": ("■", "green"), "reserved": ("□", "green"), "free": ("·", "dim"), "away": ("x", "dim")}
BLOCKS = " ▁▂▃▄▅▆▇█"
NARROW = 100
"""Columns of a terminal below which what can be spared is left out."""
WIDE = frozenset({"p50", "p95", "last half hour", "deadline", "when"})
PROSE = frozenset({"next poll", "last line", "why it waits", "why the platform refuses it", "message"})
MINUTES = 30
"""Of the last hour's history, what fits into a line."""


def top(
    url: Annotated[str, typer.Argument(help="The worker's address.", show_default="http.host and http.port")] = "",
    *,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
    config: Annotated[Path | None, typer.Option(help="The settings file.", show_default="PLW_CONFIG")] = None,
) -> None:
    """Show what a worker is doing, live, until Ctrl-C; it costs the worker no request."""
    console = Console()
    with errors_told():
        address = address_of(url, config)
        document = read_status(address)
        if once or not sys.stdout.isatty():
            console.print(picture(document, address, width=console.width, height=0))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            try:
                _follow(live, address, document, every)
            except KeyboardInterrupt:
                return


def _follow(live: Live, address: str, document: StatusDocument, every: float) -> None:
    answered, trouble = time.monotonic(), ""
    while True:
        shown = picture(document, address, width=live.console.width, height=live.console.height)
        if trouble:
            silent = f"no answer for {span(time.monotonic() - answered)}: {trouble}"
            shown = Group(Text(silent, "bold red"), shown)
        live.update(shown, refresh=True)
        time.sleep(every)
        try:
            document, answered, trouble = read_status(address), time.monotonic(), ""
        except NoAnswer as error:
            trouble = str(error)


def picture(document: StatusDocument, address: str, *, width: int, height: int) -> RenderableType:
    """Draw the document for a terminal of this size; `height` 0 is one that scrolls."""
    most = 1000 if not height else max(3, (height - 16) // 3)
    lists = (
        _tasks(document),
        _in_hand(document),
        _reports(document),
        _undeliverable(document),
        _failures(document),
    )
    tables = (one.table(most=most, narrow=width < NARROW) for one in lists if one.rows)
    return Group(_verdict(document, address), _budget(document), *tables)


@dataclass(frozen=True)
class _List:
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str | Text, ...]]
    left_out: int

    def table(self, *, most: int, narrow: bool) -> Table:
        rest = self.left_out + max(0, len(self.rows) - most)
        caption = f"{rest:,} more are not shown" if rest else None
        table = Table(
            title=self.title, title_justify="left", title_style="bold", caption=caption, box=None, expand=True
        )
        shown = [number for number, name in enumerate(self.columns) if not (narrow and name in WIDE)]
        for number in shown:
            # What is copied into the next command is never cut; what is only read takes what is left of the line.
            prose = self.columns[number] in PROSE
            table.add_column(self.columns[number], no_wrap=True, ratio=1 if prose else None, header_style="dim")
        for row in self.rows[:most]:
            table.add_row(*(row[number] for number in shown))
        return table


def _verdict(document: StatusDocument, address: str) -> Panel:
    style = STYLES[document["condition"]]
    text = Text(headline(document), f"bold {style}")
    told = [check for check in document["checks"] if not check["ok"] or check["notable"]]
    for check, next_one in zip_longest(told, told[1:]):
        text.append(f"\n{plain(check['name'])}: {plain(check['reason'])}", "default")
        # What mends two of them is said once.
        if not (next_one and next_one.get("cure") == check.get("cure")):
            text.append(f"\n  {plain(check.get('cure', ''))}", "dim")
    counts = document["executions"]
    text.append(
        f"\n{counts['running']} running, {counts['claimed']} claimed, {counts['reports_waiting']} to report, "
        f"{counts['undeliverable']} undeliverable",
        "default",
    )
    title = f"product-live-worker {plain(document['version'])} on {plain(document['platform'])} · {address}"
    return Panel(text, title=Text(title), border_style=style, title_align="left")


def _budget(document: StatusDocument) -> Text:
    budget = document["budget"]
    if not budget["limit"]:
        return Text("budget: no limit is set")
    text = Text("budget ")
    for slot in slots(budget):
        text.append(*SLOTS[slot])
    text.append(f" {budget['used']} of {budget['limit']} used")
    if budget["reserved"]:
        text.append(f", {budget['reserved']} kept for reports")
    if budget["next_slot_frees_in_seconds"] is not None:
        text.append(f", the next comes free in {span(budget['next_slot_frees_in_seconds'])}")
    made = Counter(request["purpose"] for request in budget["requests"])
    return text.append("".join(f" · {plain(purpose)} {count}" for purpose, count in sorted(made.items())), "dim")


def _tasks(document: StatusDocument) -> _List:
    columns = ("task", "slots", "next poll", "done", "failed", "p50", "p95", "last half hour")
    rows: list[tuple[str | Text, ...]] = []
    for task in document["tasks"]:
        poll, took = task["next_poll"], task["handler_seconds"]
        when = "" if poll["in_seconds"] is None else f"{span(poll['in_seconds'])}, "
        rows.append(
            (
                plain(task["key"]),
                _slots(task),
                Text(f"{when}{plain(poll['why'])}", "blue" if task["paused"] else "default"),
                str(task["completed"]),
                Text(str(task["failed"]), "red" if task["failed"] else "default"),
                span(took["p50"]),
                span(took["p95"]),
                _spark(task["last_hour"]),
            )
        )
    return _List("Tasks", columns, rows, document["tasks_left_out"])


def _slots(task: TaskLine) -> Text:
    text = Text(f"{task['in_hand']}/{task['concurrency']}")
    return text.append(f", {task['overdue_threads']} stuck", "red") if task["overdue_threads"] else text


def _in_hand(document: StatusDocument) -> _List:
    found, now = document["in_hand"], document["now"]
    rows: list[tuple[str | Text, ...]] = []
    for one in found["shown"]:
        line, started = one["last_line"], one["started_at"] and relative(one["started_at"], now)
        deadline, said = one["deadline_at"] and relative(one["deadline_at"], now), plain(line["text"]) if line else ""
        rows.append((plain(one["id"]), plain(one["task"]), started or "claimed", deadline or "", said))
    return _List("Running", ("execution", "task", "started", "deadline", "last line"), rows, found["left_out"])


def _reports(document: StatusDocument) -> _List:
    found, now = document["reports"], document["now"]
    rows: list[tuple[str | Text, ...]] = []
    for one in found["shown"]:
        settled, why = (
            one["settled_at"] and relative(one["settled_at"], now),
            one["trouble"] or "its turn in the budget",
        )
        rows.append((plain(one["id"]), plain(one["task"]), settled or "", plain(why)))
    return _List("Results to report", ("execution", "task", "settled", "why it waits"), rows, found["left_out"])


def _undeliverable(document: StatusDocument) -> _List:
    found, now = document["undeliverable"], document["now"]
    rows: list[tuple[str | Text, ...]] = []
    for one in found["shown"]:
        settled = one["settled_at"] and relative(one["settled_at"], now)
        rows.append((plain(one["id"]), plain(one["task"]), settled or "", plain(one["trouble"])))
    columns = ("execution", "task", "settled", "why the platform refuses it")
    return _List("Undeliverable results", columns, rows, found["left_out"])


def _failures(document: StatusDocument) -> _List:
    found, now = document["failures"], document["now"]
    rows: list[tuple[str | Text, ...]] = []
    for one in found["shown"]:
        when = one["at"] and relative(one["at"], now)
        rows.append((plain(one["id"]), plain(one["task"]), when or "", plain(one["code"]), plain(one["message"])))
    return _List("Last failures", ("execution", "task", "when", "code", "message"), rows, found["left_out"])


def _spark(last_hour: list[tuple[int, int, int]]) -> Text:
    counts = [0] * MINUTES
    bad = [False] * MINUTES
    for ago, done, failed in last_hour:
        if ago < MINUTES:
            counts[-1 - ago], bad[-1 - ago] = done + failed, failed > 0
    most = max(counts)
    text = Text()
    for count, failed in zip(counts, bad, strict=True):
        text.append(BLOCKS[-(-count * 8 // most)] if most else " ", "red" if failed else "green")
    return text


def plain(text: str) -> Text:
    """Give a text that somebody else has written, as a terminal may show it: it moves no cursor and rings no bell."""
    return Text("".join(c if c.isprintable() else " " for c in text))

"""The pages, from templates: whatever they show of others is escaped, and cut to a bearable length."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from product_live_worker.model.action import Action
from product_live_worker.model.execution import State
from product_live_worker.ops.access import Operator
from product_live_worker.ops.document import Condition, StatusDocument
from product_live_worker.ops.page import words
from product_live_worker.ops.status import Status, action_line, moment
from product_live_worker.telemetry.redaction import cut

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

ORDER = ("budget", "actions", "tasks", "in_hand", "failures", "reports", "undeliverable", "workers")
"""The sections below the verdict."""
HALVES = frozenset({"budget", "actions"})
"""Those of which two stand side by side where there is room."""
FRESH = 0.9
"""Seconds for which a rendering serves everybody who looks."""
PAYLOAD = 20_000
PAUSES = 20
"""Characters of a payload at most."""
HEADLINES: dict[Condition, str] = {
    "well": "All is well",
    "notice": "Working, but look at this",
    "paused": "Paused",
    "stopping": "Stopping",
    "unwell": "Something is wrong",
}
DONE = {
    "pause": "paused",
    "resume": "resumed",
    "redeliver": "redelivered",
    "discard": "discarded",
    "cancel": "cancelled",
}
ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HERE = resources.files(__package__)
_MOMENT_TEXT = re.compile(r"(<time [^>]*>)[^<]*")


class Pages:
    """Renders what operators look at; `prepare` it before the first page."""

    def __init__(self, status: Status, *, keep_payloads: bool) -> None:
        """`keep_payloads` says whether inputs and outputs may be shown."""
        self._status = status
        self._keep_payloads = keep_payloads
        self._rendered: dict[str, tuple[float, StatusDocument, dict[str, str]]] = {}

    def prepare(self) -> None:
        """Load and compile the templates; it takes some 100 ms, once, and is for a thread."""
        for name in self._templates.list_templates(extensions=["html"]):
            self._templates.get_template(name)

    def board(self, *, task: str, operator: Operator | None, can_act: bool) -> str:
        """Give the whole front page."""
        document, sections = self.sections(task)
        from markupsafe import Markup  # noqa: PLC0415 (with Jinja2, which only who looks pays for)

        return self._templates.get_template("board.html").render(
            status=document,
            # They come out of templates, which have escaped what is in them.
            sections={name: Markup(html) for name, html in sections.items()},  # noqa: S704 (as said)
            order=ORDER,
            halves=HALVES,
            title=title(document),
            query=f"?{_query(task)}" if task else "",
            operator=operator,
            can_act=can_act,
        )

    def sections(self, task: str = "") -> tuple[StatusDocument, dict[str, str]]:
        """Give the document, and each section of the page as HTML, not older than a second."""
        now = time.monotonic()
        self._rendered = {key: one for key, one in self._rendered.items() if now - one[0] < FRESH}
        if task not in self._rendered:
            document = self._status.document(task)
            self._rendered[task] = (now, document, self._render(document, task))
        _, document, sections = self._rendered[task]
        return document, sections

    def forget(self) -> None:
        """Render anew for the next who looks: something has just been done, and is to be seen."""
        self._rendered.clear()

    def execution(
        self, row: Mapping[str, Any], acted: Sequence[Action], *, operator: Operator | None, can_act: bool
    ) -> str:
        """Give the page of one execution."""
        history = self._status.history
        line = history.lines.get(row["id"])
        return self._templates.get_template("execution.html").render(
            row=row,
            now=moment(time.time()),
            way=self._way(row),
            facts=_facts(row),
            line=None if line is None else {"at": moment(line.at), "text": line.text},
            acted=[action_line(action) for action in acted],
            done=DONE,
            verbs=_verbs(State(row["state"])),
            payloads=self._payloads(row) if self._keep_payloads else None,
            operator=operator,
            can_act=can_act,
        )

    def sign_in(self, *, wrong: str = "") -> str:
        """Give the page that asks for the token."""
        return self._templates.get_template("sign_in.html").render(wrong=wrong, operator=None, can_act=True)

    def message(self, heading: str, text: str) -> str:
        """Give a page with a sentence."""
        page = self._templates.get_template("message.html")
        return page.render(heading=heading, text=text, operator=None, can_act=True)

    @cached_property
    def _templates(self) -> Environment:
        # Imported here: who only scrapes and probes need not pay for it in time and memory.
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 (as said)

        made = Environment(
            loader=PackageLoader(str(__package__)),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        made.filters |= {
            "span": words.span,
            "relative": words.relative,
            "exact": words.exact,
            "bars": words.bars,
            "cut": lambda text, most: cut(text or "", most),
            "commands": commands,
        }
        made.globals["assets"] = hashlib.sha256(b"".join(asset(name) for name in ASSETS)).hexdigest()[:12]
        return made

    def _render(self, document: StatusDocument, task: str) -> dict[str, str]:
        budget = document["budget"]
        left = max(0, budget["allowed"] - budget["used"])
        told = [check for check in document["checks"] if not check["ok"] or check["notable"]]
        given: dict[str, dict[str, Any]] = {
            "verdict": {"headline": headline(document), "told": told, "well": _well(document)},
            "budget": {
                "budget": budget,
                "left": left,
                "kept": min(left, budget["reserved"]),
                "slots": words.slots(budget),
                "drawn": words.requests(budget),
                "purposes": _purposes(document),
            },
            "tasks": {"tasks": document["tasks"], "query": task},
            "actions": {"done": DONE, "most_pauses": PAUSES},
            "in_hand": {"list": document["in_hand"]},
            "reports": {"list": document["reports"]},
            "failures": {"list": document["failures"]},
            "undeliverable": {"list": document["undeliverable"]},
        }
        return {
            name: self._templates.get_template(f"sections/{name}.html").render(status=document, **given.get(name, {}))
            for name in ("verdict", *ORDER)
        }

    def _way(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Give the states that an execution has reached, what happened between them, and what is still to come."""
        moments = [("Claimed", row["claimed_at"]), ("Started", row["started_at"]), ("Settled", row["settled_at"])]
        undeliverable = row["state"] == State.UNDELIVERABLE
        moments.append(("Refused by the platform" if undeliverable else "Reported", row["reported_at"]))
        steps: list[dict[str, Any]] = []
        before: float | None = None
        for what, at in moments:
            took = None if at is None or before is None else max(0.0, at - before)
            steps.append({"what": what, "at": at, "took": took, "detail": ""})
            before = at if at is not None else before
        known = {"claimed", "settled", "reported"}
        steps += (
            {"what": step.what.capitalize(), "at": step.at, "took": None, "detail": step.detail}
            for step in self._status.history.trail(row["id"])
            if step.what not in known
        )
        steps.sort(key=lambda step: (step["at"] is None, step["at"] or 0.0))
        return [{**step, "at": None if step["at"] is None else moment(step["at"])} for step in steps]

    def _payloads(self, row: Mapping[str, Any]) -> list[tuple[str, str, int]]:
        shown = []
        for name in ("input", "output", "checkpoint"):
            if row[name] is not None:
                text = json.dumps(json.loads(row[name]), indent=2, ensure_ascii=False)
                shown.append((name.capitalize(), cut(text, PAYLOAD), max(0, len(text) - PAYLOAD)))
        return shown


def asset(name: str) -> bytes:
    """Give one of the files that the pages load."""
    return _HERE.joinpath("assets", name).read_bytes()


def unchanged(html: str) -> str:
    """Give a section without what the page itself keeps true: how long ago something was."""
    return _MOMENT_TEXT.sub(r"\1", html)


def headline(document: StatusDocument) -> str:
    """Say the verdict in a few words."""
    if document["condition"] == "paused":
        until = next((pause["until"] for pause in document["pauses"] if pause["task"] is None), None)
        return f"Paused until {words.exact(until)}" if until else "Paused until it is resumed"
    if document["condition"] == "unwell":
        wrong = sum(not check["ok"] for check in document["checks"])
        return HEADLINES["unwell"] if wrong == 1 else f"{wrong} things are wrong"
    return HEADLINES[document["condition"]]


def title(document: StatusDocument) -> str:
    """Give the title of the window, the verdict first."""
    return f"{headline(document)} · product-live-worker"


def commands(text: str) -> Markup:
    """Set what stands between backticks as a command."""
    from markupsafe import Markup, escape  # noqa: PLC0415 (with Jinja2, which only who looks pays for)

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 (it has just been escaped)


def _well(document: StatusDocument) -> str:
    running = document["executions"]["running"]
    polled = "polls are answered" if document["last_successful_poll_at"] else "the first poll is on its way"
    works = "nothing waits" if not running else "1 execution runs" if running == 1 else f"{running:,} executions run"
    full = "; the window of requests is full, as it may be" if _left(document) <= 0 else ""
    return f"{polled.capitalize()}, {works}{full}."


def _left(document: StatusDocument) -> int:
    """Count the requests that may still be made for other things than the reports that are owed."""
    budget = document["budget"]
    return budget["allowed"] - budget["used"] - budget["reserved"] if budget["limit"] else 1


def _purposes(document: StatusDocument) -> list[tuple[str, int, int, int]]:
    budget = document["budget"]
    made = Counter(request["purpose"] for request in budget["requests"])
    drawn = words.requests(budget)
    bad = Counter(one["purpose"] for one in drawn if one["kind"] == "bad")
    waiting = budget["waiting"]
    return [(name, made[name], waiting.get(name, 0), bad[name]) for name in sorted({*made, *waiting}) if name]


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = [
        ("Correlation id", row["correlation_id"]),
        ("Task's id", row["task_id"]),
        ("Idempotency key", row["idempotency_key"]),
        ("Held by", row["holder"] or "nobody"),
        ("Reports without an answer", str(row["attempts"])),
        ("Crashes", str(row["crashes"])),
        ("On a repeat", row["on_repeat"]),
        ("Checkpoint", "saved" if row["checkpoint"] is not None else "none"),
    ]
    return [(name, cut(value, 300)) for name, value in said if value]


def _verbs(state: State) -> list[tuple[str, str, str, str]]:
    if state in (State.CLAIMED, State.RUNNING):
        return [("cancel", "Cancel", "danger", "End this execution as FAILED?")]
    discard = ("discard", "Discard", "danger", "Give this result up? It will never be sent.")
    if state is State.SETTLED:
        return [discard]
    return [("redeliver", "Redeliver", "", ""), discard] if state is State.UNDELIVERABLE else []


def _query(task: str) -> str:
    return urlencode({"task": task})

"""What the code says of a task beside what the platform has; pure, nothing is asked or sent here."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic.errors import PydanticUserError

from product_live_worker.model.handler import Handler
from product_live_worker.model.task import TaskSettings
from product_live_worker.product_live.wire import InputKey, Task, TaskDraft

REPORTING = 120
"""Seconds that the platform waits beyond a handler's timeout: its outcome may wait for the budget, or for a restart."""

Action = Literal["create", "update", "none"]
Keys = tuple[InputKey, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the code says of a task; None where it says nothing."""

    key: str
    handler: str
    response_timeout_seconds: int
    description: str | None = None
    input_keys: Keys | None = None
    output_keys: Keys | None = None

    def draft(self, task: Task | None) -> TaskDraft:
        """Give the definition that is to be: what the code says, and for all else what the platform has already.

        A definition is replaced as a whole: what is not sent would be reset.
        """
        has: dict[str, Any] = (
            {name: getattr(task, name) for name in TaskDraft.model_fields} if task else {"key": self.key}
        )
        has["retry_count"] = has.get("retry_count") or 0
        has["description"] = self.description or has.get("description") or ""
        has["input_keys"] = _described(self.input_keys, has.get("input_keys") or ())
        has["output_keys"] = _described(self.output_keys, has.get("output_keys") or ())
        has["response_timeout_seconds"] = self.response_timeout_seconds
        # The engine wants the whole time to be no less than the silence; 0 is no limit.
        if 0 < (has.get("timeout_seconds") or 0) < self.response_timeout_seconds:
            has["timeout_seconds"] = self.response_timeout_seconds
        return TaskDraft(**has)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that the code and the platform see differently; values are JSON."""

    field: str
    platform: Any
    code: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done about one task."""

    wanted: Wanted
    task: Task | None
    differences: tuple[Difference, ...]

    @property
    def action(self) -> Action:
        """Whether the task is created, updated, or as it should be."""
        return "create" if self.task is None else "update" if self.differences else "none"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about the account's tasks."""

    changes: tuple[Change, ...]
    problems: tuple[str, ...]
    not_served: tuple[str, ...]
    """Keys of the account's other tasks, which are left alone."""


def plan(tasks: Iterable[Task], handlers: Mapping[str, Handler], sections: Mapping[str, TaskSettings]) -> Plan:
    """Compare what the code says with what the account has.

    `sections` is what the settings say of each task, by key or id; without any, each handler that is not explicit
    wants the task of its name.
    """
    known = {task.key: task for task in tasks}
    by_id = {task.id: task.key for task in known.values()}
    named = sections or {name: TaskSettings() for name, handler in handlers.items() if not handler.explicit}
    changes: dict[str, Change] = {}
    problems = []
    for name, section in sorted(named.items()):
        key = by_id.get(name, name)
        handler = handlers.get(section.handler or key)
        if handler is None:
            problems.append(f"no handler named {section.handler or key!r} is installed for the task {key!r}")
        elif key not in known and re.fullmatch(r"[0-9a-f]{24}", name):
            problems.append(f"the account has no task with the id {name!r}, and an id cannot be chosen")
        elif key in changes:
            problems.append(f"the task {key!r} has two sections, one by its key and one by its id")
        else:
            changes[key] = compare(wanted(key, handler, section.timeout or handler.timeout), known.get(key))
    return Plan(tuple(changes.values()), tuple(problems), tuple(sorted(known.keys() - changes.keys())))


def wanted(key: str, handler: Handler, timeout: float) -> Wanted:
    """Read what the code says of the task `key`: the docstring, the models of input and output, the timeout."""
    return Wanted(
        key=key,
        handler=handler.name,
        response_timeout_seconds=math.ceil(timeout) + REPORTING,
        description=" ".join((inspect.getdoc(handler.function) or "").partition("\n\n")[0].split()) or None,
        input_keys=_keys(handler, "input"),
        output_keys=_keys(handler, "output"),
    )


def compare(wanted: Wanted, task: Task | None) -> Change:
    """Say what has to change so that the platform has what the code says."""
    draft = wanted.draft(task)
    return Change(wanted, task, tuple(_differences(draft, task)))


def _differences(draft: TaskDraft, task: Task | None) -> Iterator[Difference]:
    names = ("description", "input_keys", "output_keys", "response_timeout_seconds", "timeout_seconds")
    for name in names:
        code, platform = getattr(draft, name), getattr(task, name, None)
        if name.endswith("_keys"):
            code, platform = {k.key: k.description for k in code}, {k.key: k.description for k in platform or ()}
        if code != platform and (task is not None or code):
            yield Difference(name, platform, code)


def _described(code: Keys | None, platform: Keys) -> Keys:
    """Give the code's keys; a key that it does not describe keeps the platform's description."""
    if code is None:
        return platform
    known = {key.key: key.description for key in platform}
    return tuple(InputKey(key=key.key, description=key.description or known.get(key.key, "")) for key in code)


def _keys(handler: Handler, which: Literal["input", "output"]) -> Keys | None:
    try:
        schema = handler.input_schema() if which == "input" else handler.output_schema()
    except PydanticUserError:
        # A type of the author's own that has no schema says nothing of its keys.
        return None
    found = _properties(schema, schema.get("$defs", {}))
    return None if found is None else tuple(InputKey(key=key, description=text) for key, text in found.items())


def _properties(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, str] | None:
    """Give the named values of an object's schema with their descriptions; None where any name may come."""
    if "$ref" in schema:
        return _properties(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        parts = [_properties(part, definitions) for part in alternatives]
        return None if None in parts else {key: text for part in parts if part for key, text in part.items()}
    if schema.get("type") == "null":
        return {}
    if "properties" not in schema:
        return None
    return {key: str(value.get("description", "")) for key, value in schema["properties"].items()}

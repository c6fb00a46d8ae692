"""What operators ask for, as rows: each is kept with who, when and why. Steps on a connection, whoever opened it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, or_, select, update

from product_live_worker.journal.tables import IS_IN_FORCE, actions, executions
from product_live_worker.model.action import ALL, OF_POLLING, Action, Verb
from product_live_worker.model.errors import IllegalTransition
from product_live_worker.model.execution import State

NOBODY = ""
"""The holder of a row that any worker may take over."""
DISCARDED = "discarded by hand"
MOST = 1000
"""Actions that are read in one look."""

_COLUMNS = tuple(field.name for field in fields(Action))
_HERE = actions.c.platform == bindparam("this_platform")
_INSERT = insert(actions)
_HOLDS = IS_IN_FORCE & or_(actions.c.until.is_(None), actions.c.until > bindparam("now"))
_IN_FORCE = select(actions).where(_HERE, _HOLDS)
_HOLDS_NOW = _HOLDS.label("holds")
_LATEST = (
    select(actions, _HOLDS_NOW)
    .where(_HERE, or_(actions.c.number > bindparam("after"), _HOLDS))
    .order_by(_HOLDS_NOW.desc(), actions.c.number.desc())
)
_LIFT = update(actions).where(_HERE, IS_IN_FORCE, actions.c.subject == bindparam("this_subject")).values(in_force=0)

_OF_EXECUTIONS: dict[Verb, tuple[tuple[State, ...], dict[str, Any]]] = {
    "redeliver": (
        (State.UNDELIVERABLE,),
        {"state": State.SETTLED.value, "holder": NOBODY, "attempts": 0, "trouble": ""},
    ),
    "discard": (
        (State.UNDELIVERABLE, State.SETTLED),
        {"state": State.REPORTED.value, "trouble": DISCARDED, "input": None, "output": None, "checkpoint": None},
    ),
    # Its holder ends it, and writes down how.
    "cancel": ((State.CLAIMED, State.RUNNING), {}),
}
"""The states that an execution may be in, and what becomes of its row at once."""


def act(connection: Connection, platform: str, action: Action) -> None:
    """Do what is asked, as far as it is rows, and keep it; raises IllegalTransition for what cannot be done."""
    if action.verb in OF_POLLING:
        lifted = connection.execute(_LIFT, {"this_platform": platform, "this_subject": action.subject}).rowcount
        if action.verb == "resume" and not lifted:
            raise IllegalTransition(_not_paused(connection, platform, action))
    else:
        _move(connection, platform, action)
    row = {name: getattr(action, name) for name in _COLUMNS if name != "number"}
    connection.execute(_INSERT, {**row, "platform": platform, "in_force": int(action.verb == "pause")})


def in_force(connection: Connection, platform: str, now: float) -> list[Action]:
    """Give the pauses that hold at this moment."""
    return [_action(row) for row in connection.execute(_IN_FORCE, {"this_platform": platform, "now": now})]


def look(connection: Connection, platform: str, after: int, now: float) -> tuple[list[Action], list[Action]]:
    """Give the pauses that hold at this moment, and the latest actions with a higher number, the oldest first.

    Each worker asks so every second: it is one statement.
    """
    rows = connection.execute(_LATEST.limit(MOST), {"this_platform": platform, "after": after, "now": now}).all()
    rows = sorted(rows, key=lambda row: row.number)
    return [_action(row) for row in rows if row.holds], [_action(row) for row in rows if row.number > after]


def prune(connection: Connection, platform: str, before: float) -> None:
    """Forget what was asked before that moment; a pause is remembered while it holds."""
    old = (actions.c.platform == platform, actions.c.in_force == 0, actions.c.at < before)
    connection.execute(delete(actions).where(*old))


def _move(connection: Connection, platform: str, action: Action) -> None:
    states, values = _OF_EXECUTIONS[action.verb]
    row = (executions.c.platform == platform) & (executions.c.id == action.subject)
    found = connection.execute(select(executions.c.state).where(row).with_for_update()).scalar_one_or_none()
    if found not in states:
        state = "not in the journal" if found is None else found
        raise IllegalTransition(f"execution {action.subject} is {state}; it must be {' or '.join(states)}")
    if values:
        moment = {"reported_at": action.at} if values["state"] == State.REPORTED else {}
        connection.execute(update(executions).where(row).values(**values, **moment))


def _not_paused(connection: Connection, platform: str, action: Action) -> str:
    others = ["all tasks" if one.subject == ALL else one.subject for one in in_force(connection, platform, action.at)]
    asked = f"task {action.subject} is" if action.subject else "all tasks together are"
    return f"{asked} not paused; paused is {', '.join(others) or 'nothing'}"


def _action(row: Row[Any]) -> Action:
    return Action(**{name: getattr(row, name) for name in _COLUMNS})

"""The journal's schema, one for SQLite and PostgreSQL. Moments are Unix seconds unless said otherwise."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

REVISION = "0003"
"""The schema that this code reads and writes; a test holds it to the newest migration."""

metadata = MetaData()
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

version = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))
"""Alembic's own table, which says which schema the database has."""

executions = Table(
    "executions",
    metadata,
    Column("number", _NUMBER, primary_key=True, comment="the order of the claims, whatever the clock says"),
    Column("platform", Text, nullable=False, comment="api.base_url: a worker touches only rows of its own platform"),
    Column("id", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("holder", Text, nullable=False, comment="the worker process that has it in hand"),
    Column("input", Text, comment="JSON; blank once reported"),
    Column("status", Text),
    Column("output", Text, comment="JSON; blank once reported"),
    Column("code", Text, comment="of a failure; it stays when the output is blanked, as the message does"),
    Column("message", Text),
    Column("correlation_id", Text),
    Column("idempotency_key", Text, nullable=False),
    Column("checkpoint", Text, comment="JSON"),
    Column(
        "on_repeat",
        Text,
        nullable=False,
        comment="what a repeat of it under a new id does; adopt keeps output and checkpoint",
    ),
    Column("crashes", Integer, nullable=False, default=0),
    Column("attempts", Integer, nullable=False, default=0),
    Column("trouble", Text, nullable=False, default=""),
    Column("claimed_at", Double, nullable=False),
    Column("started_at", Double),
    Column("settled_at", Double),
    Column("reported_at", Double),
    UniqueConstraint("platform", "id"),
)
IS_REPORTED = executions.c.state == literal_column("'REPORTED'")
IS_OPEN = executions.c.state != literal_column("'REPORTED'")
"""Written out, not bound: only in these words does a query find the index that has just these rows."""
IS_FAILED = executions.c.status == literal_column("'FAILED'")
# A million reported rows must cost an open one nothing.
_BY_HOLDER, _BY_END = (executions.c.platform, executions.c.holder), (executions.c.platform, executions.c.reported_at)
PARTIAL = {
    Index("executions_open", *_BY_HOLDER, sqlite_where=IS_OPEN): IS_OPEN,
    # Without figures of its own SQLite takes any index that begins as well: this one fits better than one of all rows.
    Index("executions_state", executions.c.platform, executions.c.state, sqlite_where=IS_OPEN): IS_OPEN,
    Index("executions_reported", *_BY_END, sqlite_where=IS_REPORTED): IS_REPORTED,
    Index("executions_failed", executions.c.platform, executions.c.number, sqlite_where=IS_FAILED): IS_FAILED,
}
"""The indexes that have some rows only. Here the condition is in SQLite's dialect alone: PostgreSQL's would be imported
for it at each start, and takes 100 ms; postgres.py adds it."""
Index("executions_idempotency_key", executions.c.platform, executions.c.idempotency_key)

holders = Table(
    "holders",
    metadata,
    Column("holder", Text, primary_key=True),
    Column("platform", Text, nullable=False),
    Column("boot", Text, nullable=False, comment="the clock that ends_at is on: a boot's, or the database's"),
    Column("ends_at", Double, nullable=False, comment="when the lease ends, seconds of that clock"),
)

slots = Table(
    "slots",
    metadata,
    # A number is never used again: the late answer of an expired slot must not free somebody else's. It is the one
    # after the newest, so that of two workers which saw the same window one takes the slot, and the other looks again.
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("platform", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("boot", Text, nullable=False, comment="the clock that free_at is on: a boot's, or the database's"),
    Column("free_at", Double, nullable=False, comment="seconds of that clock"),
)
Index("slots_of_lane", slots.c.platform, slots.c.resource, slots.c.free_at)

actions = Table(
    "actions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("platform", Text, nullable=False),
    Column("verb", Text, nullable=False),
    Column("subject", Text, nullable=False, comment="a task's key, an execution's id, or nothing: all tasks"),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("until", Double, comment="when a pause ends by itself"),
    Column("in_force", Integer, nullable=False, comment="1: a pause that nobody has ended"),
    # Workers know by the number what they have seen: one is never used again.
    sqlite_autoincrement=True,
)
IS_IN_FORCE = actions.c.in_force == literal_column("1")
Index("actions_number", actions.c.platform, actions.c.number)
PARTIAL[Index("actions_in_force", actions.c.platform, sqlite_where=IS_IN_FORCE)] = IS_IN_FORCE

key_leases = Table(
    "key_leases",
    metadata,
    Column("platform", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("execution", Text, nullable=False, comment="who has it, for as long as that one is CLAIMED or RUNNING"),
)

callbacks = Table(
    "callbacks",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("platform", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False, comment="of the executions it is for: a retry has the same"),
    Column("secret", Text, nullable=False),
    UniqueConstraint("platform", "task", "idempotency_key"),
)

callback_bodies = Table(
    "callback_bodies",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("callback", Integer, nullable=False),
    Column("body", Text, nullable=False),
    Column("received_at", Double, nullable=False),
)
Index("callback_bodies_callback", callback_bodies.c.callback)

task_lists = Table(
    "task_lists",
    metadata,
    Column("platform", Text, primary_key=True),
    Column("boot", Text, nullable=False, comment="the clock that asked_at is on: a boot's, or the database's"),
    Column("asked_at", Double, nullable=False, comment="when a worker last had the turn to ask, seconds of that clock"),
    Column("asker", Text, comment="the holder that has the turn, until it has kept what the platform has answered"),
    Column("tasks", Text, comment="JSON: the id and the longest wait of each task, by its key"),
)

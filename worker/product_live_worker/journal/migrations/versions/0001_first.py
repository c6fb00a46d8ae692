"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "executions",
        sa.Column("number", number, primary_key=True),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("input", sa.Text),
        sa.Column("status", sa.Text),
        sa.Column("output", sa.Text),
        sa.Column("code", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("correlation_id", sa.Text),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("checkpoint", sa.Text),
        sa.Column("on_repeat", sa.Text, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("trouble", sa.Text, nullable=False),
        sa.Column("claimed_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("settled_at", sa.Double),
        sa.Column("reported_at", sa.Double),
        sa.UniqueConstraint("platform", "id"),
    )
    for name, column, condition in (
        ("executions_open", "holder", sa.text("state != 'REPORTED'")),
        ("executions_state", "state", sa.text("state != 'REPORTED'")),
        ("executions_reported", "reported_at", sa.text("state = 'REPORTED'")),
        ("executions_failed", "number", sa.text("status = 'FAILED'")),
    ):
        op.create_index(name, "executions", ["platform", column], sqlite_where=condition, postgresql_where=condition)
    op.create_index("executions_idempotency_key", "executions", ["platform", "idempotency_key"])
    op.create_table(
        "holders",
        sa.Column("holder", sa.Text, primary_key=True),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("boot", sa.Text, nullable=False),
        sa.Column("ends_at", sa.Double, nullable=False),
    )
    op.create_table(
        "slots",
        sa.Column("number", number, primary_key=True, autoincrement=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("boot", sa.Text, nullable=False),
        sa.Column("free_at", sa.Double, nullable=False),
    )
    op.create_index("slots_free_at", "slots", ["platform", "free_at"])
    op.create_table(
        "actions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("until", sa.Double),
        sa.Column("in_force", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("actions_number", "actions", ["platform", "number"])
    in_force = sa.text("in_force = 1")
    op.create_index("actions_in_force", "actions", ["platform"], sqlite_where=in_force, postgresql_where=in_force)
    op.create_table(
        "key_leases",
        sa.Column("platform", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("execution", sa.Text, nullable=False),
    )
    op.create_table(
        "callbacks",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.UniqueConstraint("platform", "task", "idempotency_key"),
    )
    op.create_table(
        "callback_bodies",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("callback", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
    )
    op.create_index("callback_bodies_callback", "callback_bodies", ["callback"])

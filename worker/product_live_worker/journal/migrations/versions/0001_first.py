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
        ("executions_reported", "reported_at", sa.text("state = 'REPORTED'")),
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

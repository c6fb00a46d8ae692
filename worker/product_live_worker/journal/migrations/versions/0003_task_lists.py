"""The list of the account's tasks is read by one worker for all that share the database."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make its table."""
    op.create_table(
        "task_lists",
        sa.Column("platform", sa.Text, primary_key=True),
        sa.Column("boot", sa.Text, nullable=False),
        sa.Column("asked_at", sa.Double, nullable=False),
        sa.Column("asker", sa.Text),
        sa.Column("tasks", sa.Text),
    )

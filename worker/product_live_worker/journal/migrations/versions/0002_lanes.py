"""The window is counted lane by lane: an index that has the lane, so that counting reads no row."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Replace the index."""
    op.drop_index("slots_free_at", "slots")
    op.create_index("slots_of_lane", "slots", ["platform", "resource", "free_at"])

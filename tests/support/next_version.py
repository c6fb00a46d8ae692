"""The next version of the worker: a copy of this one that brings a schema of its own, slowly."""

from __future__ import annotations

import shutil
from pathlib import Path

import product_live_worker
from product_live_worker.journal.tables import REVISION

NEXT = f"{int(REVISION) + 1:04}"
"""Its schema."""
MIGRATION = f"""
import time

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{REVISION}"


def upgrade():
    op.add_column("executions", sa.Column("mark", sa.Text, server_default="kept"))
    op.create_table("upgrades", sa.Column("at", sa.Double))
    op.execute("INSERT INTO upgrades VALUES (1)")
    # Whoever starts meanwhile has to wait.
    time.sleep(1)
"""  # noqa: S608 (ours)


def next_version(directory: Path) -> Path:
    """Make it; gives the folder in which Python finds it."""
    source = Path(product_live_worker.__file__).parent
    copy = shutil.copytree(source, directory / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    tables = copy / "journal" / "tables.py"
    tables.write_text(tables.read_text().replace(f'REVISION = "{REVISION}"', f'REVISION = "{NEXT}"'))
    (copy / "journal" / "migrations" / "versions" / f"{NEXT}_next.py").write_text(MIGRATION)
    return directory

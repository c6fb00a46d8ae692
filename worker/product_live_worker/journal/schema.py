"""The schema in a database: what is there, making it, and bringing it up to date."""

from __future__ import annotations

from importlib import resources

from sqlalchemy import Connection, insert, inspect, select

from product_live_worker.journal.tables import REVISION, executions, metadata, version
from product_live_worker.model.errors import JournalUnusable


def revision_of(connection: Connection, place: str, *, elsewhere: str) -> str | None:
    """Give the schema that the database has; None when it has none.

    Raises JournalUnusable for a foreign or newer one; `place` names the database, `elsewhere` what to do instead.
    """
    tables = set(inspect(connection).get_table_names())
    refuse_foreign(place, tables, elsewhere)
    if not tables:
        return None
    revision: str | None = connection.execute(select(version.c.version_num)).scalar()
    refuse_newer(place, revision, elsewhere)
    return revision


def refuse_foreign(place: str, tables: set[str], elsewhere: str) -> None:
    """Raise JournalUnusable when these are not the journal's tables."""
    if tables and not {"alembic_version", executions.name} <= tables:
        raise JournalUnusable(
            f"{place} is a database of something else (it has the tables {', '.join(sorted(tables)[:5])}); it was left "
            f"as it is. {elsewhere}"
        )


def refuse_newer(place: str, revision: str | None, elsewhere: str) -> None:
    """Raise JournalUnusable when a later version of the worker wrote it."""
    if is_newer(revision):
        raise JournalUnusable(
            f"{place} was written by a newer worker (schema {revision}; this one knows {REVISION}); it was left as it "
            f"is. Install that version again. {elsewhere}"
        )


def is_newer(revision: str | None) -> bool:
    """Whether it is the schema of a later version of the worker."""
    return revision is not None and revision > REVISION


def refuse_older(place: str, revision: str | None) -> None:
    """Raise JournalUnusable when it has to be brought up to date before it can be read."""
    if revision != REVISION:
        raise JournalUnusable(
            f"{place} was written by an older worker (schema {revision}; this one reads {REVISION}); "
            f"start the worker once, which brings it up to date"
        )


def create(connection: Connection) -> None:
    """Make the tables. Not by the migrations: an empty journal is not behind, and a first start needs no Alembic."""
    metadata.create_all(connection)
    connection.execute(insert(version).values(version_num=REVISION))


def migrate(connection: Connection) -> None:
    """Bring the schema up to date."""
    # Imported here: Alembic is 10 MB of memory that a worker with a current journal never needs.
    from alembic import command  # noqa: PLC0415 (as said)
    from alembic.config import Config  # noqa: PLC0415 (as said)

    config = Config()
    config.set_main_option("script_location", str(resources.files("product_live_worker.journal") / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

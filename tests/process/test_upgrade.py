"""A rolling upgrade: workers of the next version start beside one of this, whose journal they bring up to date."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from product_live_worker.journal.tables import REVISION
from support.fleet import LIMIT, WINDOW, Fleet, fleet
from support.journals import all_rows, query, url_of
from support.next_version import NEXT, next_version
from support.plugins import install
from support.watched_sandbox import watched_sandbox
from support.workers import until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

EX_CONFIG = 78


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_of_new_workers_one_migrates_and_the_old_one_ends_in_an_orderly_way(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    """The others wait for it; the old one says so, reports what it has in hand and exits 78; no row is lost."""
    place = tmp_path / "worker.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    async with (
        watched_sandbox("slow", limit=LIMIT, window=WINDOW) as sandbox,
        fleet(url_of(place), sandbox, tmp_path / "fleet", tasks=("slow",)) as workers,
    ):
        await workers.started(1)
        (old,) = workers.workers
        done, held = sandbox.submit("slow", number=1), sandbox.submit("slow", number=2, seconds=4.0)
        await until(lambda: done.status == "COMPLETED" and len(workers.notes()) == 3)
        await until(lambda: len(all_rows(place, "WHERE state = 'REPORTED'")) == 1)
        before = all_rows(place, "WHERE id = ?", done.id)
        upgrade(workers, tmp_path)
        async with anyio.create_task_group() as together:
            for _ in range(3):
                together.start_soon(workers.start)
        await workers.up()
        assert await old.ended() == EX_CONFIG
        assert held.status == "COMPLETED"
        assert f"brought the journal to schema {NEXT}" in old.output
        assert query(place, "SELECT version_num FROM alembic_version") == [(NEXT,)]
        assert query(place, "SELECT count(*) FROM upgrades") == [(1,)]
        if isinstance(place, Path):
            copy = place.with_name(f"{place.name}.{REVISION}.backup")
            assert query(copy, "SELECT version_num FROM alembic_version") == [(REVISION,)]
        assert all_rows(place, "WHERE id = ?", done.id) == [{**row, "mark": "kept"} for row in before]
        later = sandbox.submit("slow", number=3)
        await until(lambda: later.status == "COMPLETED")
        assert await workers.drain() == [0] * 3
    assert sorted(row["state"] for row in all_rows(place)) == ["REPORTED"] * 3
    assert not [worker for worker in workers.workers if "Traceback" in worker.output]


def upgrade(workers: Fleet, directory: Path) -> None:
    """Let the workers that are started from now on be of the next version."""
    newer = next_version(directory / "newer")
    installed = install(workers.directory / "plugin", "support.noted_handlers", *workers.tasks)
    workers.variables["PYTHONPATH"] = f"{newer}:{installed['PYTHONPATH']}"

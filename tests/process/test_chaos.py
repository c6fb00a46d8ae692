"""Nothing is lost: killed anywhere, with any answer cut, every execution still ends with its own result, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.chaos import Storm, run
from support.chaos_laws import broken_laws, is_known, table

pytestmark = pytest.mark.anyio


@pytest.mark.timeout(90)
async def test_a_storm_breaks_no_law(tmp_path: Path) -> None:
    """A worker killed again and again while its platform fails in every way breaks no law; `make chaos` is longer."""
    storm = Storm(seed=7, executions=30, kills=5, longest=80.0)
    record = await run(storm, tmp_path)
    assert broken_laws(record) == [], "\n".join(table(record, storm.seed))
    assert len(record.killed) == 5
    assert sum(is_known(record, execution) for execution in record.executions.values()) > 15


async def test_a_storm_breaks_no_law_on_a_server(tmp_path: Path, postgres_url: str) -> None:
    """The same with the journal on PostgreSQL, where a killed worker is known to be gone by its lease alone."""
    storm = Storm(seed=11, executions=20, kills=4, longest=150.0)
    record = await run(storm, tmp_path, postgres_url)
    assert broken_laws(record) == [], "\n".join(table(record, storm.seed))
    assert len(record.killed) == 4
    assert sum(is_known(record, execution) for execution in record.executions.values()) > 8

"""Where the journals of these suites are: in a file, and on a server."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from support.journals import Place


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Place]:
    """Give what makes places for journals of each kind."""
    if request.param == "postgresql":
        new_database: Callable[[], str] = request.getfixturevalue("postgres_server").new_database
        return new_database
    numbers = itertools.count()
    return lambda: tmp_path / f"state{next(numbers)}" / "worker.db"


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    """Give a place for one journal."""
    return new_place()

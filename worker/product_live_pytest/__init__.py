"""The worker's pytest plugin: pytest loads it wherever product-live-worker is installed.

A package of its own that imports nothing until a fixture is used: pytest loads it at each start, in projects that have
nothing to do with handlers too, and before coverage looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from product_live_worker.testkit import Sandbox, Trial


@pytest.fixture
def product_live_trial() -> Trial:
    """Give an execution for a handler: its settings, its deadline, its checkpoints, its log (testkit.Trial)."""
    from product_live_worker.testkit import Trial  # noqa: PLC0415 (see above)

    return Trial()


@pytest.fixture
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Give a live worker against a live Product-Live on this machine (testkit.Sandbox); both end with the test."""
    from product_live_worker.testkit import Sandbox  # noqa: PLC0415 (see above)

    directory: Path = tmp_path_factory.mktemp("product-live-worker")
    with Sandbox(directory) as live:
        yield live

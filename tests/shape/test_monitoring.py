"""What is said about the metrics, and what watches them, is true to their own definitions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from product_live_worker.telemetry.metrics import PREFIX, Definition
from support.metrics import definitions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def defined() -> dict[str, Definition]:
    """Every metric of an open worker, by its name without the prefix."""
    return {definition.name.removeprefix(PREFIX): definition for definition in definitions()}


def test_the_page_names_every_metric_and_no_other(defined: dict[str, Definition]) -> None:
    """With its kind, its labels and its meaning, as the worker itself tells them."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (.*) \| (.*) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    assert rows == [(name, one.kind, ", ".join(one.labels) or "–", one.meaning) for name, one in defined.items()]

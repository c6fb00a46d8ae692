"""config/worker.toml and the settings say the same, in both directions."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from product_live_worker.settings import Settings, Task, load

FILE = Path(__file__).parents[2] / "config" / "worker.toml"
SECTIONS = [name for name in Settings.model_fields if name not in ("tasks", "connections")]
LINES = FILE.read_text(encoding="utf-8").splitlines()


def shown() -> dict[str, Any]:
    """Read the file as if every setting in it were switched on."""
    return tomllib.loads("\n".join(re.sub(r"^#(?=[\[a-z])", "", line) for line in LINES))


def test_the_file_as_it_is_changes_nothing() -> None:
    """Whoever starts the worker in a checkout gets the defaults."""
    assert load(FILE, {}, require_key=False) == Settings()
    assert set(tomllib.loads("\n".join(LINES))) == set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_in_the_file_and_no_other(section: str) -> None:
    """In the order of the settings."""
    fields = type(Settings.model_fields[section].default).model_fields
    assert list(shown()[section]) == list(fields)


def test_every_setting_of_a_task_is_in_the_file_and_no_other() -> None:
    """Under an example of a task."""
    assert list(shown()["tasks"]["power"]) == list(Task.model_fields)


def test_sections_stand_in_the_order_of_the_settings() -> None:
    """So that both can be read side by side."""
    assert list(shown()) == list(Settings.model_fields)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_file_shows_the_true_defaults(section: str) -> None:
    """A setting without default is shown empty."""
    model = type(Settings.model_fields[section].default)
    values = {name: value for name, value in shown()[section].items() if value != ""}
    assert model.model_validate(values) == model()
    assert {name for name in shown()[section] if name not in values} == {
        name for name, field in model.model_fields.items() if field.default is None
    }


def test_every_setting_is_explained_in_the_line_above() -> None:
    """One line of meaning each."""
    for above, line in pairwise(LINES):
        if re.match(r"#[a-z_]+ = ", line):
            assert re.match(r"# [A-Z\"].*\.$", above), line

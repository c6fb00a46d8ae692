"""Handlers from plugins, and which task each serves."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from product_live_worker import Handler
from product_live_worker.model.errors import RegistryError
from product_live_worker.model.task import TaskSettings
from product_live_worker.registry import GROUP, assign, load

PLUGIN = """
import sys
from product_live_worker import handler

@handler("double")
def double(input: dict) -> dict: ...

@handler("double")
def double_again(input: dict) -> dict: ...

@handler("half")
def half(input: dict) -> dict: ...

def bare(input): ...
number = 7
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a folder of the path with the plugin `some_plugin`, installed as the distribution `some-plugin`."""
    (tmp_path / "some_plugin.py").write_text(PLUGIN)
    (tmp_path / "broken_plugin.py").write_text("raise ImportError('no such driver')")
    (tmp_path / "leaving_plugin.py").write_text("import sys\nsys.exit('run me as a script')")
    installed = tmp_path / "some_plugin-1.2.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.2\n")
    (installed / "entry_points.txt").write_text(f"[{GROUP}]\ndouble = some_plugin:double\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("some_plugin", "broken_plugin", "leaving_plugin"):
        sys.modules.pop(name, None)


def plugin(value: str, name: str = "any") -> EntryPoint:
    """Give an entry point, as a distribution declares it."""
    return EntryPoint(name, value, GROUP)


def a_handler(name: str, *, explicit: bool = False) -> Handler:
    """Give a handler of this name."""
    return Handler(name=name, function=lambda given: given, concurrency=2, timeout=30, explicit=explicit)


# Loading


@pytest.mark.usefixtures("plugins")
def test_installed_plugins_are_found_by_their_entry_points() -> None:
    """A plugin is one file and one line of registration; its handler is known by its own name."""
    assert load()["double"].name == "double"


@pytest.mark.usefixtures("plugins")
def test_a_handler_is_known_by_its_own_name_not_the_entry_points() -> None:
    """The task's key stands in the decorator."""
    assert set(load([plugin("some_plugin:half", name="other"), plugin("some_plugin:double")])) == {"double", "half"}


@pytest.mark.usefixtures("plugins")
def test_two_handlers_of_one_name_are_refused_with_both_origins() -> None:
    """Which of two would run must not depend on chance."""
    with pytest.raises(RegistryError) as refusal:
        load([plugin("some_plugin:double"), plugin("some_plugin:double_again")])
    for said in ("'double'", "some_plugin:double ", "some_plugin:double_again"):
        assert said in str(refusal.value)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("some_plugin:bare", "a function without @handler"),
        ("some_plugin:number", "int"),
        ("some_plugin:missing", "AttributeError"),
        ("no_such_plugin:double", "ModuleNotFoundError"),
        ("broken_plugin:double", "no such driver"),
        ("leaving_plugin:double", "SystemExit: run me as a script"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_named_with_the_reason(value: str, said: str) -> None:
    """A broken plugin is one clear error that says which, and never ends the process by itself."""
    with pytest.raises(RegistryError, match=re.escape(said)) as refusal:
        load([plugin(value)])
    assert value in str(refusal.value)


def test_a_plugin_is_named_with_its_distribution(plugins: Path) -> None:
    """Who is to uninstall something learns what, and in which version."""
    (plugins / "some_plugin-1.2.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\nx = some_plugin:number\n")
    with pytest.raises(RegistryError, match=r"some-plugin 1\.2, some_plugin:number"):
        load()


def test_no_plugins_are_no_handlers() -> None:
    """Nothing installed is no error here."""
    assert load([]) == {}


# Matching

TASKS = {"power": "id-power", "half": "id-half", "command": "id-command"}
HANDLERS = {
    "power": a_handler("power"),
    "other": a_handler("other"),
    "command": a_handler("command", explicit=True),
}


def test_without_sections_tasks_are_matched_by_key_but_never_to_an_explicit_handler() -> None:
    """A handler that could run anything needs a section of its own."""
    served, problems = assign(TASKS, HANDLERS, {})
    assert problems == ()
    assert [(task.key, task.id, task.handler.name) for task in served.values()] == [("power", "id-power", "power")]


def test_without_any_match_both_sides_are_named() -> None:
    """Who has nothing to serve reads what the account has and what is installed."""
    served, (problem,) = assign({"half": "id-half"}, HANDLERS, {})
    assert served == {}
    assert "'half'" in problem
    assert "'other', 'power'" in problem
    assert "command" not in problem


def test_a_section_names_a_task_by_key_or_by_id() -> None:
    """Only the tasks that have a section are served, explicit handlers among them."""
    served, problems = assign(TASKS, HANDLERS, {"power": TaskSettings(), "id-command": TaskSettings()})
    assert problems == ()
    assert {key: task.id for key, task in served.items()} == {"power": "id-power", "command": "id-command"}


def test_a_section_may_choose_another_handler() -> None:
    """One handler can serve several tasks."""
    served, problems = assign(
        TASKS, HANDLERS, {"power": TaskSettings(handler="other"), "half": TaskSettings(handler="other")}
    )
    assert problems == ()
    assert {key: task.handler.name for key, task in served.items()} == {"power": "other", "half": "other"}


def test_a_section_wins_over_the_decorator_where_it_says_something() -> None:
    """What a section leaves out is as the decorator has it."""
    section = TaskSettings(concurrency=7, timeout=5.0, on_crash="rerun", settings={"a": 1})
    served, _ = assign(TASKS, {**HANDLERS, "half": a_handler("half")}, {"power": section, "half": TaskSettings()})
    power, half = served["power"], served["half"]
    assert (power.concurrency, power.timeout, power.on_crash, power.settings) == (7, 5.0, "rerun", {"a": 1})
    assert (half.concurrency, half.timeout, half.on_crash, half.settings) == (2, 30, "fail", {})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"missing": TaskSettings()}, "no task 'missing'; it has 'command', 'half', 'power'"),
        ({"half": TaskSettings()}, "no handler named 'half' is installed for the task 'half'"),
        ({"power": TaskSettings(handler="gone")}, "no handler named 'gone' is installed for the task 'power'"),
        ({"power": TaskSettings(), "id-power": TaskSettings()}, "two sections"),
    ],
)
def test_a_section_that_cannot_be_served_is_told_by_name(sections: dict[str, TaskSettings], said: str) -> None:
    """Each problem is a line; what can be served is served all the same."""
    _, (problem,) = assign(TASKS, HANDLERS, sections)
    assert said in problem


def test_one_mistake_does_not_stop_the_other_tasks() -> None:
    """A task that is gone makes the worker unready, not idle."""
    served, problems = assign(TASKS, HANDLERS, {"gone": TaskSettings(), "power": TaskSettings()})
    assert (set(served), len(problems)) == ({"power"}, 1)


def test_a_long_list_of_names_is_cut() -> None:
    """An account with hundreds of tasks does not fill the log."""
    _, (problem,) = assign({f"task{number:03}": str(number) for number in range(50)}, {}, {})
    assert "'task019' and 30 more" in problem
    assert problem.endswith("handlers none")

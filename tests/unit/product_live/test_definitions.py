"""What the code says of a task beside what the platform has."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from product_live_worker import Handler, handler
from product_live_worker.model.task import TaskSettings
from product_live_worker.product_live.definitions import REPORTING, Difference, compare, plan, wanted
from product_live_worker.product_live.wire import InputKey, Task

ID = "a" * 24


class Query(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(populate_by_name=True)
    table: str = Field(description="The table that is read")
    most: int = Field(default=10, alias="maxRows")


class Rows(BaseModel):
    """What is given."""

    rows: list[str]
    total: int = Field(description="Of all rows")


class Tree(BaseModel):
    """A model that names itself."""

    name: str
    children: list[Tree] = []


class Odd:
    """A type without a schema."""


@handler("export", timeout=59.5)
async def export(_: Query) -> Rows:
    """Export the rows
    of a table.

    For those who read the code.
    """  # noqa: D205 (as people write it)
    return Rows(rows=[], total=0)


@handler("loose")
async def loose(given: dict) -> dict:  # type: ignore[type-arg]  # noqa: D103 (it says nothing)
    return given


def keys(**described: str) -> tuple[InputKey, ...]:
    """Give keys with their descriptions."""
    return tuple(InputKey(key=key, description=text) for key, text in described.items())


def a_task(**fields: Any) -> Task:
    """Give the task `export` as the platform may have it."""
    return Task(**{"id": ID, "key": "export", **fields})


AS_WANTED = a_task(
    description="Export the rows of a table.",
    retry_count=0,
    response_timeout_seconds=60 + REPORTING,
    input_keys=keys(table="The table that is read", maxRows=""),
    output_keys=keys(rows="", total="Of all rows"),
)


def by_name(*handlers: Handler) -> dict[str, Handler]:
    """Give handlers as the registry does."""
    return {found.name: found for found in handlers}


def test_the_code_says_what_a_new_task_is() -> None:
    """The docstring's first paragraph, the models' fields under the names that jobs use, and time to report."""
    (change,) = plan([], by_name(export), {}).changes
    assert change.action == "create"
    assert change.wanted.draft(None).model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "key": "export",
        "description": "Export the rows of a table.",
        "retryCount": 0,
        "responseTimeoutSeconds": 60 + REPORTING,
        "inputKeys": [
            {"key": "table", "description": "The table that is read"},
            {"key": "maxRows", "description": ""},
        ],
        "outputKeys": [{"key": "rows", "description": ""}, {"key": "total", "description": "Of all rows"}],
    }


def test_a_task_that_is_as_the_code_says_is_left_alone() -> None:
    """In whatever order it has its keys."""
    turned = AS_WANTED.model_copy(update={"input_keys": AS_WANTED.input_keys[::-1]})
    assert [change.action for change in plan([turned], by_name(export), {}).changes] == ["none"]


def test_each_difference_is_named_with_both_sides() -> None:
    """The platform's first."""
    old = a_task(description="Old", response_timeout_seconds=3600, input_keys=keys(gone="x", table="Old"))
    assert plan([old], by_name(export), {}).changes[0].differences == (
        Difference("description", "Old", "Export the rows of a table."),
        Difference("input_keys", {"gone": "x", "table": "Old"}, {"table": "The table that is read", "maxRows": ""}),
        Difference("output_keys", {}, {"rows": "", "total": "Of all rows"}),
        Difference("response_timeout_seconds", 3600.0, 60.0 + REPORTING),
    )


def test_what_the_code_does_not_say_stays_as_the_platform_has_it() -> None:
    """A definition is replaced as a whole: retries and policies that somebody has set must go along."""
    kept = {
        "retry_count": 3,
        "retry_logic": "EXPONENTIAL_BACKOFF",
        "retry_delay_seconds": 7,
        "timeout_policy": "TIME_OUT_WF",
        "timeout_seconds": 9000,
        "poll_timeout_seconds": 50,
        "concurrent_exec_limit": 2,
        "backoff_scale_factor": 1.5,
    }
    draft = wanted("export", export, 60).draft(a_task(**kept))
    assert {name: getattr(draft, name) for name in kept} == kept
    sent = draft.model_dump_json(by_alias=True)
    assert '"timeoutSeconds":9000,' in sent
    assert '"backoffScaleFactor":1.5' in sent


def test_a_handler_of_plain_objects_without_a_docstring_says_only_its_timeout() -> None:
    """Nothing that a person has described at the platform is taken away."""
    task = a_task(description="By hand", input_keys=keys(a="b"), output_keys=keys(c="d"), response_timeout_seconds=9)
    (difference,) = compare(wanted("export", loose, 600), task).differences
    assert difference == Difference("response_timeout_seconds", 9.0, 600.0 + REPORTING)


def test_a_key_that_the_code_does_not_describe_keeps_its_description() -> None:
    """The code's own word counts where there is one."""
    task = AS_WANTED.model_copy(update={"input_keys": keys(table="The table that is read", maxRows="By hand")})
    assert compare(wanted("export", export, 60), task).action == "none"


def test_the_whole_time_is_never_less_than_the_silence_allowed() -> None:
    """The platform's engine refuses that; no limit stays no limit."""
    short = AS_WANTED.model_copy(update={"timeout_seconds": 30.0})
    assert compare(wanted("export", export, 60), short).differences == (
        Difference("timeout_seconds", 30.0, 60.0 + REPORTING),
    )
    assert compare(wanted("export", export, 60), AS_WANTED.model_copy(update={"timeout_seconds": 0.0})).action == "none"


def test_sections_say_which_tasks_there_are() -> None:
    """By key or id, each with its handler and its timeout; other handlers want nothing then."""
    sections = {
        ID: TaskSettings(timeout=100),
        "night": TaskSettings(handler="export"),
        "b" * 24: TaskSettings(handler="export"),
        "lost": TaskSettings(handler="nobody"),
    }
    planned = plan([AS_WANTED, a_task(id="c" * 24, key="other")], by_name(export, loose), sections)
    by_key = {change.wanted.key: change for change in planned.changes}
    assert {key: change.action for key, change in by_key.items()} == {"export": "update", "night": "create"}
    assert by_key["export"].wanted.response_timeout_seconds == 100 + REPORTING
    assert planned.not_served == ("other",)
    unknown, missing = planned.problems
    assert "b" * 24 in unknown
    assert "nobody" in missing


def test_a_task_with_two_sections_is_a_problem() -> None:
    """Which of them counts would be chance."""
    planned = plan([AS_WANTED], by_name(export), {ID: TaskSettings(), "export": TaskSettings()})
    assert len(planned.changes) == 1
    assert "two sections" in planned.problems[0]


def test_an_explicit_handler_wants_no_task_by_itself() -> None:
    """It needs a section, as it does to be served."""

    @handler("tool", explicit=True)
    def tool(_: dict) -> None:  # type: ignore[type-arg]
        return

    assert plan([], by_name(tool), {}).changes == ()
    (change,) = plan([], by_name(tool), {"print": TaskSettings(handler="tool")}).changes
    assert (change.wanted.key, change.wanted.output_keys) == ("print", ())


@pytest.mark.parametrize(
    ("type", "expected"),
    [
        (dict[str, int], None),
        (Any, None),
        (Tree, ("name", "children")),
        (Query | Tree, ("table", "maxRows", "name", "children")),
        (Query | None, ("table", "maxRows")),
        (Query | dict[str, Any], None),
        (None, ()),
    ],
)
def test_keys_are_read_from_every_kind_of_type(type: Any, expected: tuple[str, ...] | None) -> None:
    """Where any name may come, the code says nothing."""
    found = wanted("t", Handler(name="t", function=lambda given: given, input_type=type), 60).input_keys
    assert (None if found is None else tuple(key.key for key in found)) == expected


def test_a_type_without_a_schema_says_nothing_of_its_keys() -> None:
    """It is no reason to fail."""

    class Strange(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        odd: Odd

    assert wanted("t", Handler(name="t", function=lambda given: given, input_type=Strange), 60).input_keys is None

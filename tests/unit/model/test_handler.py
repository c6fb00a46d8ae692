"""The contract with a handler: what the decorator accepts, how input is read and output is written."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from product_live_worker import Context, Handler, TaskFailed, handler
from product_live_worker.model.handler import LONGEST_TIMEOUT
from support.contexts import a_context

PLATFORM = {"eventCorrelationId": "c1", "context": {"jobId": "j1"}}


class Row(BaseModel):
    key: str
    value: int = 0


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: str


class StrictWithContext(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: str
    context: dict[str, str]


class StrictWithAlias(BaseModel):
    model_config = ConfigDict(extra="forbid")
    key: str
    job: dict[str, str] = Field(validation_alias="context")


class StrictOther(BaseModel):
    model_config = ConfigDict(extra="forbid")
    other: int


@pydantic_dataclass(config=ConfigDict(extra="forbid"))
class StrictRecord:
    key: str


class Nested(BaseModel):
    inner: Strict


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    row_count: int = Field(alias="rowCount")
    ratio: float = 0.0
    anything: Any = None


class Wider(Aliased):
    secret: int = 7


class Doubled(BaseModel):
    value: int

    @computed_field
    @property
    def twice(self) -> int:
        """Twice the value."""
        return 2 * self.value


class NotForPydantic:
    pass


def made(input_type: Any = dict, output_type: Any = None) -> Handler:
    """Give a handler with these types."""
    return Handler(name="some", function=lambda given: given, input_type=input_type, output_type=output_type)


# What the decorator accepts


def test_an_async_function_runs_on_the_loop_and_another_in_a_thread() -> None:
    """How a handler is run follows from how it is written."""

    @handler("a")
    async def one(input: Row) -> Row:
        return input

    @handler("b")
    def other(input: Row) -> Row:
        return input

    assert (one.isolation, other.isolation) == ("loop", "thread")


def test_the_decorators_options_are_kept_and_have_defaults() -> None:
    """What the decorator says is what the handler has; what it leaves out has the documented default."""

    @handler("a")
    def plain(input: dict) -> None:  # type: ignore[type-arg]
        """Do nothing.

        At all.
        """

    @handler("b", concurrency=4, timeout=30, explicit=True, on_crash="rerun")
    def full(input: Row, *, context: Context) -> None: ...

    assert (plain.concurrency, plain.timeout, plain.explicit, plain.on_crash) == (1, 600.0, False, "fail")
    assert (full.concurrency, full.timeout, full.explicit, full.on_crash) == (4, 30.0, True, "rerun")
    assert (plain.takes_context, full.takes_context) == (False, True)
    assert (plain.summary, full.summary) == ("Do nothing.", "")
    assert (full.input_type, full.output_type) == (Row, type(None))


def test_a_handler_can_be_called_as_the_function_that_it_is() -> None:
    """Decorating a function takes nothing from its author."""

    @handler("a")
    def twice(input: Row) -> Row:
        return Row(key=input.key * 2)

    assert twice(Row(key="x")) == Row(key="xx")


def test_a_function_without_annotations_takes_an_object_and_gives_what_it_likes() -> None:
    """Types are a help, not a duty."""

    @handler("a")
    def plain(input):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 (what is tested)
        return input

    assert (plain.input_type, plain.output_type) == (dict, Any)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("", {}, "found ''"),
        ("  ", {}, "found '  '"),
        (None, {}, "found None"),
        (Row, {}, "as in @handler('power')"),
        ("a", {"concurrency": 0}, "found 0"),
        ("a", {"concurrency": 1.5}, "found 1.5"),
        ("a", {"concurrency": "4"}, "found '4'"),
        ("a", {"timeout": 0}, "found 0"),
        ("a", {"timeout": -1}, "found -1"),
        ("a", {"timeout": "30s"}, "found '30s'"),
        ("a", {"timeout": math.nan}, "found nan"),
        ("a", {"timeout": math.inf}, "found inf"),
        ("a", {"timeout": LONGEST_TIMEOUT + 1}, "at most"),
        ("a", {"on_crash": "again"}, "found 'again'"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_with_what_was_found(
    name: Any, options: dict[str, Any], said: str
) -> None:
    """A mistake in the decorator is told when the module is imported, with what was found."""
    with pytest.raises(TypeError, match="handler") as refusal:
        handler(name, **options)
    assert said in str(refusal.value)


def test_the_longest_timeout_is_a_date() -> None:
    """Any timeout that the decorator accepts gives a deadline that can be written down."""
    assert datetime.now(UTC) + timedelta(seconds=LONGEST_TIMEOUT)


def test_a_decorator_above_no_function_is_refused() -> None:
    """Only something to call can be a handler."""
    with pytest.raises(TypeError, match="stands above a function"):
        handler("a")("text")  # type: ignore[arg-type]


def no_input() -> None: ...  # noqa: D103 (its signature says all)
def two_inputs(input: Row, more: Row) -> None: ...  # noqa: D103 (its signature says all)
def any_inputs(*input: Row) -> None: ...  # noqa: D103 (its signature says all)
def named_inputs(**input: Row) -> None: ...  # noqa: D103 (its signature says all)
def named_input(*, input: Row) -> None: ...  # noqa: D103 (its signature says all)
def context_alone(context: Context) -> None: ...  # noqa: D103 (its signature says all)


@pytest.mark.parametrize("function", [no_input, two_inputs, any_inputs, named_inputs, named_input, context_alone])
def test_a_function_takes_its_input_first_and_nothing_but_context_beside(function: Any) -> None:
    """A signature that the worker could not call is refused, and shown."""
    with pytest.raises(TypeError, match="takes its input first") as refusal:
        handler("a")(function)
    assert function.__name__ in str(refusal.value)


def positional_context(input: Row, context: Context, /) -> None: ...  # noqa: D103 (its signature says all)
def many_contexts(input: Row, *context: Context) -> None: ...  # noqa: D103 (its signature says all)
def context_of_names(input: Row, **context: Context) -> None: ...  # noqa: D103 (its signature says all)


@pytest.mark.parametrize("function", [positional_context, many_contexts, context_of_names])
def test_context_is_passed_by_its_name(function: Any) -> None:
    """A context that could not be passed by name is refused."""
    with pytest.raises(TypeError, match="passed by its name"):
        handler("a")(function)


def test_an_annotation_that_cannot_be_found_is_named() -> None:
    """A type imported for type checkers alone is no use at run time; the error says so."""

    def function(input: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821 (what is tested)

    with pytest.raises(TypeError, match="'Unknown' cannot be found"):
        handler("a")(function)


def foreign_input(input: NotForPydantic) -> None: ...  # noqa: D103 (its signature says all)
def foreign_output(input: Row) -> NotForPydantic: ...  # noqa: D103 (its signature says all)


@pytest.mark.parametrize("function", [foreign_input, foreign_output])
def test_a_type_that_pydantic_cannot_read_is_refused_at_once(function: Any) -> None:
    """A type that no input or output could have is a mistake of today, not of the first execution."""
    with pytest.raises(TypeError, match="handler 'a': pydantic cannot read"):
        handler("a")(function)


# Input


def test_an_input_becomes_the_first_argument() -> None:
    """A model reads the platform's object."""
    assert made(Row).read_input({"key": "k", "value": "7"}) == Row(key="k", value=7)


def test_a_handler_of_a_dict_gets_the_object_with_all_its_keys() -> None:
    """A handler that takes a dict sees what the platform sent."""
    assert made().read_input({"key": 1, **PLATFORM}) == {"key": 1, **PLATFORM}


@pytest.mark.parametrize("raw", [None, [], "text", 7])
@pytest.mark.parametrize("kind", [Row, dict, Strict])
def test_an_input_that_is_no_object_is_refused(kind: Any, raw: Any) -> None:
    """Whatever the platform sends, it is validated, not trusted."""
    with pytest.raises(ValidationError):
        made(kind).read_input(raw)


@pytest.mark.parametrize("kind", [Row, Strict, StrictRecord, Annotated[Strict, Field(description="d")]])
def test_the_platforms_own_keys_never_make_validation_fail(kind: Any) -> None:
    """The platform adds keys to every input; a handler that forbids strangers has not to know them."""
    assert made(kind).read_input({"key": "k", **PLATFORM}).key == "k"


def test_the_platforms_own_keys_do_no_harm_to_a_choice_of_models() -> None:
    """Each of several models may forbid strangers."""
    assert made(Strict | StrictOther).read_input({"other": 1, **PLATFORM}) == StrictOther(other=1)


@pytest.mark.parametrize("kind", [StrictWithContext, StrictWithAlias])
def test_a_handler_that_asks_for_a_platform_key_gets_it(kind: Any) -> None:
    """A key of the platform that a model knows, by name or by alias, is not taken away."""
    read = made(kind).read_input({"key": "k", **PLATFORM})
    assert PLATFORM["context"] in read.model_dump().values()


def test_a_strangers_key_is_refused_where_it_is_forbidden() -> None:
    """Only the platform's own keys are let through."""
    with pytest.raises(ValidationError, match="surprise"):
        made(Strict).read_input({"key": "k", "surprise": 1, **PLATFORM})


def test_a_platform_key_deeper_inside_is_a_stranger() -> None:
    """The platform adds its keys at the top; below, they are the job's own."""
    with pytest.raises(ValidationError, match="context"):
        made(Nested).read_input({"inner": {"key": "k", "context": 1}})


def test_what_else_is_wrong_is_said_although_the_platform_added_keys() -> None:
    """The error names the field at fault and not the platform's keys."""
    with pytest.raises(ValidationError) as refusal:
        made(Strict).read_input({"key": 7, **PLATFORM})
    assert [problem["loc"] for problem in refusal.value.errors()] == [("key",)]


# Output


@pytest.mark.parametrize("kind", [None, type(None), dict, Any, Row | None])
def test_nothing_is_an_empty_object(kind: Any) -> None:
    """A handler that has nothing to say completes with an empty output."""
    assert made(output_type=kind).write_output(None) == {}


def test_nothing_where_a_model_is_promised_is_refused() -> None:
    """A handler that forgets its return does not complete."""
    with pytest.raises(ValidationError):
        made(output_type=Row).write_output(None)


def test_an_output_is_written_by_alias() -> None:
    """Later tasks of the job know the aliases, not the names in Python."""
    written = made(output_type=Aliased).write_output(Aliased(row_count=3))
    assert written == {"rowCount": 3, "ratio": 0.0, "anything": None}


def test_a_dict_is_held_to_the_model_that_is_promised() -> None:
    """A handler may return a plain dict for a model; it is validated all the same."""
    assert made(output_type=Row).write_output({"key": "k"}) == {"key": "k", "value": 0}
    with pytest.raises(ValidationError):
        made(output_type=Row).write_output({"value": 1})


def test_only_what_is_declared_is_written() -> None:
    """A subclass's further fields were not promised and may be secrets."""
    assert "secret" not in made(output_type=Aliased).write_output(Wider(row_count=1))


def test_a_computed_field_is_part_of_the_output() -> None:
    """What a model computes, it says."""
    assert made(output_type=Doubled).write_output(Doubled(value=2)) == {"value": 2, "twice": 4}


def test_values_become_what_json_has() -> None:
    """Dates, decimals, sets and tuples are written as JSON can hold them."""
    result = {"at": datetime(2024, 1, 2, tzinfo=UTC), "sum": Decimal("1.5"), "all": {1}, "pair": (1, 2), 3: None}
    written = made(output_type=dict).write_output(result)
    assert written == {"at": "2024-01-02T00:00:00Z", "sum": "1.5", "all": [1], "pair": [1, 2], "3": None}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "result"),
    [
        (dict, lambda number: {"deep": [{"in": (number,)}]}),
        (Any, lambda number: {"value": number}),
        (Aliased, lambda number: Aliased(row_count=1, ratio=number)),
        (Aliased, lambda number: Aliased(row_count=1, anything={"value": number})),
    ],
)
def test_what_is_no_number_is_refused_and_never_becomes_null(kind: Any, result: Any, number: float) -> None:
    """NaN and the infinities are no JSON; a silent null would be a wrong result."""
    with pytest.raises(ValueError, match="NaN"):
        made(output_type=kind).write_output(result(number))


def test_a_model_that_was_changed_after_it_was_made_is_read_again() -> None:
    """An assignment is not validated by pydantic; the output is, and without a warning that shows the value."""
    result = Row(key="k")
    result.value = "7"  # type: ignore[assignment]
    assert made(output_type=Row).write_output(result) == {"key": "k", "value": 7}
    result.value = "seven"  # type: ignore[assignment]
    with pytest.raises(ValidationError):
        made(output_type=Row).write_output(result)


def test_what_json_cannot_hold_is_refused() -> None:
    """An object without a JSON form is no output."""
    with pytest.raises(ValueError, match="serialize"):
        made(output_type=Any).write_output({"value": object()})


# Schemas


def test_schemas_describe_input_and_output_as_they_are_sent() -> None:
    """A job's author reads names as they stand in JSON, and computed fields of the output."""
    both = made(Aliased, Doubled)
    assert "rowCount" in both.input_schema()["properties"]
    assert set(both.output_schema()["properties"]) == {"value", "twice"}
    assert made().input_schema()["type"] == "object"
    assert made().output_schema()["type"] == "null"


# TaskFailed and Context


def test_a_refusal_has_a_code_and_room_for_more() -> None:
    """A refusal says at least one sentence; its code is task_failed unless it says another."""
    plain, full = TaskFailed("No."), TaskFailed("No.", code="closed", output={"row": 7})
    assert (str(plain), plain.message, plain.code, plain.output) == ("No.", "No.", "task_failed", {})
    assert (full.code, full.output) == ("closed", {"row": 7})


def test_what_a_refusal_adds_is_its_own_copy() -> None:
    """Changing the dict afterwards does not change the refusal."""
    more = {"row": 7}
    refusal = TaskFailed("No.", output=more)
    more["row"] = 8
    assert refusal.output == {"row": 7}


def test_the_time_that_remains_is_never_less_than_none() -> None:
    """After the deadline, 0 seconds remain."""
    assert a_context(seconds=-5).remaining() == 0.0
    assert 0 < a_context(seconds=60).remaining() <= 60


def test_platform_keys_do_not_have_to_fit_a_dict_of_numbers() -> None:
    """A handler that takes names and numbers gets those, and not the job's correlation id."""

    @handler("sum")
    def add(input: dict[str, int]) -> dict[str, int]:
        return {"sum": sum(input.values())}

    assert add.read_input({"a": 1, "b": "2", "eventCorrelationId": "job-1", "context": {}}) == {"a": 1, "b": 2}
    with pytest.raises(ValidationError):
        add.read_input({"a": "one", "eventCorrelationId": "job-1"})

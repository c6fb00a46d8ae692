"""One suite for every way to run a handler: whatever a handler does becomes an Outcome, and nothing else happens."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import anyio
import anyio.from_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    computed_field,
    field_validator,
    model_validator,
)

from product_live_worker import Context, Handler, TaskFailed, handler
from product_live_worker.executors.alone import MAX_OUTPUT, run_alone
from product_live_worker.executors.in_thread import InThread
from product_live_worker.executors.on_loop import OnLoop
from product_live_worker.executors.perform import MESSAGE, Executor, perform
from product_live_worker.model.execution import Outcome, Status
from support.contexts import a_context

pytestmark = pytest.mark.anyio

Body = Callable[[Any], Any]


class Number(BaseModel):
    power: int


class Total(BaseModel):
    total: float


class Broken(BaseException):
    """What no `except Exception` catches."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Careless(TaskFailed):
    def __init__(self) -> None:
        """Forget to call the base class."""


@dataclass
class Way:
    """A way to run a handler: makes handlers of that kind, and performs them."""

    isolation: Literal["loop", "thread"]
    threads: InThread = field(default_factory=InThread)
    errors: list[BaseException] = field(default_factory=list)

    def make(self, body: Body, input_type: Any = dict, output_type: Any = Any) -> Handler:
        """Give a handler of this kind that does what `body` does."""

        def in_thread(input: Any) -> Any:
            return body(input)

        async def on_loop(input: Any) -> Any:
            return body(input)

        function: Any = in_thread if self.isolation == "thread" else on_loop
        function.__annotations__ = {"input": input_type, "return": output_type}
        return handler("some")(function)

    async def perform(
        self, made: Handler, raw: Any = None, *, timeout: float = 60.0, max_output: int = MAX_OUTPUT
    ) -> Outcome:
        """Run it as the dispatcher does."""
        executors: dict[str, Executor] = {"loop": OnLoop(), "thread": self.threads}
        return await perform(
            executors,
            made,
            {} if raw is None else raw,
            a_context("some"),
            timeout=timeout,
            max_output=max_output,
            failed=self.errors.append,
        )

    async def outcome(self, body: Body, raw: Any = None, output_type: Any = Any, **options: Any) -> Outcome:
        """Run such a handler once; what it gives is JSON."""
        outcome = await self.perform(self.make(body, output_type=output_type), raw, **options)
        assert json.loads(json.dumps(outcome.output, allow_nan=False)) == outcome.output
        assert len(outcome.message) <= MESSAGE
        return outcome


@pytest.fixture(params=["loop", "thread"])
def way(request: pytest.FixtureRequest) -> Way:
    """Give each way to run a handler."""
    return Way(request.param)


def raising(error: BaseException) -> Body:
    """Give a handler's body that raises this."""

    def body(_: Any) -> None:
        raise error

    return body


# Success


async def test_a_result_becomes_the_output(way: Way) -> None:
    """Input is read by the handler's model, and its result written by its model."""
    made = way.make(lambda number: Total(total=2**number.power), Number, Total)
    assert await way.perform(made, {"power": 3, "eventCorrelationId": "c1"}) == Outcome.completed({"total": 8.0})
    assert way.errors == []


async def test_no_result_is_an_empty_output(way: Way) -> None:
    """A handler that returns nothing has succeeded."""
    assert await way.outcome(lambda _: None) == Outcome.completed({})
    assert await way.outcome(lambda _: None, output_type=None) == Outcome.completed({})


async def test_a_megabyte_in_and_out_is_carried(way: Way) -> None:
    """Large inputs and outputs pass unchanged, up to the limit."""
    large = {"text": "x" * (MAX_OUTPUT - 100)}
    assert await way.outcome(lambda given: given, large) == Outcome.completed(large)


async def test_a_handler_that_asks_for_its_context_gets_it(way: Way) -> None:
    """The context is passed by its name, and only to those who ask."""

    @handler("some")
    async def on_loop(_: dict, context: Context) -> dict:  # type: ignore[type-arg]
        return {"execution": context.execution_id, "late": context.deadline < datetime.now(UTC)}

    @handler("some")
    def in_thread(_: dict, *, context: Context) -> dict:  # type: ignore[type-arg]
        return {"execution": context.execution_id, "late": context.deadline < datetime.now(UTC)}

    made = on_loop if way.isolation == "loop" else in_thread
    assert await way.perform(made) == Outcome.completed({"execution": "e1", "late": False})


async def test_an_async_handler_runs_on_the_loop_and_another_beside_it(way: Way) -> None:
    """What is `async` shares the loop's thread; what is not never blocks it."""
    ran_in: list[threading.Thread] = []
    await way.outcome(lambda _: ran_in.append(threading.current_thread()))
    assert (ran_in == [threading.current_thread()]) is (way.isolation == "loop")


# Failure, each with its code


async def test_an_input_that_does_not_fit_is_invalid_input_and_the_handler_is_not_run(way: Way) -> None:
    """A handler never sees what its model refuses; the message names the field and what was found."""
    ran: list[Any] = []
    outcome = await way.perform(way.make(ran.append, Number), {"power": "x"})
    assert (outcome.status, outcome.code, ran, way.errors) == (Status.FAILED, "invalid_input", [], [])
    assert outcome.message == (
        "The input cannot be used: power: Input should be a valid integer, unable to parse string as an integer "
        "(found text)"
    )


async def test_a_defect_in_the_inputs_model_is_a_handler_error(way: Way) -> None:
    """A validator that breaks is the handler's fault, not the input's; its traceback is for the log."""

    class Defective(BaseModel):
        @model_validator(mode="before")
        @classmethod
        def read(cls, value: Any) -> Any:
            """Break."""
            return value["missing"]

    outcome = await way.perform(way.make(lambda _: None, Defective))
    assert outcome == Outcome.failed("handler_error", "The handler failed to read its input: KeyError")
    assert [type(error) for error in way.errors] == [KeyError]


@pytest.mark.parametrize("result", [{"total": "x"}, {}, [], "text", 7, None])
async def test_a_result_that_is_not_what_was_declared_is_invalid_output(way: Way, result: Any) -> None:
    """A result is held to its model."""
    outcome = await way.outcome(lambda _: result, output_type=Total)
    assert (outcome.status, outcome.code) == (Status.FAILED, "invalid_output")


@pytest.mark.parametrize(("result", "named"), [([1], "list"), ("text", "str"), (7, "int"), (True, "bool")])
async def test_a_result_that_is_no_object_is_invalid_output(way: Way, result: Any, named: str) -> None:
    """Later tasks read an output by its keys, so it must have some; the message says what was found."""
    outcome = await way.outcome(lambda _: result)
    assert outcome.code == "invalid_output"
    assert outcome.message.endswith(f"found {named}.")


def endless() -> dict[str, Any]:
    """Give an object that holds itself."""
    circle: dict[str, Any] = {}
    circle["self"] = circle
    return circle


def deep() -> dict[str, Any]:
    """Give an object that is nested deeper than anybody reads."""
    outer: dict[str, Any] = {}
    inner = outer
    for _ in range(5000):
        inner["in"] = inner = {}
    return outer


class Sick(BaseModel):
    value: int = 1

    @computed_field
    @property
    def half(self) -> int:
        """Fail."""
        return self.value // 0


class Rude(BaseModel):
    value: Annotated[int, PlainSerializer(lambda value: {}[value])] = 1


@pytest.mark.parametrize(
    "result",
    [
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": -float("inf")},
        Total(total=float("nan")),
        {"value": object()},
        {"value": b"\xff"},
        {"value": "caf\udce9"},
        {"caf\udce9": 1},
        endless(),
        deep(),
        Sick(),
        Rude(),
    ],
)
async def test_a_result_that_json_cannot_hold_is_invalid_output(way: Way, result: Any) -> None:
    """Whatever cannot be sent is refused here, in words, and not in the middle of a report."""
    outcome = await way.outcome(lambda _: result)
    assert (outcome.status, outcome.code) == (Status.FAILED, "invalid_output")
    assert "cannot be written as JSON" in outcome.message


async def test_an_output_over_the_limit_is_refused_with_a_way_out(way: Way) -> None:
    """The limit is counted in bytes of JSON as it is sent; the message says how many, and what to do."""
    exactly = len(json.dumps({"text": "é" * 10}))
    assert (await way.outcome(lambda _: {"text": "é" * 10}, max_output=exactly)).status is Status.COMPLETED
    outcome = await way.outcome(lambda _: {"text": "é" * 10}, max_output=exactly - 1)
    assert outcome.code == "output_too_large"
    assert f"{exactly} bytes" in outcome.message
    assert "file" in outcome.message


async def test_a_refusal_is_reported_in_the_handlers_own_words(way: Way) -> None:
    """A TaskFailed keeps its message, its code and what it adds; it is no error to be logged."""
    refusal = TaskFailed("Closed on Sundays.", code="closed", output={"day": 7})
    outcome = await way.outcome(raising(refusal))
    assert outcome == Outcome.failed("closed", "Closed on Sundays.", {"day": 7})
    assert (await way.outcome(raising(TaskFailed("No.")))).code == "task_failed"
    assert way.errors == []


@pytest.mark.parametrize("more", [{"x": "y" * 200}, {"x": object()}, {"x": float("nan")}, endless(), deep()])
async def test_a_refusal_counts_for_more_than_what_it_adds(way: Way, more: dict[str, Any]) -> None:
    """What a refusal adds and cannot be sent is left out; its message and code arrive."""
    outcome = await way.outcome(raising(TaskFailed("No.", code="no", output=more)), max_output=100)
    assert outcome == Outcome.failed("no", "No.")


@pytest.mark.parametrize(
    "refusal",
    [
        TaskFailed("x" * 5000, code="y" * 5000),
        TaskFailed(Mute(), code=Mute()),  # type: ignore[arg-type]
        TaskFailed(None, code=7),  # type: ignore[arg-type]
        TaskFailed("caf\udce9", code="\ud800"),
        Careless(),
    ],
)
async def test_a_refusal_in_odd_words_is_still_a_refusal(way: Way, refusal: TaskFailed) -> None:
    """A message or code that is too long, no text or no Unicode never breaks the worker."""
    outcome = await way.outcome(raising(refusal))
    assert outcome.status is Status.FAILED
    assert len(outcome.code) <= MESSAGE
    (outcome.code + outcome.message).encode()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such row"),
        RuntimeError(),
        TimeoutError("the database is slow"),
        SystemExit(3),
        Broken("deep down"),
        GeneratorExit(),
        StopIteration(),
        ExceptionGroup("several", [ValueError("one"), TaskFailed("two")]),
        RecursionError("too deep"),
        MemoryError(),
        Mute(),
        ValueError("x" * 5000),
        ValueError("caf\udce9"),
    ],
    ids=repr,
)
async def test_whatever_escapes_a_handler_is_a_handler_error(way: Way, error: BaseException) -> None:
    """No exception passes the line where exceptions become outcomes; each is told once, for the log."""
    outcome = await way.outcome(raising(error))
    assert (outcome.status, outcome.code) == (Status.FAILED, "handler_error")
    assert outcome.message.startswith("The handler failed: ")
    assert "Traceback" not in outcome.message
    assert len(way.errors) == 1


async def test_an_exit_in_a_handler_ends_the_handler_only(way: Way) -> None:
    """sys.exit() in a handler is its failure, not the worker's end."""
    outcome = await way.outcome(lambda _: sys.exit("enough"))
    assert outcome.message == "The handler failed: SystemExit: enough"


async def test_an_invalid_value_inside_a_handler_is_its_own_error(way: Way) -> None:
    """A ValidationError of the handler's own doing is not blamed on the input."""
    outcome = await way.outcome(lambda _: Number.model_validate({}))
    assert outcome.code == "handler_error"


async def test_a_cancellation_of_the_handlers_own_is_a_handler_error(way: Way) -> None:
    """A CancelledError that nobody asked for ends the execution, not the worker."""
    outcome = await way.outcome(raising(asyncio.CancelledError("mine")))
    assert (outcome.code, len(way.errors)) == ("handler_error", 1)
    assert way.threads.stuck() == 0


async def test_a_keyboard_interrupt_is_passed_on() -> None:
    """Ctrl-C belongs to the person at the terminal, whatever is running."""
    way = Way("loop")
    with pytest.raises(KeyboardInterrupt):
        await way.outcome(raising(KeyboardInterrupt()))


# Time


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Give what a stubborn thread waits for; it is opened at the end, so that no thread outlives its test."""
    gate = threading.Event()
    yield gate
    gate.set()


def stubborn(way: Way, gate: threading.Event, started: Callable[[], None] = lambda: None) -> Handler:
    """Give a handler that does not end until the gate is opened, or it is cancelled."""

    @handler("some")
    async def on_loop(_: dict) -> None:  # type: ignore[type-arg]
        started()
        await anyio.sleep_forever()

    @handler("some")
    def in_thread(_: dict) -> None:  # type: ignore[type-arg]
        anyio.from_thread.run_sync(started)
        gate.wait()

    return on_loop if way.isolation == "loop" else in_thread


async def test_a_handler_that_does_not_end_in_time_is_a_timeout(way: Way, gate: threading.Event) -> None:
    """A handler has so many seconds; the message says how many."""
    outcome = await way.perform(stubborn(way, gate), timeout=0.05)
    assert outcome == Outcome.failed("timeout", "The handler did not end within 0.05 s and was stopped.")
    assert way.errors == []


async def test_no_time_at_all_is_a_timeout_that_leaves_nothing_behind(way: Way, gate: threading.Event) -> None:
    """A handler whose time is over before it began is never run, and no thread is counted late for it."""
    gate.set()
    outcome = await way.perform(stubborn(way, gate), timeout=0)
    assert outcome.code == "timeout"
    assert way.threads.stuck() == 0


async def test_the_callers_cancellation_is_passed_on(way: Way, gate: threading.Event) -> None:
    """A drain that ends a handler hears of it as a cancellation, not as an outcome."""
    started = anyio.Event()
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await way.perform(stubborn(way, gate, started.set)))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await started.wait()
        group.cancel_scope.cancel()
    assert (outcomes, way.errors) == ([], [])


async def test_a_cancellation_before_the_start_is_passed_on(way: Way, gate: threading.Event) -> None:
    """What is cancelled before it began leaves nothing behind either."""
    gate.set()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await way.perform(stubborn(way, gate))
    assert scope.cancelled_caught
    assert way.threads.stuck() == 0


async def test_an_outer_deadline_is_the_callers_own(way: Way, gate: threading.Event) -> None:
    """A deadline around the execution is not the handler's timeout."""
    with anyio.move_on_after(0.05) as scope:
        await way.perform(stubborn(way, gate), timeout=60)
    assert scope.cancelled_caught


# Messages


def no_more(value: Any) -> Any:
    """Refuse any value, repeating it, as careless authors do."""
    raise ValueError(f"{value} is not wanted, {value!r} neither")


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Nosy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    integer: int = 0
    number: Annotated[int, BeforeValidator(lambda value: int(str(value)))] = 0
    choice: Literal["red", "green"] = "red"
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    refused: Annotated[Any, BeforeValidator(no_more)] = None
    short: str = Field("", max_length=3, pattern="^[a-z]*$")
    when: datetime | None = None
    flags: list[bool] = []

    @field_validator("flags", mode="after")
    @classmethod
    def never(cls, value: Any) -> Any:
        """Refuse any, repeating it."""
        assert not value, f"flags {value} are not wanted"
        return value


class Gossip(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def tell(cls, value: Any) -> Any:
        """Refuse all, repeating it."""
        raise ValueError(f"all of this is wrong: {value}")


FIELDS = st.sampled_from(["integer", "number", "choice", "refused", "short", "when", "flags", "unknown"])
MARKER = st.text(st.sampled_from("⟦⟧◆◇\"'\\ é7"), min_size=5, max_size=30).map(lambda text: f"⟦{text}⟧")
SHAPE = st.sampled_from([lambda m: m, lambda m: [m], lambda m: {"x": m}, lambda m: [{"x": [m]}]])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(fields=st.lists(FIELDS, min_size=1, unique=True), marker=MARKER, shape=SHAPE)
@pytest.mark.parametrize("kind", [Nosy, Gossip])
async def test_no_value_of_an_input_is_repeated_in_the_message(
    kind: Any, fields: list[str], marker: str, shape: Callable[[str], Any]
) -> None:
    """An input may hold secrets; a message names fields and kinds, even where a validator's words repeat a value."""
    raw = {**dict.fromkeys(fields, shape(marker)), "pet": {"kind": marker}}
    outcome = await Way("loop").perform(Way("loop").make(lambda _: None, kind), raw)
    assert outcome.code == "invalid_input"
    assert marker not in outcome.message
    assert repr(marker)[1:-1] not in outcome.message


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "found nothing"),
        ("", "found an empty text"),
        ("x", "found text"),
        ([], "found a list"),
        ({}, "found an object"),
        (0.5, "found a number"),
    ],
)
async def test_a_message_says_what_kind_of_thing_was_found(value: Any, found: str) -> None:
    """A person learns what the job sent, without the value itself."""
    outcome = await Way("loop").perform(Way("loop").make(lambda _: None, Number), {"power": value})
    assert outcome.message.endswith(f"({found})")


async def test_a_missing_field_is_named() -> None:
    """Nothing was found, so nothing more is said."""
    outcome = await Way("loop").perform(Way("loop").make(lambda _: None, Number), {})
    assert outcome.message == "The input cannot be used: power: Field required"


async def test_a_short_value_is_hidden_where_a_validator_quotes_it() -> None:
    """A number of a few digits may be somebody's secret too; what cannot be told apart from a word is left."""
    outcome = await Way("loop").perform(Way("loop").make(lambda _: None, Nosy), {"refused": ["no", 12, None, 1234]})
    assert outcome.message == (
        "The input cannot be used: refused: Value error, […, …, None, …] is not wanted, […, …, None, …] neither "
        "(found a list)"
    )


async def test_many_problems_are_told_in_a_bounded_message() -> None:
    """Ten problems tell enough; the rest is counted, and no message is endless."""

    class Many(BaseModel):
        rows: list[int]

    made = Way("loop").make(lambda _: None, Many)
    outcome = await Way("loop").perform(made, {"rows": ["x"] * 12})
    assert outcome.message.count("rows.") == 10
    assert outcome.message.endswith("; and 2 more")
    strangers = await Way("loop").perform(Way("loop").make(lambda _: None, Nosy), {"k" * 5000: 1})
    assert len(strangers.message) <= MESSAGE + len("The input cannot be used: ")
    assert strangers.message.endswith("…")


# Alone


async def test_a_handler_run_alone_gives_the_same_outcome(way: Way) -> None:
    """Outside of a daemon a handler takes the same road."""
    assert await run_alone(way.make(lambda given: given), {"x": 1}) == Outcome.completed({"x": 1})
    assert (await run_alone(way.make(raising(ValueError("no"))), {})).code == "handler_error"

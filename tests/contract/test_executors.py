"""One suite for every way to run a handler: whatever a handler does becomes an Outcome, and nothing else happens."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from product_live_worker import Context, Handler, Retry, handler
from product_live_worker.executors.alone import MAX_OUTPUT, run_alone
from product_live_worker.executors.in_process import InProcess
from product_live_worker.executors.in_thread import InThread
from product_live_worker.executors.on_dask import OnDask
from product_live_worker.executors.on_loop import OnLoop
from product_live_worker.executors.perform import Executor, perform
from product_live_worker.executors.resources import Resources
from product_live_worker.model.execution import Outcome, Status
from product_live_worker.model.explain import MESSAGE
from support import conforming
from support.conforming import ERRORS, HANDLERS, REFUSALS, UNWRITABLE, WAYS, Number
from support.contexts import Lines
from support.dask_clusters import Heard, close_processes, cluster
from support.workers import until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Keep one loop for all of these tests, so that they share their processes."""
    return "asyncio"


@dataclass
class Way:
    """A way to run a handler, with the handlers of that kind."""

    isolation: str
    far: OnDask | None = None
    scheduler: str = ""
    processes: InProcess = field(default_factory=InProcess)
    resources: Resources = field(default_factory=Resources)
    errors: list[BaseException] = field(default_factory=list)
    log: Lines = field(default_factory=Lines)
    checkpoints: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.threads = InThread(self.resources)

    @property
    def executor(self) -> Executor:
        """What runs it."""
        executors = {"thread": self.threads, "process": self.processes, "dask": self.far}
        return executors.get(self.isolation) or OnLoop(self.resources)

    @property
    def is_apart(self) -> bool:
        """Whether the handler has a process of its own."""
        return self.isolation in ("process", "dask")

    def seconds(self, enough: float) -> float:
        """Give a timeout that is enough to begin in; on a cluster a process may have to be started first."""
        return 20 * enough if self.isolation == "dask" else enough

    async def close(self) -> None:
        """Let the processes of handlers end, as they do with the worker."""
        if self.isolation == "dask":
            await anyio.to_thread.run_sync(close_processes, self.scheduler)
        await self.processes.close()

    def handler(self, body: str) -> Handler:
        """Give the handler of this kind that does this."""
        return HANDLERS[self.isolation, body]

    async def perform(
        self,
        made: Handler,
        raw: Any = None,
        *,
        timeout: float = 60.0,
        max_output: int = MAX_OUTPUT,
        execution: str = "e1",
        **context: Any,
    ) -> Outcome:
        """Run it as the dispatcher does."""

        async def keep(checkpoint: dict[str, Any]) -> None:
            await anyio.lowlevel.checkpoint()
            self.checkpoints.append(checkpoint)

        outcome = await perform(
            {self.isolation: self.executor},
            made,
            {} if raw is None else raw,
            Context(
                execution_id=execution,
                task=made.name,
                deadline=datetime.now(UTC) + timedelta(seconds=timeout),
                log=self.log,
                verbs={"save_checkpoint": keep},
                **context,
            ),
            timeout=timeout,
            max_output=max_output,
            failed=self.errors.append,
        )
        assert json.loads(json.dumps(outcome.output, allow_nan=False)) == outcome.output
        assert len(outcome.message) <= MESSAGE + len("The input cannot be used: ")
        return outcome

    async def outcome(self, body: str, raw: Any = None, **options: Any) -> Outcome:
        """Run such a handler once; what it gives is JSON."""
        return await self.perform(self.handler(body), raw, **options)


@pytest.fixture(scope="module")
async def processes() -> AsyncIterator[InProcess]:
    """Keep the processes for the next test, as they are kept for the next execution."""
    processes = InProcess()
    yield processes
    await processes.close()


@pytest.fixture(scope="module")
async def far(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[OnDask, str]]:
    """Keep a Dask cluster, and the way to it."""
    with cluster(tmp_path_factory.mktemp("dask")) as running:
        far = OnDask(running.address, Heard())
        far.wanted.set()
        async with anyio.create_task_group() as life:
            life.start_soon(far.serve)
            await until(lambda: not far.trouble())
            yield far, running.address
            life.cancel_scope.cancel()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, processes: InProcess) -> Iterator[Way]:
    """Give each way to run a handler; what stays behind in a thread ends with the test."""
    conforming.GATE.clear()
    far, scheduler = request.getfixturevalue("far") if request.param == "dask" else (None, "")
    yield Way(request.param, far, scheduler, processes)
    conforming.GATE.set()


# Success


async def test_a_result_becomes_the_output(way: Way) -> None:
    """Input is read by the handler's model, and its result written by its model."""
    assert await way.outcome("power", {"power": 3, "eventCorrelationId": "c1"}) == Outcome.completed({"total": 8.0})
    assert way.errors == []


async def test_no_result_is_an_empty_output(way: Way) -> None:
    """A handler that returns nothing has succeeded."""
    assert await way.outcome("nothing") == Outcome.completed({})
    assert await way.outcome("nothing_declared") == Outcome.completed({})


async def test_a_megabyte_in_and_out_is_carried(way: Way) -> None:
    """Large inputs and outputs pass unchanged, up to the limit."""
    large = {"text": "x" * (MAX_OUTPUT - 100)}
    assert await way.outcome("echo", large) == Outcome.completed(large)


async def test_odd_json_is_carried(way: Way) -> None:
    """What Python can read of JSON comes through, large numbers and odd characters too."""
    odd = {"é ☂ \U0001f600": [10**400, -0.5, 1e308, "\x00\u2028", None, True, {"": []}]}
    assert await way.outcome("echo", odd) == Outcome.completed(odd)


async def test_a_handler_that_asks_for_its_context_gets_it(way: Way) -> None:
    """The context is passed by its name, with verbs that do what they say, in each way."""
    outcome = await way.outcome("lively", {"x": 1}, settings={"y": 2}, checkpoint={"step": 0})
    expected = {"execution": "e1", "late": False, "settings": {"y": 2}, "checkpoint": {"step": 0}}
    assert outcome == Outcome.completed(expected)
    assert way.log.said("hello") == [{"given": {"x": 1}}]
    assert way.checkpoints == [{"step": 1}]


async def test_each_kind_runs_in_its_place(way: Way) -> None:
    """What is `async` shares the loop's thread; what is not never blocks it; a process is another one."""
    outcome = await way.outcome("place")
    here = outcome.output["process"] == os.getpid()
    places = {"loop": (True, True), "thread": (True, False), "process": (False, True), "dask": (False, True)}
    assert (here, outcome.output["main"]) == places[way.isolation]


async def test_hundreds_run_at_once(way: Way) -> None:
    """Each of many gets its own result: 200 on the loop and in threads, a few where each has a process."""
    number = {"process": 16, "dask": 4}.get(way.isolation, 200)
    outcomes: dict[int, Outcome] = {}

    async def run(index: int) -> None:
        outcomes[index] = await way.outcome("brief", {"index": index}, execution=f"e{index}")

    async with anyio.create_task_group() as group:
        for index in range(number):
            group.start_soon(run, index)
    assert outcomes == {index: Outcome.completed({"index": index}) for index in range(number)}


# Failure, each with its code


async def test_an_input_that_does_not_fit_is_invalid_input_and_the_handler_is_not_run(way: Way) -> None:
    """A handler never sees what its model refuses; the message names the field and what was found."""
    outcome = await way.outcome("power", {"power": "x"})
    assert (outcome.status, outcome.code, way.errors) == (Status.FAILED, "invalid_input", [])
    assert outcome.message == (
        "The input cannot be used: power: Input should be a valid integer, unable to parse string as an integer "
        "(found text)"
    )


async def test_a_defect_in_the_inputs_model_is_a_handler_error(way: Way) -> None:
    """A validator that breaks is the handler's fault, not the input's; its traceback is for the log."""
    outcome = await way.outcome("defective")
    assert outcome == Outcome.failed("handler_error", "The handler failed to read its input: KeyError")
    assert ["KeyError" in repr(error) for error in way.errors] == [True]


@pytest.mark.parametrize("result", [{"total": "x"}, {}, [], "text", 7, None])
async def test_a_result_that_is_not_what_was_declared_is_invalid_output(way: Way, result: Any) -> None:
    """A result is held to its model."""
    outcome = await way.outcome("declared", {"result": result})
    assert (outcome.status, outcome.code) == (Status.FAILED, "invalid_output")


@pytest.mark.parametrize(("result", "named"), [([1], "list"), ("text", "str"), (7, "int"), (True, "bool")])
async def test_a_result_that_is_no_object_is_invalid_output(way: Way, result: Any, named: str) -> None:
    """Later tasks read an output by its keys, so it must have some; the message says what was found."""
    outcome = await way.outcome("result", {"result": result})
    assert outcome.code == "invalid_output"
    assert outcome.message.endswith(f"found {named}.")


@pytest.mark.parametrize("name", UNWRITABLE)
async def test_a_result_that_json_cannot_hold_is_invalid_output(way: Way, name: str) -> None:
    """Whatever cannot be sent is refused here, in words, and not in the middle of a report."""
    outcome = await way.outcome("unwritable", {"name": name})
    assert (outcome.status, outcome.code) == (Status.FAILED, "invalid_output")
    assert "cannot be written as JSON" in outcome.message


async def test_an_output_over_the_limit_is_refused_with_a_way_out(way: Way) -> None:
    """The limit is counted in bytes of JSON as it is sent; the message says how many, and what to do."""
    text = {"text": "é" * 10}
    exactly = len(json.dumps(text))
    assert (await way.outcome("echo", text, max_output=exactly)).status is Status.COMPLETED
    outcome = await way.outcome("echo", text, max_output=exactly - 1)
    assert outcome.code == "output_too_large"
    assert f"{exactly} bytes" in outcome.message
    assert "file" in outcome.message


async def test_a_refusal_is_reported_in_the_handlers_own_words(way: Way) -> None:
    """A TaskFailed keeps its message, its code and what it adds; it is no error to be logged."""
    outcome = await way.outcome("refusing", {"name": "closed"})
    assert outcome == Outcome.failed("closed", "Closed on Sundays.", {"day": 7})
    assert (await way.outcome("refusing", {"name": "plain"})).code == "task_failed"
    assert way.errors == []


@pytest.mark.parametrize("name", [name for name in REFUSALS if name.startswith("more")])
async def test_a_refusal_counts_for_more_than_what_it_adds(way: Way, name: str) -> None:
    """What a refusal adds and cannot be sent is left out; its message and code arrive."""
    assert await way.outcome("refusing", {"name": name}) == Outcome.failed("no", "No.")


@pytest.mark.parametrize("name", ["long", "mute", "no-text", "half-a-character", "careless"])
async def test_a_refusal_in_odd_words_is_still_a_refusal(way: Way, name: str) -> None:
    """A message or code that is too long, no text or no Unicode never breaks the worker."""
    outcome = await way.outcome("refusing", {"name": name})
    assert outcome.status is Status.FAILED
    assert len(outcome.code) <= MESSAGE
    (outcome.code + outcome.message).encode()


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "cancelled"])
async def test_whatever_escapes_a_handler_is_a_handler_error(way: Way, name: str) -> None:
    """No exception passes the line where exceptions become outcomes; each is told once, for the log."""
    outcome = await way.outcome("raising", {"name": name})
    assert (outcome.status, outcome.code) == (Status.FAILED, "handler_error")
    assert outcome.message.startswith("The handler failed: ")
    assert "Traceback" not in outcome.message
    assert len(way.errors) == 1


async def test_an_exit_in_a_handler_ends_the_handler_only(way: Way) -> None:
    """sys.exit() in a handler is its failure, not the end of the process that it runs in."""
    outcome = await way.outcome("raising", {"name": "exit-in-words"})
    assert outcome.message == "The handler failed: SystemExit: enough"


async def test_an_invalid_value_inside_a_handler_is_its_own_error(way: Way) -> None:
    """A ValidationError of the handler's own doing is not blamed on the input."""
    assert (await way.outcome("invalid_inside")).code == "handler_error"


async def test_a_cancellation_of_the_handlers_own_is_a_handler_error(way: Way) -> None:
    """A CancelledError that nobody asked for ends the execution, not the worker."""
    outcome = await way.outcome("raising", {"name": "cancelled"})
    assert (outcome.code, len(way.errors)) == ("handler_error", 1)
    assert way.threads.stuck() == 0


async def test_a_keyboard_interrupt_is_passed_on() -> None:
    """Ctrl-C belongs to the person at the terminal, whatever is running."""

    @handler("interrupted")
    async def interrupted(_: dict) -> None:  # type: ignore[type-arg]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await Way("loop").perform(interrupted)


# Retries


@pytest.mark.parametrize(
    ("error", "failures", "ends"),
    [
        ("os", 0, ("", 0)),
        ("os", 2, ("", 2)),
        ("os", 3, ("handler_error", 2)),
        ("value", 1, ("handler_error", 0)),
        ("refusal", 1, ("task_failed", 0)),
    ],
)
async def test_a_handler_is_tried_again_after_the_errors_that_it_names(
    way: Way, error: str, failures: int, ends: tuple[str, int]
) -> None:
    """So many times and no more, after no other error, and never after a refusal; each time is one line."""
    given = {"key": f"{way.isolation} {error} {failures} {uuid4()}", "error": error, "failures": failures}
    outcome = await way.outcome("shaky", given)
    code, lines = ends
    assert (outcome.code, outcome.output.get("tried")) == (code, None if code else failures + 1)
    said = way.log.said("the handler is tried again")
    assert [line["attempt"] for line in said] == list(range(1, lines + 1))
    assert len(way.errors) == (code == "handler_error")


async def test_no_retry_begins_after_the_deadline(way: Way) -> None:
    """Where the next attempt could not begin in time, the error itself is told, at once, and not a timeout."""
    made = replace(way.handler("shaky"), retry=Retry(attempts=3, on=OSError, wait=3600.0, longest_wait=3600.0))
    if way.is_apart:
        made = conforming.waiting_apart if way.isolation == "process" else conforming.waiting_far
    outcome = await way.perform(made, {"key": str(uuid4()), "error": "os", "failures": 1})
    assert outcome.message == "The handler failed: OSError: not yet"
    assert way.log.said("the handler is tried again") == []


# What is shared


async def test_resources_are_opened_once_for_all_executions_of_a_process(way: Way, tmp_path: Path) -> None:
    """The second execution finds what the first one has left in them, where it runs, and they are closed at the end."""
    notes = tmp_path / "notes"
    notes.touch()
    made = way.handler("sharing")
    way.processes = InProcess()
    async with way.resources:
        outcomes = [await way.perform(made, settings={"notes": str(notes)}) for _ in range(2)]
        assert notes.read_text().split() == ["opened"]
        await way.close()
    assert notes.read_text().split() == ["opened", "closed"]
    assert way.errors == []
    for number, outcome in enumerate(outcomes, 1):
        shelf, desk = outcome.output["shelf"], outcome.output["desk"]
        assert (shelf["lent"], desk["lent"]) == (number, number)
        assert (shelf["process"] == desk["process"] == os.getpid()) is not way.is_apart
        assert shelf["main"] is way.is_apart


async def test_a_resource_that_cannot_be_opened_is_a_failure_until_it_can(way: Way, tmp_path: Path) -> None:
    """The execution is FAILED in words, with the traceback for the log; the next one tries again."""
    notes = tmp_path / "notes"
    way.processes = InProcess()
    async with way.resources:
        for attempt in range(2):
            outcome = await way.perform(way.handler("sharing"), settings={"notes": str(notes)})
            why = "The handler's resource 'shelf' cannot be opened: ConnectionError: nobody is there"
            assert outcome == Outcome.failed("handler_error", why)
            assert len(way.errors) == attempt + 1
        notes.touch()
        outcome = await way.perform(way.handler("sharing"), settings={"notes": str(notes)})
        assert outcome.status is Status.COMPLETED
        await way.close()


async def test_what_is_no_context_manager_is_told(way: Way) -> None:
    """The author learns what was forgotten."""
    async with way.resources:
        outcome = await way.outcome("wanting")
    assert outcome.message == (
        "The handler's resource 'wrong' cannot be opened: TypeError: a resource is opened by a function under "
        "@asynccontextmanager or @contextmanager; found coroutine"
    )


async def test_settings_arrive_as_their_model(way: Way) -> None:
    """Also in another process, where a secret stays one."""
    own = way.handler("configured").read_settings({"password": "12345"})
    outcome = await way.outcome("configured", settings=own)
    assert outcome.output == {"name": "nobody", "letters": 5, "shown": "**********"}


# Time


async def test_a_handler_that_does_not_end_in_time_is_a_timeout(way: Way) -> None:
    """A handler has so many seconds; the message says how many."""
    seconds = way.seconds(0.05)
    outcome = await way.outcome("stubborn", timeout=seconds)
    assert outcome == Outcome.failed("timeout", f"The handler did not end within {seconds:g} s and was stopped.")
    assert way.errors == []


async def test_what_cannot_be_stopped_keeps_its_slot_and_nothing_else_does(way: Way) -> None:
    """A thread that ignores its deadline is counted until it ends; on the loop and in a process, the slot is free."""
    outcome = await way.outcome("stubborn", timeout=0.3)
    stuck = int(way.isolation == "thread" and bool(way.log.said("started")))
    assert (outcome.code, way.executor.overdue("stubborn")) == ("timeout", stuck)
    conforming.GATE.set()
    await until(lambda: way.executor.overdue("stubborn") == 0)


async def test_no_time_at_all_is_a_timeout_that_leaves_nothing_behind(way: Way) -> None:
    """A handler whose time is over before it began leaves no thread that is counted late."""
    conforming.GATE.set()
    outcome = await way.outcome("stubborn", timeout=0)
    assert outcome.code == "timeout"
    assert way.threads.stuck() == 0


async def test_the_callers_cancellation_is_passed_on(way: Way) -> None:
    """A drain that ends a handler hears of it as a cancellation, not as an outcome."""
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await way.outcome("stubborn"))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: bool(way.log.said("started")))
        group.cancel_scope.cancel()
    assert (outcomes, way.errors) == ([], [])


async def test_a_cancellation_before_the_start_is_passed_on(way: Way) -> None:
    """What is cancelled before it began leaves nothing behind either."""
    conforming.GATE.set()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await way.outcome("stubborn")
    assert scope.cancelled_caught
    assert way.threads.stuck() == 0


async def test_an_outer_deadline_is_the_callers_own(way: Way) -> None:
    """A deadline around the execution is not the handler's timeout."""
    with anyio.move_on_after(0.05) as scope:
        await way.outcome("stubborn")
    assert scope.cancelled_caught


# Alone


async def test_a_handler_run_alone_gives_the_same_outcome(way: Way) -> None:
    """Outside of a daemon a handler takes the same road."""
    assert await run_alone(way.handler("echo"), {"x": 1}) == Outcome.completed({"x": 1})
    assert (await run_alone(way.handler("raising"), {"name": "value"})).code == "handler_error"


# Messages


def reading(kind: Any) -> Handler:
    """Give a handler with such an input."""

    async def read(input: Any) -> None:
        """Do nothing with it."""

    read.__annotations__ = {"input": kind}
    return handler("some")(read)


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
    outcome = await Way("loop").perform(reading(kind), raw)
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
    outcome = await Way("loop").perform(reading(Number), {"power": value})
    assert outcome.message.endswith(f"({found})")


async def test_a_missing_field_is_named() -> None:
    """Nothing was found, so nothing more is said."""
    outcome = await Way("loop").perform(reading(Number), {})
    assert outcome.message == "The input cannot be used: power: Field required"


async def test_a_short_value_is_hidden_where_a_validator_quotes_it() -> None:
    """A number of a few digits may be somebody's secret too; what cannot be told apart from a word is left."""
    outcome = await Way("loop").perform(reading(Nosy), {"refused": ["no", 12, None, 1234]})
    assert outcome.message == (
        "The input cannot be used: refused: […, …, None, …] is not wanted, […, …, None, …] neither (found a list)"
    )


async def test_many_problems_are_told_in_a_bounded_message() -> None:
    """Ten problems tell enough; the rest is counted, and no message is endless."""

    class Many(BaseModel):
        rows: list[int]

    made = reading(Many)
    outcome = await Way("loop").perform(made, {"rows": ["x"] * 12})
    assert outcome.message.count("rows.") == 10
    assert outcome.message.endswith("; and 2 more")
    strangers = await Way("loop").perform(reading(Nosy), {"k" * 5000: 1})
    assert len(strangers.message) <= MESSAGE + len("The input cannot be used: ")
    assert strangers.message.endswith("…")

"""The main path: claim, run, report, by the real daemon against the sandbox over a real connection."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from pydantic import BaseModel

from product_live_handlers.power import power
from product_live_worker import Context, TaskFailed, handler
from product_live_worker.model.execution import State
from product_live_worker.telemetry.events import ExecutionReported, HandlerFailed, TaskPolled
from support.workers import new_world, running_worker, until

pytestmark = pytest.mark.anyio


class Number(BaseModel):
    number: int


@handler("double")
def double(input: Number) -> Number:
    """Double a number, in a thread."""
    return Number(number=2 * input.number)


@handler("trouble", timeout=0.2, concurrency=4)
async def trouble(input: dict) -> dict:  # type: ignore[type-arg]
    """Fail in the way that the input asks for."""
    match input["kind"]:
        case "refusal":
            raise TaskFailed("the shelf is empty", code="empty_shelf", output={"shelf": 7})
        case "error":
            raise ZeroDivisionError("by zero")
        case "late":
            await anyio.sleep_forever()
        case "large":
            return {"text": "x" * 2_000_000}
        case "nan":
            return {"value": float("nan")}
    return {}


async def test_every_execution_ends_with_its_own_output(tmp_path: Path) -> None:
    """Twenty executions of two tasks end COMPLETED with the right outputs, and no request is answered 429."""
    async with running_worker([power, double], tmp_path) as worker:
        powers = worker.submit("power", *({"power": n} for n in range(10)))
        doubles = worker.submit("double", *({"number": n} for n in range(10)))
        await until(lambda: all(e.status == "COMPLETED" for e in powers + doubles))
    assert [e.output for e in powers] == [{"result": 2**n} for n in range(10)]
    assert [e.output for e in doubles] == [{"number": 2 * n} for n in range(10)]
    assert worker.world.limiter.refused == 0


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ({"kind": "refusal"}, "empty_shelf", "the shelf is empty"),
        ({"kind": "error"}, "handler_error", "ZeroDivisionError: by zero"),
        ({"kind": "late"}, "timeout", "0.2 s"),
        ({"kind": "large"}, "output_too_large", "execution.max_output"),
        ({"kind": "nan"}, "invalid_output", "JSON"),
    ],
)
async def test_each_way_to_fail_is_reported_with_its_code(
    tmp_path: Path, given: dict[str, str], code: str, said: str
) -> None:
    """A refusal, an exception, a timeout and an unusable result end FAILED with a code and a sentence, no traceback."""
    async with running_worker([trouble], tmp_path) as worker:
        (execution,) = await worker.run("trouble", given)
    assert execution.status == "FAILED"
    assert execution.output["code"] == code
    assert said in execution.output["message"]
    assert "Traceback" not in str(execution.output)


@pytest.mark.parametrize("given", [{}, {"power": "x"}, {"power": None}, {"power": ""}, {"power": 1e9}])
async def test_power_refuses_what_it_cannot_compute(tmp_path: Path, given: dict[str, object]) -> None:
    """An input without a sensible power ends FAILED with a message that names the field."""
    async with running_worker([power], tmp_path) as worker:
        (execution,) = await worker.run("power", given)
    assert execution.status == "FAILED"
    assert "power" in execution.output["message"]


async def test_platform_keys_are_ignored(tmp_path: Path) -> None:
    """Keys that the platform adds to an input do not disturb the handler."""
    async with running_worker([power], tmp_path) as worker:
        (execution,) = await worker.run("power", {"power": "3", "context": {"jobId": "1"}, "eventCorrelationId": "c"})
    assert execution.output == {"result": 8}


async def test_a_task_runs_as_many_at_once_as_its_concurrency_and_no_more(tmp_path: Path) -> None:
    """With a concurrency of 2, two executions are held and the third is left to the platform until one has ended."""
    release, most, now = anyio.Event(), 0, 0

    @handler("slow", concurrency=2)
    async def slow(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        nonlocal most, now
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1

    async with running_worker([slow], tmp_path, budget={"requests_per_minute": 0}) as worker:
        executions = worker.submit("slow", {}, {}, {}, {})
        await until(lambda: now == 2)
        polls = len(worker.heard(TaskPolled))
        await anyio.sleep(0.3)
        assert len(worker.heard(TaskPolled)) == polls
        release.set()
        await until(lambda: all(e.status == "COMPLETED" for e in executions))
    assert most == 2


async def test_only_completed_and_failed_are_ever_sent(tmp_path: Path) -> None:
    """No execution gets any PATCH but its one final one."""
    async with running_worker([trouble, power], tmp_path) as worker:
        await worker.run("power", {"power": 1})
        await worker.run("trouble", {"kind": "error"}, {"kind": "late"}, {"kind": "none"})
    patches = [[patch.status for patch in e.patches] for e in worker.world.executions.values()]
    assert patches == [["COMPLETED"], ["FAILED"], ["FAILED"], ["COMPLETED"]]


async def test_the_context_says_what_is_being_run(tmp_path: Path) -> None:
    """A handler that asks for it learns its execution, task, deadline and settings, in a thread as on the loop."""
    seen: list[Context] = []

    @handler("curious", timeout=60)
    def curious(input: dict, context: Context) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        context.log.info("looking around")
        seen.append(context)

    section = {"curious": {"settings": {"shelf": 7}, "timeout": 30}}
    async with running_worker([curious], tmp_path, tasks=section) as worker:
        (execution,) = await worker.run("curious", {})
    (context,) = seen
    assert (context.execution_id, context.task, context.settings) == (execution.id, "curious", {"shelf": 7})
    assert 20 < context.remaining() <= 30


async def test_an_outcome_is_in_the_journal_before_its_report(tmp_path: Path) -> None:
    """When the platform first hears of an outcome, the row is SETTLED already."""
    states: list[State] = []
    async with running_worker([power], tmp_path) as worker:
        update = worker.world.update

        def watched(execution_id: str, body: dict[str, object], now: float) -> object:
            row = worker.daemon.journal.get(execution_id)
            states.append(row.state if row else State.REPORTED)
            return update(execution_id, body, now)

        worker.world.update = watched  # type: ignore[method-assign, assignment]  # the server's side is watched
        await worker.run("power", {"power": 2})
    assert states == [State.SETTLED]


async def test_a_handlers_traceback_stays_here(tmp_path: Path) -> None:
    """An exception is told to the log with its traceback, and to the platform in one sentence."""
    async with running_worker([trouble], tmp_path) as worker:
        await worker.run("trouble", {"kind": "error"})
    (failed,) = worker.heard(HandlerFailed)
    assert isinstance(failed.error, ZeroDivisionError)
    assert failed.error.__traceback__ is not None


async def test_one_canonical_event_tells_an_executions_whole_story(tmp_path: Path) -> None:
    """Each execution ends in one event with its status, its times and its correlation id."""
    async with running_worker([power], tmp_path) as worker:
        (execution,) = await worker.run("power", {"power": 2, "eventCorrelationId": "job-7"})
        await until(lambda: bool(worker.heard(ExecutionReported)))
    (reported,) = worker.heard(ExecutionReported)
    assert (reported.execution, reported.correlation, reported.status) == (execution.id, "job-7", "COMPLETED")
    assert 0 <= reported.ran_seconds <= reported.claim_to_report_seconds


async def test_a_busy_thread_past_its_deadline_keeps_its_slot(tmp_path: Path) -> None:
    """A thread that ignores its deadline is reported as late, counted, and no execution is claimed in its place."""
    release = __import__("threading").Event()

    @handler("stubborn", timeout=0.1)
    def stubborn(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        release.wait(15)

    async with running_worker([stubborn], tmp_path, budget={"requests_per_minute": 0}) as worker:
        first, second = worker.submit("stubborn", {}, {})
        await until(lambda: first.status == "FAILED")
        assert worker.daemon.threads.stuck() == 1
        assert second.status == "SCHEDULED"
        assert (await worker.get("/status")).json()["tasks"][0]["overdue_threads"] == 1
        release.set()
        await until(lambda: second.status == "COMPLETED")
        assert worker.daemon.threads.stuck() == 0
    assert first.output["code"] == "timeout"


async def test_with_explicit_handlers_a_key_alone_is_not_enough(tmp_path: Path) -> None:
    """A handler declared explicit serves no task but one whose section names it."""

    @handler("dangerous", explicit=True)
    async def dangerous(input: dict) -> None:  # type: ignore[type-arg]  # noqa: ARG001
        return None

    world = new_world("dangerous", "power")
    async with running_worker([dangerous, power], tmp_path, world=world) as worker:
        await worker.run("power", {"power": 1})
        assert list(worker.daemon.catalogue.tasks) == ["power"]
    section = {"dangerous": {"handler": "dangerous"}}
    async with running_worker([dangerous, power], tmp_path / "2", world=world, tasks=section) as worker:
        (execution,) = await worker.run("dangerous", {})
        assert execution.status == "COMPLETED"


async def test_arrivals_never_exceed_the_limit_in_any_window(tmp_path: Path) -> None:
    """A flood of executions is served at the limit, and the server never sees more than it allows."""
    world = new_world("power", limit=20, window=0.5)
    budget = {"requests_per_minute": 20, "window": 0.5}
    async with running_worker([power], tmp_path, world=world, budget=budget) as worker:
        started = time.monotonic()
        await worker.run("power", *({"power": 1} for _ in range(40)))
        took = time.monotonic() - started
    assert world.limiter.refused == 0
    assert world.limiter.largest_window <= 20
    # 40 executions are 80 requests: four windows of 20, the first of them at once.
    assert took >= 3 * 0.5

"""The test kit takes a handler by the road that it takes in production."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from product_live_worker import Context, File, TaskFailed, handler
from product_live_worker.model.errors import SettingsError
from product_live_worker.model.execution import idempotency_key
from product_live_worker.testkit import Line, Outcome, Report, Sandbox, Status, Trial, run


class Input(BaseModel):
    power: int


@handler("echo")
async def echo(input: dict) -> dict:  # type: ignore[type-arg]
    """Give back what came."""
    return input


@handler("where", timeout=5)
def where(input: Input, context: Context) -> dict[str, Any]:
    """Say where this ran, and with what."""
    context.log.info("running", power=input.power)
    return {
        "thread": threading.current_thread() is not threading.main_thread(),
        "task": context.task,
        "settings": dict(context.settings),
        "in_time": 0 < context.remaining() <= 5,
    }


def test_a_handler_is_run_by_its_real_executor_with_its_context() -> None:
    """A `def` handler runs in a thread, with its deadline, its log and the section's settings."""
    outcome = run(where, {"power": 3}, settings={"factor": 2})
    assert outcome.output == {"thread": True, "task": "where", "settings": {"factor": 2}, "in_time": True}


def test_input_and_output_pass_through_json() -> None:
    """What JSON would change on the way is changed in the test as well."""
    assert run(echo, {1: (2, 3), "é": None}) == Outcome(Status.COMPLETED, {"1": [2, 3], "é": None})


def test_an_input_that_is_no_json_cannot_be_sent() -> None:
    """The platform could never send it, so the test may not."""
    with pytest.raises(TypeError):
        run(echo, {"value": object()})


def test_failures_are_outcomes_not_exceptions() -> None:
    """A test sees what would be reported."""

    @handler("refuse")
    def refuse(_: Input) -> None:
        raise TaskFailed("No.", code="no")

    assert run(refuse, {"power": 3}) == Outcome.failed("no", "No.")
    assert run(refuse, {"power": "x"}).code == "invalid_input"


def test_a_handlers_timeout_holds_in_a_test(request: pytest.FixtureRequest) -> None:
    """A handler that does not end is stopped as it would be in production."""
    gate = threading.Event()
    request.addfinalizer(gate.set)

    @handler("slow", timeout=0.05)
    def slow(_: dict) -> None:  # type: ignore[type-arg]
        gate.wait()

    assert run(slow, {}).code == "timeout"


def test_an_output_over_the_default_limit_is_refused() -> None:
    """The limit of production holds in a test."""
    assert run(echo, {"text": "x" * 1_000_000}).code == "output_too_large"


@handler("export", on_crash="rerun", timeout=60)
async def export(_: dict, context: Context) -> dict:  # type: ignore[type-arg]
    """Start something elsewhere once, and wait for it."""
    begun = (context.checkpoint or {}).get("run")
    if begun is None:
        await context.save_checkpoint({"run": "r1"})
        context.log.info("started", run="r1")
        await anyio.sleep_forever()
    return {"run": begun, "key": context.idempotency_key}


@handler("wait")
def wait(_: dict, context: Context) -> None:  # type: ignore[type-arg]
    """Save a checkpoint from a thread, and wait for the deadline."""
    context.save_checkpoint({"run": "r2"})
    GATE.wait()


GATE = threading.Event()


def test_a_trial_is_cancelled_when_the_test_says_and_resumes_with_its_checkpoint(product_live_trial: Trial) -> None:
    """A drain, or a crash, in the middle of the work; the next run gets what was saved."""
    product_live_trial.cancel_when = lambda trial: bool(trial.lines)
    assert product_live_trial.run(export, {}).code == "cancelled"
    assert product_live_trial.checkpoints == [{"run": "r1"}]
    assert product_live_trial.lines == [Line("info", "started", {"run": "r1"})]
    product_live_trial.cancel_when = None
    outcome = product_live_trial.run(export, {})
    assert outcome == Outcome.completed({"run": "r1", "key": idempotency_key("export", {})})


def test_a_thread_saves_its_checkpoints_too(request: pytest.FixtureRequest) -> None:
    """A cancelled trial ends although the thread goes on, as a drain does."""
    request.addfinalizer(GATE.set)
    trial = Trial(cancel_when=lambda trial: bool(trial.checkpoints))
    assert (trial.run(wait, {}).code, trial.checkpoint) == ("cancelled", {"run": "r2"})


def test_a_trials_deadline_is_the_handlers_own_unless_it_is_given() -> None:
    """A test need not wait for ten minutes to see a timeout; the context says the same deadline."""
    assert Trial(timeout=0.05).run(export, {}).code == "timeout"
    assert Trial(timeout=3).run(where, {"power": 3}).output["in_time"] is True


def test_a_trials_outcome_is_not_lost_to_a_cancellation_that_comes_too_late() -> None:
    """What ended before it was cancelled has ended."""
    trial = Trial(cancel_when=lambda _: False, checkpoint={"run": "r0"})
    assert trial.run(export, {}).output["run"] == "r0"


def test_all_levels_of_a_handlers_log_are_kept() -> None:
    """In their order."""

    @handler("say")
    def say(_: dict, context: Context) -> None:  # type: ignore[type-arg]
        for level in ("debug", "info", "warning", "error"):
            getattr(context.log, level)(f"a {level}", n=1)

    trial = Trial()
    trial.run(say, {})
    assert [line.level for line in trial.lines] == ["debug", "info", "warning", "error"]


def test_the_sandbox_fixture_serves_handlers_by_a_real_worker(sandbox: Sandbox) -> None:
    """With their settings; a refusal is an outcome, and many executions are."""
    sandbox.serve(where, echo, settings={"where": {"factor": 2}})
    assert sandbox.run(where, {"power": 3}).output["settings"] == {"factor": 2}
    assert sandbox.run("where", {"power": "x"}).code == "invalid_input"
    submitted = [sandbox.submit(echo, {"n": n}) for n in range(60)]
    assert [sandbox.outcome(one).output["n"] for one in submitted] == list(range(60))


def test_the_sandbox_fixture_serves_what_is_installed_if_not_told_otherwise(sandbox: Sandbox) -> None:
    """The worker starts with the first execution."""
    assert sandbox.run("power", {"power": 10}).output == {"result": 1024}
    assert sandbox.url.startswith("http://127.0.0.1:")
    with pytest.raises(RuntimeError, match="runs already"):
        sandbox.serve(where)


def test_mistakes_of_a_test_are_told_with_what_there_is(sandbox: Sandbox) -> None:
    """An unknown task, and settings for nobody."""
    with pytest.raises(ValueError, match="served are where"):
        sandbox.serve(where, settings={"echo": {}})
    sandbox.serve(where)
    with pytest.raises(ValueError, match="served are where"):
        sandbox.submit("echo", {})
    with pytest.raises(TypeError):
        sandbox.submit(where, {"power": object()})


def test_an_outcome_that_does_not_come_is_told_with_what_the_worker_says(
    sandbox: Sandbox, request: pytest.FixtureRequest
) -> None:
    """A test that waits in vain says which execution, and how it stands."""
    gate = threading.Event()
    request.addfinalizer(gate.set)

    @handler("slow")
    def slow(_: dict) -> None:  # type: ignore[type-arg]
        gate.wait()

    sandbox.serve(slow)
    identifier = sandbox.submit(slow, {})
    with pytest.raises(TimeoutError, match=f"{identifier} of 'slow' is"):
        sandbox.outcome(identifier, timeout=0.05)


def test_the_pytest_plugin_is_installed_and_imports_nothing_of_the_worker() -> None:
    """Pytest loads it at each start, in projects that have nothing to do with handlers too."""
    (plugin,) = [found for found in entry_points(group="pytest11") if found.name == "product_live_worker"]
    code = f"import sys, {plugin.value}; sys.exit(any(name.startswith('product_live_worker') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 (our own code)


class Table(BaseModel):
    file: File


@handler("copy")
async def copy(input: Table, context: Context) -> dict[str, Any]:
    """Give a file back under another name."""
    path = await context.files.download(input.file, max_size=10, sha256=context.settings.get("sha256"))
    await context.report(f"{path.name} is copied", severity="warning")
    return {"file": await context.files.upload(path, filename="copy.txt"), "directory": str(path.parent)}


@pytest.mark.parametrize("known", ["0" * 64, "https://h.test/a.txt", "a.txt"])
def test_files_of_a_trial_are_found_by_id_address_or_name(known: str) -> None:
    """And what is uploaded can be downloaded in the next run."""
    trial = Trial(files={known: b"hello"})
    wired = {"id": "0" * 64, "url": "https://h.test/a.txt", "filename": "a.txt"}
    first = trial.run(copy, {"file": wired})
    second = trial.run(copy, {"file": first.output["file"]})
    assert [(uploaded.filename, uploaded.content) for uploaded in trial.uploads] == [("copy.txt", b"hello")] * 2
    assert trial.uploads[0].file == File.model_validate(second.output["file"])
    assert trial.reports == [Report("warning", "a.txt is copied"), Report("warning", "copy.txt is copied")]
    assert not Path(first.output["directory"]).exists()


def test_files_of_a_trial_fail_as_real_ones_do() -> None:
    """Not there, too large, damaged: the codes are those of production."""
    wired = {"file": "https://h.test/a.txt"}
    assert Trial().run(copy, wired).code == "file_unavailable"
    assert Trial(files={"https://h.test/a.txt": b"x" * 11}).run(copy, wired).code == "file_too_large"
    damaged = Trial(files={"https://h.test/a.txt": b"x"}, settings={"sha256": "00"})
    assert damaged.run(copy, wired).code == "file_damaged"


def test_the_sandbox_has_files_too(sandbox: Sandbox) -> None:
    """They are put there as a task before would have, and looked at afterwards; reports are no obstacle."""
    sandbox.serve(copy)
    outcome = sandbox.run(copy, {"file": sandbox.upload("a.txt", b"hello")["id"]})
    assert sandbox.content(outcome.output["file"]) == b"hello"
    with pytest.raises(LookupError, match="no file 'f1'"):
        sandbox.content("f1")


class Limits(BaseModel):
    most: int


@handler("limited", settings=Limits)
async def limited(_: dict) -> dict:  # type: ignore[type-arg]
    """Do nothing."""
    return {}


def test_settings_that_a_handler_cannot_use_are_told_plainly() -> None:
    """As one error that names the setting, not as a group of errors within errors."""
    with pytest.raises(SettingsError, match=r"^most: Field required$"):
        Trial().run(limited, {})
    assert Trial(settings={"most": 1}).run(limited, {}).status == "COMPLETED"

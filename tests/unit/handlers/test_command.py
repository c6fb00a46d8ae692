"""The handler `command`, with real programs."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from product_live_handlers.command import MOST_LINES, command
from product_live_worker.model.errors import SettingsError
from product_live_worker.testkit import Outcome, Status, Trial

ECHO = "import json, sys; json.dump(json.load(sys.stdin), sys.stdout)"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups are of POSIX")


def settings(code: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """Give the settings of a task that runs a program in Python."""
    return {"command": [sys.executable, "-c", code, *arguments], **more}


def run(code: str, input: Any = None, **more: Any) -> Outcome:
    """Run a program in Python as the task would."""
    return Trial(settings=settings(code, **more)).run(command, input or {})


def test_a_program_gets_the_input_and_gives_the_output_as_json() -> None:
    """Whatever is in it: a megabyte, other alphabets, the platform's own keys."""
    given = {"text": "é€😀" * 10, "many": [0.5] * 1000, "eventCorrelationId": "c1", "none": None}
    assert run(ECHO, given) == Outcome.completed(given)
    large = {"text": "x" * 900_000}
    assert run(ECHO, large) == Outcome.completed(large)


def test_a_program_may_leave_its_input_unread_and_say_nothing() -> None:
    """An empty stdout is an empty output, however much there was to read."""
    assert run("pass", {"text": "x" * 900_000}) == Outcome.completed({})


def test_another_exit_code_than_0_is_a_failure_with_the_last_line_of_stderr() -> None:
    """A person reads what the program said last; all that it said is in the log, line by line."""
    trial = Trial(settings=settings("import sys; print('one\\n\\ntwo', file=sys.stderr); print('{}'); sys.exit(3)"))
    outcome = trial.run(command, {})
    assert outcome.output == {
        "code": "command_failed",
        "message": f"{Path(sys.executable).name} ended with exit code 3: two",
        "exit_code": 3,
        "stderr": "two",
    }
    assert [(line.event, line.fields["line"]) for line in trial.lines] == [("stderr", "one"), ("stderr", "two")]


def test_a_program_that_a_signal_ends_is_a_failure_that_names_it() -> None:
    """A crash in C, or the kernel's killer."""
    outcome = run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (outcome.code, outcome.output["exit_code"]) == ("command_failed", -11)
    assert "SIGSEGV" in outcome.message


@pytest.mark.parametrize(
    ("stdout", "said"),
    [("hello", "no JSON"), ("[1]", "found list"), ("3", "found int"), ('{"x": NaN}', "no JSON"), ("\\xff", "no JSON")],
)
def test_a_stdout_that_is_no_object_is_no_success(stdout: str, said: str) -> None:
    """Later tasks find named values or nothing."""
    outcome = run(f"import os; os.write(1, b'{stdout}')")
    assert (outcome.code, said in outcome.message) == ("invalid_output", True)


def test_a_program_that_says_too_much_is_ended() -> None:
    """It writes for ever; the worker does not read for ever."""
    outcome = run("while True: print('x' * 10000)", max_output=100_000)
    assert (outcome.code, "100000 bytes" in outcome.message) == ("output_too_large", True)


def test_a_program_that_complains_for_ever_is_logged_for_a_while() -> None:
    """Neither many lines nor a line without an end fill the log."""
    code = f"import sys; sys.stderr.write('x\\n' * {MOST_LINES + 500} + 'y' * 3000000)"
    trial = Trial(settings=settings(code))
    assert trial.run(command, {}).status is Status.COMPLETED
    assert len(trial.lines) == MOST_LINES + 1
    assert max(len(line.fields.get("line", "")) for line in trial.lines) == 1


def test_the_environment_is_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it needs to run, what the settings add, which execution it is; never the worker's own secrets."""
    monkeypatch.setenv("PLW_API__KEY", "very-secret")
    monkeypatch.setenv("SOMETHING_ELSE", "x")
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    trial = Trial(settings=settings(code, env={"REGION": "north"}), execution_id="e77")
    found = trial.run(command, {"a": 1}).output
    assert found["PATH"] == os.environ["PATH"]
    assert found["REGION"] == "north"
    assert {name: value for name, value in found.items() if name.startswith("PRODUCT_LIVE_")} == {
        "PRODUCT_LIVE_EXECUTION_ID": "e77",
        "PRODUCT_LIVE_TASK": "command",
        "PRODUCT_LIVE_DEADLINE": found["PRODUCT_LIVE_DEADLINE"],
        "PRODUCT_LIVE_IDEMPOTENCY_KEY": found["PRODUCT_LIVE_IDEMPOTENCY_KEY"],
    }
    assert len(found["PRODUCT_LIVE_IDEMPOTENCY_KEY"]) == 32
    assert not found.keys() & {"PLW_API__KEY", "SOMETHING_ELSE"}


def test_it_runs_in_the_folder_of_the_settings(tmp_path: Path) -> None:
    """With the arguments of the settings, which no shell reads."""
    code = "import os, sys, json; print(json.dumps({'cwd': os.getcwd(), 'arguments': sys.argv[1:]}))"
    trial = Trial(settings=settings(code, "$HOME;*", cwd=str(tmp_path)))
    assert trial.run(command, {}).output == {"cwd": str(tmp_path.resolve()), "arguments": ["$HOME;*"]}


HOLD = """
import signal, socket, subprocess, sys, time
{ignore}
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, "-c", {code!r}, sys.argv[1], "child"])
held = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
held.sendall(b"x")
{then}
"""
IGNORE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


class Holders:
    """Counts the processes that hold a connection, and sees them die: the kernel closes what they held."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = str(self._listening.getsockname()[1])
        self.held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            connection.recv(1)
            self.held.append(connection)

    def wait_for_their_end(self) -> None:
        """Return once each has gone; the test's own timeout ends a wait that is in vain."""
        for connection in self.held:
            # A process that dies with something unread resets its connection.
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


@pytest.mark.parametrize("ignore", ["", IGNORE])
def test_a_cancelled_program_dies_with_all_that_it_started(ignore: str) -> None:
    """Its whole process group, whether or not it listens to SIGTERM."""
    holders = Holders()
    child = HOLD.format(ignore=ignore, code="", then="time.sleep(600)")
    code = HOLD.format(ignore=ignore, code=child, then="time.sleep(600)")
    trial = Trial(settings=settings(code, holders.port), cancel_when=lambda _: len(holders.held) == 2)
    assert trial.run(command, {}).code == "cancelled"
    holders.wait_for_their_end()


def test_what_a_program_leaves_behind_dies_with_it() -> None:
    """A child that holds the program's stdout neither delays the outcome nor lives on."""
    holders = Holders()
    child = HOLD.format(ignore="", code="", then="time.sleep(600)")
    # The child has connected before the program ends.
    then = "held.recv(1); print('{\"done\": true}')"
    code = HOLD.format(ignore="", code=child, then=then)
    threading.Thread(target=_release_when_two, args=(holders,), daemon=True).start()
    assert Trial(settings=settings(code, holders.port)).run(command, {}) == Outcome.completed({"done": True})
    holders.wait_for_their_end()


def _release_when_two(holders: Holders) -> None:
    gate = threading.Event()
    while len(holders.held) < 2:
        gate.wait(0.01)
    for connection in holders.held:
        connection.sendall(b"x")


def test_a_late_program_is_ended() -> None:
    """The deadline of the task is that of the program."""
    trial = Trial(settings=settings("import time; time.sleep(600)"), timeout=0.2)
    assert trial.run(command, {}).code == "timeout"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "command: Field required"),
        ({"command": []}, "at least 1 item"),
        ({"command": "rm -rf /"}, "valid list"),
        ({"command": ["./here"]}, "absolute path"),
        ({"command": [""]}, "absolute path"),
        ({"command": ["true"], "shell": True}, "shell"),
        ({"command": ["true"], "env": {"PASSWORD": ["hush-hush"]}}, "env.PASSWORD"),
    ],
)
def test_settings_that_cannot_be_used_are_told(given: dict[str, Any], said: str) -> None:
    """Each with its name and what is allowed, none with its value."""
    with pytest.raises(SettingsError) as refused:
        Trial(settings=given).run(command, {"command": ["touch", "/tmp/owned"]})  # noqa: S108 (nobody touches it)
    assert (said in str(refused.value), "hush" in str(refused.value)) == (True, False)


@pytest.mark.parametrize("program", ["/no/such/program", "no-such-program-anywhere", "/"])
def test_a_program_that_cannot_be_started_is_named(program: str) -> None:
    """With what the system says."""
    outcome = Trial(settings={"command": [program]}).run(command, {})
    assert (outcome.code, f"{program} cannot be started" in outcome.message) == ("command_failed", True)


def test_nothing_of_the_input_reaches_the_command_line() -> None:
    """The input is data, whatever its names are."""
    code = "import sys, json; print(json.dumps({'arguments': sys.argv[1:]}))"
    given = {"command": ["x"], "args": ["y"], "argv": "z", "settings": {"command": ["w"]}}
    assert json.dumps(run(code, given).output) == '{"arguments": []}'

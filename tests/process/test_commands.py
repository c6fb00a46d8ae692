"""The other commands: what they print, how they end, what they say to nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import anyio.to_thread
import pytest

from product_live_worker import __version__, sandbox
from support.plugins import install
from support.processes import command
from support.workers import add_task, new_world

EX_CONFIG = 78
KEY = {"PLW_API__KEY": "sandbox-key"}


def test_version(tmp_path: Path) -> None:
    """`version` prints the version and nothing else."""
    assert command("version", cwd=tmp_path).stdout == f"{__version__}\n"


def test_handlers_lists_what_is_installed(tmp_path: Path) -> None:
    """`handlers` names the bundled handler; with --json it gives its schemas."""
    assert "power" in command("handlers", cwd=tmp_path).stdout
    (document,) = [h for h in json.loads(command("handlers", "--json", cwd=tmp_path).stdout) if h["name"] == "power"]
    assert document["input"]["properties"]["power"]["type"] == "integer"


def test_handlers_says_where_each_comes_from_and_how_it_runs(tmp_path: Path) -> None:
    """In words and as JSON; a type without a schema hides no other handler."""
    found = install(tmp_path / "plugins", "support.plain_handlers", "tell", "odd")
    words = command("handlers", cwd=tmp_path, **found).stdout
    assert (
        "tell  (handlers-of-the-tests 1.0)\n    Tell what there is to know.\n    on the loop, 1 at once, 500 s" in words
    )
    assert 'handler = "command"' in words
    by_name = {h["name"]: h for h in json.loads(command("handlers", "--json", cwd=tmp_path, **found).stdout)}
    assert by_name["tell"]["distribution"] == {"name": "handlers-of-the-tests", "version": "1.0"}
    assert by_name["tell"]["entry_point"] == "support.plain_handlers:tell"
    assert set(by_name["tell"]["output"]["properties"]) == {"settings", "seconds"}
    assert (by_name["odd"]["input"], by_name["command"]["explicit"]) == (None, True)


def test_invoke_runs_a_handler_by_its_real_road(tmp_path: Path) -> None:
    """`invoke` reads JSON from standard input or a file, prints the outcome as JSON, and exits 0 for COMPLETED."""
    done = command("invoke", "power", "--input", "-", cwd=tmp_path, stdin='{"power": 10}')
    assert (done.returncode, json.loads(done.stdout)) == (0, {"status": "COMPLETED", "output": {"result": 1024}})
    (tmp_path / "input.json").write_text('{"power": "ten"}')
    failed = command("invoke", "power", "--input", "input.json", cwd=tmp_path)
    assert (failed.returncode, json.loads(failed.stdout)["output"]["code"]) == (1, "invalid_input")


def test_invoke_takes_the_section_of_a_task(tmp_path: Path) -> None:
    """Its timeout and its settings; a section that is not there is a mistake."""
    (tmp_path / "worker.toml").write_text('[tasks.stamp]\nhandler = "tell"\ntimeout = 200\nsettings = {word = "hi"}\n')
    found = install(tmp_path / "plugins", "support.plain_handlers", "tell")
    with_task = ("invoke", "tell", "--input", "-", "--config", "worker.toml", "--task")
    done = command(*with_task, "stamp", cwd=tmp_path, stdin="{}", **found)
    output = json.loads(done.stdout)["output"]
    assert (output["settings"], 100 < output["seconds"] <= 200) == ({"word": "hi"}, True)
    unknown = command(*with_task, "stump", cwd=tmp_path, stdin="{}", **found)
    assert (unknown.returncode, "stamp" in unknown.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (("invoke", "nobody", "--input", "-"), "{}", 2, "power"),
        (("invoke", "power", "--input", "nowhere.json"), "", 2, "nowhere.json"),
        (("invoke", "power", "--input", "-"), "{", 2, "no JSON"),
        (("invoke", "power"), "", 2, "--input"),
        (("dance",), "", 2, "dance"),
        (("run",), "", EX_CONFIG, "PLW_API__KEY"),
        (("check",), "", EX_CONFIG, "PLW_API__KEY"),
        (("run", "--config", "nowhere.toml"), "", EX_CONFIG, "nowhere.toml"),
    ],
)
def test_a_mistake_is_told_in_words_with_its_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], stdin: str, code: int, said: str
) -> None:
    """Usage errors end with 2, unusable settings with 78; the message names what was wrong, and is no traceback."""
    ended = command(*arguments, cwd=tmp_path, stdin=stdin)
    told = ended.stdout + ended.stderr
    assert (ended.returncode, said in told, "Traceback" in told) == (code, True, False), told


def test_each_problem_of_the_settings_has_its_line(tmp_path: Path) -> None:
    """Two mistakes are two lines, each with the setting, what was found and what is allowed."""
    (tmp_path / "worker.toml").write_text('[budget]\nrequests_per_minute = 3\n[http]\nport = "web"\n')
    ended = command("run", "--config", "worker.toml", cwd=tmp_path, **KEY)
    assert ended.returncode == EX_CONFIG
    first, second = sorted(ended.stderr.splitlines())
    assert "budget.requests_per_minute" in first
    assert "3" in first
    assert "http.port" in second
    assert "web" in second


def test_a_section_for_a_handler_that_is_not_installed_is_a_mistake(tmp_path: Path) -> None:
    """Naming a handler that nobody brings ends with 78 and the names that there are."""
    (tmp_path / "worker.toml").write_text('[tasks.power]\nhandler = "prower"\n')
    ended = command("run", "--config", "worker.toml", cwd=tmp_path, **KEY)
    assert ended.returncode == EX_CONFIG
    assert "tasks.power.handler" in ended.stderr
    assert "power" in ended.stderr


@pytest.mark.parametrize("content", [b"this is no database at all, but long enough to look at" * 20])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    """A foreign file where the journal should be ends the start with 78, untouched."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "worker.db").write_bytes(content)
    ended = command("run", cwd=tmp_path, **KEY)
    assert ended.returncode == EX_CONFIG
    assert "worker.db" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "state" / "worker.db").read_bytes() == content


@pytest.mark.anyio
async def test_check_says_whether_run_would_work(tmp_path: Path) -> None:
    """`check` against a good account exits 0; with a refused key it exits 1 and says so; it starts nothing."""
    world = new_world("power")
    async with sandbox.serve(world) as url:

        def check(key: str) -> tuple[int, str]:
            variables = {"PLW_API__BASE_URL": url, "PLW_API__KEY": key, "PLW_DRAIN__TIMEOUT": "25s"}
            ended = command("check", cwd=tmp_path, **variables)
            return ended.returncode, ended.stdout + ended.stderr

        good = await anyio.to_thread.run_sync(check, "sandbox-key")
        bad = await anyio.to_thread.run_sync(check, "revoked")
    assert good[0] == 0, good[1]
    assert "responseTimeoutSeconds" not in good[1]
    assert "drain.timeout: power may run for 30 s, and after 25 s is FAILED as cancelled" in good[1]
    assert "power" in good[1]
    assert bad[0] == 1, bad[1]
    assert "401" in bad[1]
    assert [arrival.operation for arrival in world.arrivals] == ["list_tasks"] * 2


@pytest.mark.anyio
async def test_check_tells_machines_what_it_tells_people(tmp_path: Path) -> None:
    """With --json each line is a finding with its level; settings that cannot be used are findings too, and exit 78."""
    async with sandbox.serve(new_world("power", responseTimeoutSeconds=0)) as url:

        def check(*more: str, **variables: str) -> tuple[int, str]:
            ended = command("check", *more, cwd=tmp_path, **{**KEY, "PLW_API__BASE_URL": url, **variables})
            return ended.returncode, ended.stdout

        words = await anyio.to_thread.run_sync(check)
        code, document = await anyio.to_thread.run_sync(lambda: check("--json"))
        unusable = await anyio.to_thread.run_sync(lambda: check("--json", PLW_HTTP__PORT="web"))
    told = json.loads(document)
    assert (code, told["ok"], words[0]) == (0, True, 0)
    warned = [finding for finding in told["findings"] if finding["level"] == "warn"]
    assert [finding["subject"] for finding in warned if "responseTimeoutSeconds" in finding["text"]] == ["task power"]
    assert f"WARN  task power: {warned[0]['text']}\n      {warned[0]['cure']}\n" in words[1]
    assert unusable[0] == EX_CONFIG
    assert [finding["level"] for finding in json.loads(unusable[1])["findings"]] == ["fail"]
    assert "PLW_HTTP__PORT" in unusable[1]


@pytest.mark.anyio
async def test_check_names_the_tasks_whose_lost_claims_never_come_back(tmp_path: Path) -> None:
    """Only a response timeout on the platform brings a claim back that was lost on the wire; without, a warning."""
    world = new_world("power", responseTimeoutSeconds=0, timeoutSeconds=0)
    add_task(world, "other", responseTimeoutSeconds=0)
    async with sandbox.serve(world) as url:
        variables = {**KEY, "PLW_API__BASE_URL": url}
        for_ever = await anyio.to_thread.run_sync(lambda: command("check", cwd=tmp_path, **variables))
    world = new_world("power", responseTimeoutSeconds=0, timeoutSeconds=900)
    async with sandbox.serve(world) as url:
        variables = {**KEY, "PLW_API__BASE_URL": url}
        for_a_while = await anyio.to_thread.run_sync(lambda: command("check", cwd=tmp_path, **variables))
    assert (for_ever.returncode, for_a_while.returncode) == (0, 0), for_ever.stderr
    (line,) = [line for line in for_ever.stdout.splitlines() if "responseTimeoutSeconds" in line]
    assert "task power" in line
    assert "for ever" in line
    assert "(30 s)" in for_ever.stdout
    assert "timeoutSeconds (900 s)" in for_a_while.stdout


@pytest.mark.parametrize("name", ["run", "check"])
def test_settings_that_a_handler_cannot_use_are_told_at_start(tmp_path: Path, name: str) -> None:
    """Each is named as its writer knows it, without any value, and the exit code says that a restart is in vain."""
    variables = KEY | install(tmp_path / "installed", "support.conforming", "configured_apart")
    (tmp_path / "worker.toml").write_text(
        '[tasks.configured.settings]\nnames = "s3cret"\npassword = {file = "/nowhere"}\n'
    )
    ended = command(name, "--config", "worker.toml", cwd=tmp_path, **variables)
    told = ended.stdout + ended.stderr
    assert (ended.returncode, "Traceback" in told, "s3cret" in told) == (EX_CONFIG, False, False), told
    assert "tasks.configured.settings.names: there is no such setting; there are name, password" in told
    assert "tasks.configured.settings.password: the file '/nowhere' cannot be read (No such file" in told

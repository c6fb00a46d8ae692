"""From `new` to a plugin that a worker serves, in a clean environment, with wheels as people install them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from product_live_worker import __version__
from support.environments import Environment, new_environment
from support.processes import command, running
from support.workers import until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Give an environment with the worker's wheel."""
    return new_environment(tmp_path_factory.mktemp("clean"))


def test_a_wheel_of_a_new_plugin_is_discovered_served_and_passes_its_tests(clean: Environment, tmp_path: Path) -> None:
    """What `new` writes works at once beside the worker's wheel, which brings the templates and pytest's plugin."""
    clean.ok("product-live-worker", "new", "my-plugin", cwd=tmp_path)
    package = tmp_path / "my-plugin"
    clean.ok("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "dist", ".", cwd=package)
    (wheel,) = (package / "dist").iterdir()
    clean.ok("python", "-m", "pip", "install", str(wheel), cwd=tmp_path)

    installed = {h["name"]: h for h in json.loads(clean.ok("product-live-worker", "handlers", "--json", cwd=tmp_path))}
    assert installed["my_plugin"]["distribution"] == {"name": "my-plugin", "version": "0.1.0"}
    assert installed["power"]["distribution"] == {"name": "product-live-worker", "version": __version__}
    # Its tests meet what is installed, not what lies beside them; one of them has a worker serve it in the sandbox.
    (tmp_path / "elsewhere").mkdir()
    (package / "tests").rename(tmp_path / "elsewhere" / "tests")
    assert "4 passed" in clean.ok("python", "-m", "pytest", "-q", "-p", "no:randomly", cwd=tmp_path / "elsewhere")


def test_an_editable_install_works_at_once(clean: Environment, tmp_path: Path) -> None:
    """As the README of a new plugin says: install it, test it, invoke it."""
    clean.ok("product-live-worker", "new", "other-plugin", cwd=tmp_path)
    package = tmp_path / "other-plugin"
    clean.ok("python", "-m", "pip", "install", "-e", ".[test]", cwd=package)
    assert "4 passed" in clean.ok("python", "-m", "pytest", "-q", cwd=package)
    invoked = clean.ok(
        "product-live-worker", "invoke", "other_plugin", "--input", "-", cwd=package, stdin='{"name": "A"}'
    )
    assert json.loads(invoked) == {"status": "COMPLETED", "output": {"greeting": "Hello A!"}}


@pytest.mark.anyio
async def test_the_worker_serves_it_in_the_sandbox(clean: Environment, tmp_path: Path) -> None:
    """`run --sandbox` finds the plugin, and says where executions are submitted."""

    def prepare() -> None:
        clean.ok("product-live-worker", "new", "third-plugin", cwd=tmp_path)
        clean.ok("python", "-m", "pip", "install", "-e", ".", cwd=tmp_path / "third-plugin")

    await anyio.to_thread.run_sync(prepare)
    command_line = (str(clean.bin / "product-live-worker"),)
    async with (
        running("run", "--sandbox", cwd=tmp_path, variables=clean.variables(), program=command_line) as worker,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        await until(lambda: '"executions": "http' in worker.output)
        (line,) = [json.loads(line) for line in worker.output.splitlines() if '"executions": "http' in line]
        await http.post(line["executions"], json={"task": "third_plugin", "input": {"name": "Ada"}})
        found: dict[str, Any] = {}
        while found.get("status") not in ("COMPLETED", "FAILED"):
            await anyio.sleep(0.01)
            (found,) = (await http.get(line["executions"])).json()["executions"]
        assert found["output"] == {"greeting": "Hello Ada!"}
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My-Plugin", "small letters"),
        ("../outside", "small letters"),
        ("a" * 51, "at most 50"),
        ("json", "Python's own"),
        ("class", "Python's own"),
        ("pydantic", "installed already"),
        ("power", "name of an installed handler"),
        ("there", "is there already"),
    ],
)
def test_a_name_that_cannot_be_used_is_told_with_what_is_allowed(tmp_path: Path, name: str, said: str) -> None:
    """Usage errors end with 2, and nothing is written."""
    (tmp_path / "there").mkdir()
    ended = command("new", name, cwd=tmp_path, TERMINAL_WIDTH="500")
    assert (ended.returncode, said in ended.stderr, "Traceback" in ended.stderr) == (2, True, False), ended.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A link that leads nowhere takes the name as well as a folder does."""
    (tmp_path / "my-plugin").symlink_to(tmp_path / "nowhere" / "else")
    ended = command("new", "my-plugin", cwd=tmp_path, TERMINAL_WIDTH="500")
    assert (ended.returncode, "is there already" in ended.stderr) == (2, True), ended.stderr

"""The image, really built and run: read-only, without capabilities, as a user that is not root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.installed import Platform
from support.machine import Machine, until
from support.podman import Podman, podman

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.13-slim"
IMAGE = "localhost/product-live-worker:0.1.0"
KEY = "sandbox-key"
PYTHON = "/opt/product-live-worker/bin/python"
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp:rw,size=16m,mode=1777", "--cap-drop=ALL"),  # noqa: S108 (the container's)
    *("--security-opt=no-new-privileges", "--memory=256m", "--pids-limit=128", "--init"),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, trixie: Path) -> Iterator[Podman]:
    """Give podman with the base image: a Debian of our own under its name, since no other can be fetched here."""
    folder = tmp_path_factory.mktemp("podman")
    with podman(folder) as made:
        subprocess.run(["tar", "-C", str(trixie), "-cf", str(folder / "base.tar"), "."], check=True)  # noqa: S603, S607
        made.ok("import", str(folder / "base.tar"), BASE)
        yield made


@pytest.fixture(scope="module")
def image(engine: Podman, bundle: Path) -> str:
    """Build the image from the bundle, without any network."""
    engine.build(bundle, IMAGE, "--build-arg", "VERSION=0.1.0")
    return IMAGE


@pytest.fixture
def account(engine: Podman, image: str) -> Iterator[Platform]:
    """Run the platform in a container of its own; the worker shares its network, in which there is nothing else."""
    engine.ok("run", "--detach", "--name=platform", "--network=none", image, "sandbox", "--port", "8090")
    made = Platform(Machine(engine.inspect("platform", "container")["State"]["Pid"]), 8090)
    until(lambda: made.machine.answers(f"{made.url}/sandbox/settings"), "the sandbox to answer")
    made.start_afresh(KEY)
    made.configure(limit=0)
    yield made
    # The network is the platform's: it goes last.
    engine.ok("rm", "--force", "--ignore", "--time=0", "worker")
    engine.ok("rm", "--force", "--time=0", "platform")
    engine.run("volume", "rm", "--force", "journal")


def run(engine: Podman, account: Platform, *arguments: str, command: tuple[str, ...] = ()) -> None:
    """Run the worker as docs/operations.md says."""
    key = engine.folder / "api_key"
    key.write_text(f"{KEY}\n", encoding="ascii")
    key.chmod(0o400)
    os.chown(key, 10001, 10001)
    given = ("--env", f"PLW_API__BASE_URL={account.url}", "--env", "PLW_BUDGET__REQUESTS_PER_MINUTE=0")
    secret = f"--volume={key}:/run/secrets/product_live_api_key:ro"
    place = ("--network=container:platform", "--volume=journal:/var/lib/product-live-worker")
    engine.ok(
        "run",
        "--detach",
        "--name=worker",
        "--stop-timeout=45",
        *LOCKED_DOWN,
        *given,
        secret,
        *place,
        *arguments,
        IMAGE,
        *command,
    )


def test_the_image_says_what_it_is_and_runs_as_a_number(engine: Podman, image: str) -> None:
    """A numeric user, commands without a shell, a health check, labels."""
    config = engine.inspect(image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/opt/product-live-worker/bin/product-live-worker"]
    assert config["Cmd"] == ["run"]
    assert engine.inspect(image)["Healthcheck"]["Test"][:2] == ["CMD", PYTHON]
    assert config["Labels"]["org.opencontainers.image.version"] == "0.1.0"
    assert {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses")} <= set(
        config["Labels"]
    )


def test_nothing_can_be_installed_or_compiled_in_it(engine: Podman, image: str) -> None:
    """There is neither pip, nor what would bring it, nor a compiler; all that the worker needs is there."""
    script = (
        "for program in pip pip3 gcc cc g++ make ld; do command -v $program && exit 1; done; "
        f"{PYTHON} -m pip && exit 2; {PYTHON} -m ensurepip && exit 3; python3 -m pip && exit 4; "
        "python3 -m ensurepip && exit 5; "
        "find / -xdev '(' -name pip -o -name 'pip[-3]*' -o -name ensurepip ')' 2>/dev/null | grep . && exit 6; exit 0"
    )
    engine.ok("run", "--rm", "--network=none", "--entrypoint=/bin/sh", image, "-c", script)
    told = engine.ok("run", "--rm", "--network=none", *LOCKED_DOWN, image, "handlers")
    assert "probes_in_process" in told


def test_what_the_worker_adds_to_its_base_is_small(engine: Podman, image: str) -> None:
    """As docs/operations.md says."""
    added = engine.inspect(image)["Size"] - engine.inspect(BASE)["Size"]
    assert added < 100_000_000, f"{added / 1e6:.0f} MB"


def test_it_works_with_everything_taken_away(engine: Podman, account: Platform) -> None:
    """Read-only, without capabilities, with little memory: handlers run in every way, and can change nothing."""
    run(engine, account)
    assert account.completed("power", power=8) == {"result": 256}
    assert account.completed("waits_in_thread") == {"waited": 0.0}
    for task in ("probes", "probes_in_process"):
        found = account.completed(task)
        tried = found["forbidden"]
        assert {tried[name] for name in tried if name.startswith("write /")} == {"EROFS"}
        assert {tried[name] for name in ("be root", "set the host's name")} == {"EPERM"}
        assert {name: how for name, how in found["needed"].items() if how != "done"} == {}
        assert {int(value, 16) for name, value in found["status"].items() if name.startswith("Cap")} == {0}
        assert (found["status"]["NoNewPrivs"], found["status"]["Seccomp"]) == ("1", "2")
        assert (found["user"], found["group"]) == (10001, 10001)
        assert found["key_file"] == {"mode": "0o400", "owner": 10001}
        assert KEY not in found["environment"]
    assert KEY not in engine.ok("logs", "worker")


def test_the_health_check_tells_a_worker_that_hangs(engine: Podman, account: Platform) -> None:
    """Healthy while it gets on, unhealthy while it does not; it needs nothing but Python."""
    run(engine, account)
    until(lambda: engine.run("healthcheck", "run", "worker").returncode == 0, "the worker to be healthy")
    first = engine.inspect("worker", "container")["State"]["Pid"]
    # The first process is the container's init; the worker is its child.
    (worker,) = map(int, Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split())
    os.kill(worker, signal.SIGSTOP)
    assert engine.run("healthcheck", "run", "worker").returncode != 0
    os.kill(worker, signal.SIGCONT)
    until(lambda: engine.run("healthcheck", "run", "worker").returncode == 0, "the worker to be healthy")


def test_a_stop_waits_for_the_handlers_and_reports_their_results(engine: Podman, account: Platform) -> None:
    """`podman stop` ends with exit code 0, and the platform has the result."""
    run(engine, account)
    (id,) = account.submit("waits", {"seconds": 3})
    account.until_started(id)
    engine.ok("stop", "worker")
    assert account.execution(id)["output"] == {"waited": 3.0}
    assert engine.inspect("worker", "container")["State"]["ExitCode"] == 0


def test_a_container_that_is_killed_loses_nothing(engine: Podman, account: Platform) -> None:
    """Another one on the same volume goes on with what the first was doing."""
    run(engine, account, "--env", "PLW_STATE__LEASE=2s")
    (id,) = account.submit("begins_anew", {"seconds": 2})
    account.until_started(id)
    engine.ok("kill", "--signal=KILL", "worker")
    engine.ok("rm", "--force", "worker")
    run(engine, account, "--env", "PLW_STATE__LEASE=2s")
    assert account.result(id)["status"] == "COMPLETED"


def test_memory_that_a_handler_takes_is_its_own_processs_end(engine: Podman, account: Platform) -> None:
    """The process that took it is killed and reported; the worker goes on."""
    run(engine, account)
    (id,) = account.submit("takes_memory", {"megabytes": 1000})
    assert account.result(id)["output"]["code"] == "handler_crashed"
    assert engine.inspect("worker", "container")["State"]["Running"]
    assert account.completed("power", power=1) == {"result": 2}


def test_without_a_place_for_the_journal_it_says_so(engine: Podman, account: Platform) -> None:
    """A read-only container without a volume would forget what it has claimed: it does not start."""
    done = engine.run(
        *("run", "--rm", "--network=none", *LOCKED_DOWN, "--env", f"PLW_API__BASE_URL={account.url}"),
        *("--env", f"PLW_API__KEY={KEY}", IMAGE),
    )
    assert done.returncode == 1
    assert "/var/lib/product-live-worker/worker.db cannot be opened: Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("image")
def test_a_plugin_can_be_put_on_top(engine: Podman, tmp_path: Path) -> None:
    """As plugin.Containerfile says; the result has no pip either."""
    wheels = tmp_path / "wheels"
    wheel = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels))
    done = subprocess.run(  # noqa: S603 (pip)
        [sys.executable, "-m", "pip", *wheel, str(ROOT / "examples/labels")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file = ROOT / "deploy" / "container" / "plugin.Containerfile"
    engine.build(tmp_path, "my-worker:1", "--file", str(file), "--build-arg", "PLUGIN=labels")
    assert "print_label" in engine.ok("run", "--rm", "--network=none", *LOCKED_DOWN, "my-worker:1", "handlers")
    no_pip = ("--entrypoint", PYTHON, "my-worker:1", "-m", "pip")
    assert engine.run("run", "--rm", "--network=none", *no_pip).returncode == 1

"""deploy/prometheus on the real Prometheus and Alertmanager: what happens to a worker reaches who has to know it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from product_live_worker import sandbox
from support.monitoring import PROMETHEUS, ROOT, TIMES, Monitoring, free_port, monitoring, quickened, tool
from support.plugins import install
from support.processes import Running, running
from support.workers import new_world, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]

QUIET = 12.0
"""Seconds in which what else might fire would have: the longest `for` but one is ten, and a notification takes one."""

WINDOW = 6.0
"""Seconds of the budget's window: where minutes are seconds, the first poll of a worker must not wait for some."""
STARTED = "product_live_worker_start_timestamp_seconds"


def run(*command: str, cwd: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603 (Debian's own)


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    """The tests that are shipped beside the rules, by promtool; its lint finds nothing either."""
    promtool = tool("promtool", "promtool")
    for command in (("test", "rules", "rules.test.yml"), ("check", "rules", "--lint=all", "--lint-fatal", "rules.yml")):
        done = run(promtool, *command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_is_wrong_is_found(tmp_path: Path) -> None:
    """An alert whose threshold is another one does not pass the tests that are shipped."""
    text = (PROMETHEUS / "rules.yml").read_text(encoding="utf-8")
    for right, wrong in (("== 0 or absent", "== 1 or absent"), ("for: 30m", "for: 3m"), (">= 3", ">= 2")):
        assert right in text
        (tmp_path / "rules.yml").write_text(text.replace(right, wrong, 1), encoding="utf-8")
        (tmp_path / "rules.test.yml").write_bytes((PROMETHEUS / "rules.test.yml").read_bytes())
        assert run(tool("promtool", "promtool"), "test", "rules", "rules.test.yml", cwd=tmp_path).returncode == 1


def test_the_examples_of_configurations_are_valid_and_route_by_urgency() -> None:
    """A page goes to the pager, a ticket to the tickets."""
    assert run(tool("promtool", "promtool"), "check", "config", "prometheus.yml").returncode == 0
    amtool = tool("amtool", "prometheus-alertmanager")
    assert run(amtool, "check-config", "alertmanager.yml").returncode == 0
    for severity, receiver in (("page", "pager"), ("ticket", "tickets")):
        routed = run(amtool, "config", "routes", "test", "--config.file=alertmanager.yml", f"severity={severity}")
        assert routed.stdout.strip() == receiver


def test_only_durations_are_quickened() -> None:
    """The files of the tests are those that are shipped, but for the pace."""
    for name in ("rules.yml", "alertmanager.yml", "prometheus.yml"):
        shipped = (PROMETHEUS / name).read_text(encoding="utf-8")
        still = re.compile(r"(?<=: )\d+\w+(?=\s)|(?<=\[)\d+\w+(?=\])")
        assert still.sub("", shipped) == still.sub("", quickened(shipped))
    assert quickened("for: 5m\nexpr: x[1h] > 5\n") == "for: 5000ms\nexpr: x[60000ms] > 5\n"


@dataclass
class Watched:
    """A worker as a process, the account that it serves, and who watches it."""

    world: sandbox.World
    faults: sandbox.Faults
    variables: dict[str, str]
    worker: Running
    monitoring: Monitoring


@asynccontextmanager
async def watched(
    folder: Path, *tasks: str, handlers: Sequence[str] = (), times: int = TIMES
) -> AsyncIterator[Watched]:
    """Run a worker that is monitored, and see first that nothing fires while it is well and at work."""
    world, faults = new_world(*(tasks or ("power",)), window=WINDOW), sandbox.Faults()
    async with sandbox.serve(world, faults=faults) as url:
        port = free_port()
        variables = {
            "PLW_API__BASE_URL": url,
            "PLW_API__KEY": "sandbox-key",
            "PLW_HTTP__PORT": str(port),
            "PLW_BUDGET__WINDOW": f"{WINDOW}s",
            "STATE_DIRECTORY": str(folder / "state"),
            **(install(folder / "plugins", "support.monitored_handlers", *handlers) if handlers else {}),
        }
        async with (
            running("run", cwd=folder, variables=variables) as worker,
            monitoring(folder, f"127.0.0.1:{port}", times=times) as watching,
        ):
            done = world.submit("power", {"power": 3}, time.monotonic())
            await until(lambda: done.status == "COMPLETED")
            await watching.holds('up{job="product-live-worker"} == 1')
            await watching.holds("min(product_live_worker_ready) == 1")
            assert not watching.told
            yield Watched(world, faults, variables, worker, watching)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give the worker's state a disk of its own, of two megabytes."""
    state = tmp_path / "state"
    state.mkdir()
    assert not run("mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(state)).returncode
    yield state
    assert not run("umount", "--lazy", str(state)).returncode


def fill(disk: Path) -> Path:
    """Write a file until the disk is full."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return ballast


async def test_a_worker_that_is_killed_is_gone(tmp_path: Path) -> None:
    """The pager is told so, and nothing else is told to anybody."""
    async with watched(tmp_path) as it:
        it.worker.process.kill()
        await until(lambda: bool(it.monitoring.told))
        await anyio.sleep(QUIET)
        assert it.monitoring.firing() == {("pager", "Gone")}


async def test_a_worker_that_is_started_again_and_again_is_told_as_that(tmp_path: Path) -> None:
    """It is back each time before it counts as gone: after half a minute here, since a start takes its time."""
    async with watched(tmp_path, times=10) as it, AsyncExitStack() as lives:
        worker = it.worker
        for _ in range(3):
            ((_, life),) = [one["value"] for one in await it.monitoring.query(STARTED)]
            worker.process.kill()
            await worker.ended()
            worker = await lives.enter_async_context(running("run", cwd=tmp_path, variables=it.variables))
            await it.monitoring.holds(f"{STARTED} > {life}")
        await until(lambda: bool(it.monitoring.told))
        await anyio.sleep(QUIET)
        assert it.monitoring.firing() == {("pager", "Restarts")}


async def test_a_refused_key_is_told_as_that(tmp_path: Path) -> None:
    """Not as polls that fail, nor as results that are stuck; with the right key it is over."""
    async with watched(tmp_path) as it:
        it.world.configure(replace(it.world.settings, key="another"))
        await until(lambda: bool(it.monitoring.told))
        await anyio.sleep(QUIET)
        assert it.monitoring.firing() == {("pager", "KeyRefused")}
        it.world.configure(replace(it.world.settings, key="sandbox-key"))
        await until(lambda: it.monitoring.resolved() == {"KeyRefused"})


async def test_a_full_disk_is_told_as_that(tmp_path: Path, small_disk: Path) -> None:
    """Nothing is claimed meanwhile, and no poll is late; with room on the disk it is over."""
    async with watched(tmp_path) as it:
        ballast = fill(small_disk)
        await until(lambda: bool(it.monitoring.told))
        await anyio.sleep(QUIET)
        assert it.monitoring.firing() == {("pager", "JournalUnwritable")}
        ballast.unlink()
        await until(lambda: it.monitoring.resolved() == {"JournalUnwritable"})


async def test_a_platform_that_is_away_is_told_as_polls_that_fail(tmp_path: Path) -> None:
    """Also when a result waits to be reported meanwhile: that is the same trouble.

    That a poll which ended in a 503 may have claimed something is another matter, for the working day.
    """
    async with watched(tmp_path) as it:
        it.faults.add("status", status=503, operations=["update_execution"])
        it.world.submit("power", {"power": 4}, time.monotonic())
        await it.monitoring.holds("product_live_worker_reports_pending == 1")
        it.faults.add("status", status=503)
        await it.monitoring.holds('product_live_worker_ready{check="reports"} == 0')
        await until(lambda: bool(it.monitoring.told))
        await anyio.sleep(QUIET)
        assert it.monitoring.firing() == {("pager", "NotPolling"), ("tickets", "AmbiguousClaims")}


async def test_every_panel_of_the_dashboard_shows_a_worker_at_work(tmp_path: Path) -> None:
    """Each expression is valid and has a series, once there were successes, failures and a crash."""
    async with watched(tmp_path, "power", "crashing", handlers=("crashing",)) as it:
        it.faults.add("status", status=503, operations=["update_execution"], count=1)
        for given in ({"power": 1}, {"power": 2}, {"power": "x"}):
            it.world.submit("power", given, time.monotonic())
        it.world.submit("crashing", {}, time.monotonic())
        waiting = dict(expressions({"job": "product-live-worker", "instance": ".*", "task": ".*"}))
        assert len(waiting) > 30
        # Each for itself: what is shown of a burst has gone again when the next burst is shown.
        while waiting:
            for title, expression in tuple(waiting.items()):
                if any(one["value"][1] != "NaN" for one in await it.monitoring.query(expression)):
                    del waiting[title]
            await anyio.sleep(0.2)


def expressions(values: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Give each expression of the dashboard as Grafana sends it, with where it stands."""
    board = json.loads((ROOT / "deploy" / "grafana" / "product-live-worker.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for number, target in enumerate(panel.get("targets", ())):
            expression = target["expr"].replace("$__rate_interval", "1m")
            for name, value in values.items():
                expression = expression.replace(f"${name}", value)
            assert "$" not in expression
            yield f"{panel['title']} {number}", expression

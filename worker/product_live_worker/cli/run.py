"""`run`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Annotated

import anyio
import typer
from pydantic import SecretStr

from product_live_worker import registry
from product_live_worker import sandbox as platform
from product_live_worker.cli.sandbox import new_world
from product_live_worker.cli.told import errors_told, is_told
from product_live_worker.daemon import LAST_REPORTS, Daemon, open_daemon
from product_live_worker.model.action import Action, Verb
from product_live_worker.model.errors import SettingsError
from product_live_worker.model.handler import Handler
from product_live_worker.sandbox.demo import TASK, Demo
from product_live_worker.settings import Settings, Task, check_admin_token, known_secrets, load
from product_live_worker.stage import Stop
from product_live_worker.systemd import Notifier
from product_live_worker.telemetry import log

POLLING: dict[signal.Signals, Verb] = (
    {} if sys.platform == "win32" else {signal.SIGUSR1: "pause", signal.SIGUSR2: "resume"}
)
"""What `kill -USR1` and `kill -USR2` ask for, of all tasks."""
LEFT_ALONE = 5.0
"""Seconds after the end of the drain in which the process must be gone, whatever still runs in it."""


def run(
    config: Annotated[Path | None, typer.Option(help="The settings file.", show_default="PLW_CONFIG")] = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Against a built-in Product-Live, with temporary state.")
    ] = False,
    demo: Annotated[bool, typer.Option("--demo", hidden=True)] = False,
) -> None:
    """Run the worker until SIGTERM or SIGINT; a second signal does not wait for what still runs."""
    requests = _Requests()
    with errors_told():
        settings = load(config, os.environ, require_key=not sandbox)
        check_admin_token(settings.http)
        handlers = registry.load()
        shown = "text" if demo and settings.log.format == "auto" else settings.log.format
        log.configure(settings.log.level, shown, secrets=lambda: known_secrets(settings))
        for warning in settings.warnings():
            log.log_for().warning(warning)
        try:
            if sandbox:
                good = anyio.run(_run_in_sandbox, settings, handlers, requests, demo)
            else:
                good = anyio.run(_run, settings, handlers, requests)
        except KeyboardInterrupt:
            good = True
        except Exception as error:
            if is_told(error):
                raise
            log.log_for().error("the worker crashed; this is a defect of it", exc_info=error)
            good = False
    sys.stdout.flush()
    # Threads that handlers have left behind would hold the process; everything of theirs is in the journal.
    os._exit(0 if good else 1)


async def _run(settings: Settings, handlers: Mapping[str, Handler], requests: _Requests) -> bool:
    stop = Stop()
    async with open_daemon(settings, handlers) as daemon, _signals(daemon, stop, requests):
        await daemon.run(stop, Notifier.from_environment())
    return True


async def _run_in_sandbox(settings: Settings, handlers: Mapping[str, Handler], requests: _Requests, demo: bool) -> bool:
    tasks = _tasks_in_sandbox(settings, handlers)
    world = new_world(tasks)
    with tempfile.TemporaryDirectory(prefix="product-live-worker-") as directory:
        async with platform.serve(world) as url:
            settings = _in_sandbox(settings, tasks, url, world.settings.key, Path(directory))
            if not demo:
                log.log_for().info("the sandbox's control API", executions=f"{url}/sandbox/executions")
                return await _run(settings, handlers, requests)
            return await _demonstrate(settings, handlers, requests, Demo(world, Random(2)))


async def _demonstrate(settings: Settings, handlers: Mapping[str, Handler], requests: _Requests, demo: Demo) -> bool:
    seconds = _demo_seconds(os.environ.get("DEMO_SECONDS"))
    stop = Stop()
    async with open_daemon(settings, handlers) as daemon, _signals(daemon, stop, requests):
        address = f"http://127.0.0.1:{daemon.port}"
        typer.echo(f"look: {address}/ and {address}/status — executions of {TASK!r} arrive now; Ctrl-C ends it\n")

        async def submit() -> None:
            await demo.run(seconds)
            stop.request("the demonstration is over")

        async with anyio.create_task_group() as submitting:
            submitting.start_soon(submit)
            await daemon.run(stop, Notifier.from_environment())
            submitting.cancel_scope.cancel()
    typer.echo("\n" + "\n".join(f"{name:<34}{value:>10}" for name, value in demo.summary()))
    return seconds is None or demo.right() == len(demo.submitted)


def _tasks_in_sandbox(settings: Settings, handlers: Mapping[str, Handler]) -> dict[str, Task]:
    """Give a task to each handler that wants one by itself, and to each section of the settings."""
    return {name: Task(handler=name) for name, handler in handlers.items() if not handler.explicit} | settings.tasks


def _in_sandbox(settings: Settings, tasks: Mapping[str, Task], url: str, key: str, directory: Path) -> Settings:
    """Point the settings at the sandbox; nothing of the real account, its key and its state, remains in them."""
    own_port = "port" in settings.http.model_fields_set
    return settings.model_copy(
        update={
            "api": settings.api.model_copy(update={"base_url": url, "key": SecretStr(key), "key_file": None}),
            "state": settings.state.model_copy(update={"url": f"sqlite:///{(directory / 'worker.db').as_posix()}"}),
            "http": settings.http if own_port else settings.http.model_copy(update={"port": 0}),
            "tasks": dict(tasks),
        }
    )


def _nobody() -> None:
    """Nobody waits for a signal."""


class _Requests:
    """What SIGUSR1 and SIGUSR2 ask for: before there is a worker to ask it waits, and after its end nobody does it.

    Neither ever ends the process: the receivers of an event loop would let them, before they are there and afterwards.
    """

    def __init__(self) -> None:
        self._waiting: deque[signal.Signals] = deque()
        self._wake: Callable[[], object] = _nobody
        for number in POLLING:
            signal.signal(number, self._note)

    async def serve(self, act: Callable[[Action], Awaitable[None]]) -> None:
        """Have them done, in their order."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                arrived = anyio.Event()
                self._wake = partial(loop.call_soon_threadsafe, arrived.set)
                while self._waiting:
                    number = self._waiting.popleft()
                    await act(Action(verb=POLLING[number], who=f"signal {number.name}", at=time.time()))
                await arrived.wait()
        finally:
            self._wake = _nobody

    def _note(self, number: int, _: object) -> None:
        self._waiting.append(signal.Signals(number))
        self._wake()


@asynccontextmanager
async def _signals(daemon: Daemon, stop: Stop, requests: _Requests) -> AsyncIterator[None]:
    """Translate signals, here and nowhere else: the first to end asks for the drain, the second leaves at once."""
    if sys.platform == "win32":
        yield
        return

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if stop.requested.is_set():
                    os._exit(0)
                stop.request(signal.Signals(number).name)
                _leave_after(daemon.settings.drain.timeout + LAST_REPORTS + LEFT_ALONE)

    async with anyio.create_task_group() as listening:
        listening.start_soon(listen)
        listening.start_soon(requests.serve, daemon.act)
        yield
        listening.cancel_scope.cancel()


def _leave_after(seconds: float) -> None:
    """Be gone by then: a handler that swallows its cancellation must not outlive the drain."""
    timer = threading.Timer(seconds, os._exit, [0])
    timer.daemon = True
    timer.start()


def _demo_seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise SettingsError(f"DEMO_SECONDS: found {text!r}; allowed is a number of seconds") from None

"""A live worker against a live Product-Live on this machine, for tests that are no coroutines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from anyio.from_thread import start_blocking_portal

from product_live_worker import registry
from product_live_worker.model.execution import Outcome
from product_live_worker.model.handler import Handler

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from product_live_worker.testkit.live import Live


class Sandbox:
    """The pytest fixture `sandbox`: a worker and the platform it serves, in a thread of their own.

    The worker starts with the first execution, and serves all installed handlers, or those that `serve` was given. It
    is the real daemon with a journal on disk, without the limit of 50 requests a minute.
    """

    def __init__(self, directory: Path) -> None:
        """`directory` takes the worker's journal; it is for the caller to make and remove."""
        self._directory = directory
        self._opened = ExitStack()
        self._portal: BlockingPortal | None = None
        self._live: Live | None = None

    def serve(
        self,
        *handlers: Handler,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """Start the worker with these handlers, or with all that are installed but the explicit; gives the sandbox.

        `settings` has the section `[tasks.<key>.settings]` of each handler that needs one, by the handler's name;
        `connections` the sections `[connections.<name>]`.
        Raises RuntimeError when the worker runs already, and RegistryError for a plugin that cannot be used.
        """
        if self._live is not None:
            raise RuntimeError("the sandbox's worker runs already: call serve() once, before the first execution")
        # The daemon takes a second to import, and most tests do without it.
        from product_live_worker.testkit.live import open_live  # noqa: PLC0415 (see above)

        chosen = handlers or [found for found in registry.load().values() if not found.explicit]
        served = {handler.name: handler for handler in chosen}
        self._portal = self._opened.enter_context(start_blocking_portal())
        self._live = self._opened.enter_context(
            self._portal.wrap_async_context_manager(
                open_live(served, settings or {}, connections or {}, self._directory)
            )
        )
        return self

    def submit(self, task: str | Handler, input: Mapping[str, Any]) -> str:
        """Submit an execution, as a job that reaches the task would; gives its id.

        `task` is the handler, or its name. Raises ValueError for a task that is not served, or an input that is no
        JSON.
        """
        sent = json.loads(json.dumps(dict(input), allow_nan=False))
        portal, live = self._started()
        identifier: str = portal.call(live.submit, task if isinstance(task, str) else task.name, sent)
        return identifier

    def outcome(self, execution: str, *, timeout: float = 30.0) -> Outcome:
        """Wait until the platform has the execution's outcome, at most `timeout` seconds; raises TimeoutError."""
        portal, live = self._started()
        return portal.call(live.outcome, execution, timeout)

    def run(self, task: str | Handler, input: Mapping[str, Any], *, timeout: float = 30.0) -> Outcome:
        """Submit an execution and wait for its outcome; raises what `submit` and `outcome` raise."""
        return self.outcome(self.submit(task, input), timeout=timeout)

    def upload(self, filename: str, content: bytes) -> dict[str, Any]:
        """Put a file on the platform, as a task before would have; gives it as an input has it."""
        portal, live = self._started()
        return portal.call(live.upload, filename, content)

    def content(self, file: Mapping[str, Any] | str) -> bytes:
        """Give what is in a file of the platform's, as an output has it, or by its id; raises LookupError."""
        portal, live = self._started()
        return portal.call(live.content, file if isinstance(file, str) else str(file.get("id")))

    @property
    def url(self) -> str:
        """The base URL of the platform; its API key is `sandbox-key`."""
        return self._started()[1].url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _started(self) -> tuple[BlockingPortal, Live]:
        if self._live is None:
            self.serve()
        assert self._portal is not None  # noqa: S101 (serve has set both)
        assert self._live is not None  # noqa: S101 (the same)
        return self._portal, self._live

"""A machine with the worker installed as a service, and its platform: the sandbox, in the machine's network."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.machine import Machine, until

KEY = "sandbox-key"
FINAL = ("COMPLETED", "FAILED")
TASKS = (
    *("waits", "waits_in_thread", "begins_anew", "holds_the_loop", "takes_memory", "probes", "probes_in_process"),
    "power",
)


@dataclass(frozen=True)
class Platform:
    """The sandbox in a machine's network; it outlives every worker."""

    machine: Machine
    port: int

    @property
    def url(self) -> str:
        """Where the worker finds it."""
        return f"http://127.0.0.1:{self.port}"

    def submit(self, task: str, *inputs: Mapping[str, Any]) -> list[str]:
        """Submit executions as jobs would; gives their ids."""
        ids: list[str] = self._ask("executions", {"task": task, "inputs": list(inputs)})["ids"]
        return ids

    def execution(self, id: str) -> dict[str, Any]:
        """Give what the platform has of an execution."""
        found: dict[str, Any] = self._ask(f"executions/{id}")
        return found

    def status(self, id: str) -> str:
        """Give the status of an execution."""
        return str(self.execution(id)["status"])

    def result(self, id: str) -> dict[str, Any]:
        """Wait for an execution to end; gives what the platform was told."""
        until(lambda: self.status(id) in FINAL, f"execution {id} to end", 120)
        return self.execution(id)

    def completed(self, task: str, **given: Any) -> dict[str, Any]:
        """Have an execution run; gives the output, which must be that of a success."""
        (id,) = self.submit(task, given)
        ended = self.result(id)
        assert ended["status"] == "COMPLETED", ended
        output: dict[str, Any] = ended["output"]
        return output

    def until_started(self, *ids: str) -> None:
        """Wait until executions have been claimed."""
        until(lambda: all(self.status(id) == "IN_PROGRESS" for id in ids), "executions to be claimed")

    def requests(self) -> list[dict[str, Any]]:
        """Give every request that has arrived."""
        found: list[dict[str, Any]] = self._ask("requests")["requests"]
        return found

    def configure(self, **settings: Any) -> None:
        """Change what the platform accepts."""
        self.machine.in_its_network(
            "curl", "-fsS", "-X", "PUT", "-d", json.dumps(settings), f"{self.url}/sandbox/settings"
        )

    def start_afresh(self, key: str) -> None:
        """Forget all executions and requests; the tasks are there, and this key is accepted."""
        self.configure(key=key)
        self._ask("reset", {})
        for task in TASKS:
            self._ask("tasks", {"key": task, "description": "", "retryCount": 0, "inputKeys": [], "outputKeys": []})

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self.machine.get(f"{self.url}/sandbox/{path}", body)


@contextmanager
def platform(machine: Machine, folder: Path, port: int = 8090) -> Iterator[Platform]:
    """Run the sandbox, from this checkout, in the machine's network while the block runs."""
    config = folder / f"sandbox-{port}.toml"
    config.write_text("limit = 0\n", encoding="utf-8")
    command = (sys.executable, "-m", "product_live_worker", "sandbox", "--port", str(port), "--config", str(config))
    with (folder / f"sandbox-{port}.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 (our own command)
            ["nsenter", "--target", str(machine.first), "--net", "--", *command],  # noqa: S607 (the same)
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            made = Platform(machine, port)
            until(lambda: machine.answers(f"{made.url}/sandbox/settings"), "the sandbox to answer")
            made.start_afresh(KEY)
            yield made
        finally:
            process.kill()
            process.wait()

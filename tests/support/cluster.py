"""A real Kubernetes of one node, in namespaces of its own, and the platform that its pods reach."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from support.debian import need, unpacked
from support.kustomize import Object

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILT = ROOT / "build" / "kubernetes"
TO_BUILD = ("golang-1.19-go", "dpkg-dev")
TO_RUN = ("etcd-server", "containerd", "runc", "containernetworking-plugins", "iptables", "openssl", "curl")
Value = TypeVar("Value")


def built() -> Path:
    """Give the folder of Kubernetes' own programs, built once for this checkout."""
    need(*TO_BUILD, *TO_RUN)
    done = subprocess.run(  # noqa: S603 (our own)
        ["bash", str(HERE / "cluster_build.sh"), str(BUILT)],  # noqa: S607 (the same)
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return BUILT / "bin"


def until(true: Callable[[], Value], what: str, seconds: float = 120) -> Value:
    """Wait until something has come true; gives it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs."""

    folder: Path
    first: int
    """The process that all of it ends with."""
    kubectl: str

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end."""
        return self.inside(*self._variables(), "kubectl", "--namespace=product-live", *arguments, stdin=stdin)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl, which must succeed; gives what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, text: str) -> None:
        """Run what a document tells a user to; it must succeed."""
        done = self.inside(*self._variables(), "sh", "-euc", text)
        assert done.returncode == 0, f"{text}: {done.stdout}{done.stderr}"

    def _variables(self) -> tuple[str, ...]:
        path = f"{Path(self.kubectl).parent}{os.pathsep}{os.environ['PATH']}"
        return ("env", f"KUBECONFIG={self.folder}/kubeconfig", f"HOME={self.folder}", f"PATH={path}")

    def get(self, *arguments: str) -> Any:
        """Give an object or a list of them."""
        return json.loads(self.ok("get", *arguments, "--output=json"))

    def apply(self, *objects: Object) -> None:
        """Apply objects."""
        self.ok("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def pods(self) -> list[Object]:
        """Give the worker's pods, those that are ending included."""
        found: list[Object] = self.get("pods", "--selector=app.kubernetes.io/name=product-live-worker")["items"]
        return found

    def inside(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the cluster's namespaces."""
        return subprocess.run(  # noqa: S603 (the tests' own)
            ["nsenter", "--target", str(self.first), "--net", "--mount", "--pid", *command],  # noqa: S607 (Linux's own)
            input=stdin,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )


@contextmanager
def cluster(folder: Path, *images: Path) -> Iterator[Cluster]:
    """Run a cluster that knows these images while the block runs."""
    programs = built()
    client = unpacked("kubernetes-client", ROOT / "build" / "deploy-tools", suite="bookworm")
    spaces = ("--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--propagation=private")
    with (folder / "cluster.log").open("w") as log:
        outer = subprocess.Popen(  # noqa: S603 (our own)
            ["unshare", *spaces, "bash", str(HERE / "cluster.sh"), str(folder), str(programs), *map(str, images)],  # noqa: S607 (Linux's own)
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        first = until(lambda: _children(outer.pid), "the cluster's first process")[0]
        made = Cluster(folder, first, str(client / "usr" / "bin" / "kubectl"))
        until(lambda: outer.poll() is not None or _is_ready(made), "the node to be ready", 180)
        assert outer.poll() is None, (folder / "cluster.log").read_text(encoding="utf-8")
        yield made
    finally:
        for child in _children(outer.pid):
            os.kill(child, signal.SIGKILL)
        outer.wait()
        _forget_groups()


def _children(process: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def _is_ready(made: Cluster) -> bool:
    return " Ready" in made.run("get", "nodes", "--no-headers").stdout


def _forget_groups() -> None:
    """Remove the control groups of pods that are gone."""
    for top in Path("/sys/fs/cgroup").glob("*/kubepods"):
        for group in sorted((path for path in (top, *top.rglob("*")) if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()


@dataclass(frozen=True)
class Platform:
    """The sandbox that the pods reach as https://platform.test."""

    cluster: Cluster

    def ask(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """Ask its control API; a body is sent by `method`."""
        sent = [] if body is None else ["--request", method, "--data", json.dumps(body)]
        there = ("--cacert", str(HERE / "certificates" / "ca.pem"), "--resolve", "platform.test:443:127.0.0.1")
        done = self.cluster.inside(
            "curl", "-sS", "--fail-with-body", *there, *sent, f"https://platform.test/sandbox/{path}"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def submit(self, task: str, *inputs: dict[str, Any]) -> list[str]:
        """Submit executions; gives their ids."""
        ids: list[str] = self.ask("executions", {"task": task, "inputs": list(inputs)})["ids"]
        return ids

    def status(self, *ids: str) -> list[str]:
        """Give what has become of executions."""
        all_of_them = {each["id"]: each["status"] for each in self.ask("executions")["executions"]}
        return [all_of_them[one] for one in ids]


@contextmanager
def platform(made: Cluster, *tasks: str) -> Iterator[Platform]:
    """Run the sandbox in the cluster's network, with these tasks, while the block runs."""
    with (made.folder / "sandbox.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 (our own)
            ["nsenter", "--target", str(made.first), "--net", sys.executable, "-m", "support.secure_sandbox", "443"],  # noqa: S607 (Linux's own)
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        it = Platform(made)

        def answers() -> bool:
            with contextlib.suppress(AssertionError):
                return bool(it.ask("settings"))
            return False

        until(answers, "the sandbox to answer")
        it.ask("settings", {"limit": 0}, "PUT")
        for task in tasks:
            it.ask("tasks", {"key": task, "description": "", "retryCount": 0, "inputKeys": [], "outputKeys": []})
        yield it
    finally:
        process.kill()
        process.wait()

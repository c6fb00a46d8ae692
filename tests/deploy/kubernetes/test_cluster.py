"""deploy/kubernetes on a real cluster: a rollout, a new key, an eviction, an outage, and nothing is lost."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster, Platform, until
from support.cluster_worker import KEY, all_completed, evict, is_ready, living, manifests, name_of, restarts, secret
from support.kustomize import Object

OUTAGE = 90.0
"""Seconds of an outage: longer than what the liveness probe and the grace of a first poll are patient for."""


@pytest.fixture(scope="module")
def worker(account: Platform) -> Cluster:
    """Install the worker as deploy/kubernetes/README.md says, and wait until it is ready."""
    machine = account.cluster
    machine.apply(secret(api_key=KEY), disk(machine.folder / "disk"), *single())
    machine.ok("rollout", "status", "deployment/product-live-worker", "--timeout=120s")
    return machine


def disk(folder: Path) -> Object:
    """Give a volume on this machine, which an operator's cluster would make by itself."""
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(folder)},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"}, "spec": spec}


def single(**variables: str) -> list[Object]:
    """Give the overlay for one worker, which shall not wait for a limit here."""
    return manifests("single", PLW_BUDGET__REQUESTS_PER_MINUTE="0", **variables)


def the_pod(worker: Cluster) -> Object:
    """Give the pod that is not ending."""
    (pod,) = living(worker)
    return pod


def test_the_pod_has_no_more_rights_than_it_needs(worker: Cluster) -> None:
    """Seen from inside: no capability and no way to one, a root that cannot be written, a key of its group's alone."""

    def inside(*command: str) -> str:
        done = worker.run("exec", "deployment/product-live-worker", "--", *command)
        return done.stdout + done.stderr

    seen = dict(line.split(":\t", 1) for line in inside("cat", "/proc/self/status").splitlines() if ":\t" in line)
    assert int(seen["CapEff"], 16) == 0
    assert (seen["NoNewPrivs"], seen["Seccomp"], seen["Uid"].split()[0]) == ("1", "2", "10001")
    assert inside("stat", "-Lc", "%a %u %g", "/run/secrets/product-live-worker/api_key").split() == [
        "440",
        "0",
        "10001",
    ]
    assert "Read-only file system" in inside("sh", "-c", "echo x > /opt/x || true")
    assert "PLW_API__BASE_URL" in inside("sh", "-c", "cat /proc/[0-9]*/environ")
    assert KEY not in inside("sh", "-c", "cat /proc/[0-9]*/environ")


def test_a_rollout_in_the_middle_of_executions_loses_none(worker: Cluster, account: Platform) -> None:
    """Other settings are another pod: the old one ends what it runs, and the new one goes on with the rest."""
    before = name_of(the_pod(worker))
    running = account.submit("waits", *({"seconds": 6} for _ in range(4)))
    until(lambda: account.status(*running) == ["IN_PROGRESS"] * 4, "executions to be claimed")
    waiting = account.submit("waits", *({"seconds": 1} for _ in range(8)))
    worker.apply(*single(PLW_LOG__LEVEL="debug"))
    worker.ok("rollout", "status", "deployment/product-live-worker", "--timeout=180s")
    assert name_of(the_pod(worker)) != before
    all_completed(account, running + waiting)


def test_a_new_key_needs_no_rollout(worker: Cluster, account: Platform) -> None:
    """The Secret's file follows, and the worker reads it when the old key is refused."""
    pod = the_pod(worker)["metadata"]["uid"]
    account.ask("settings", {"key": "the-next-key"}, "PUT")
    (id,) = account.submit("power", {"power": 5})
    worker.apply(secret(api_key="the-next-key"))
    all_completed(account, [id])
    until(lambda: is_ready(the_pod(worker)), "the pod to be ready")
    assert (the_pod(worker)["metadata"]["uid"], restarts(the_pod(worker))) == (pod, 0)


def test_an_eviction_loses_nothing(worker: Cluster, account: Platform) -> None:
    """The disruption budget allows it, the worker drains, and its successor goes on."""
    pod = name_of(the_pod(worker))
    running = account.submit("waits", *({"seconds": 6} for _ in range(4)))
    again = account.submit("begins_anew", {"seconds": 3})
    until(lambda: "SCHEDULED" not in account.status(*running, *again), "executions to be claimed")
    evicted = evict(worker, pod)
    assert evicted.returncode == 0, evicted.stderr
    until(lambda: pod not in map(name_of, worker.pods()), "the pod to be gone")
    all_completed(account, running + again)
    until(lambda: is_ready(the_pod(worker)), "the successor to be ready")


def test_an_outage_of_the_platform_restarts_nothing(worker: Cluster, account: Platform) -> None:
    """The pod is unready, and so are those that look at it; it lives, and goes on by itself."""
    account.ask("faults", {"kind": "status", "status": 503})
    (id,) = account.submit("power", {"power": 3})
    until(lambda: not is_ready(the_pod(worker)), "the pod to be unready")
    end = time.monotonic() + OUTAGE
    while time.monotonic() < end:
        assert restarts(the_pod(worker)) == 0
        time.sleep(5)
    account.ask("faults", {}, "DELETE")
    all_completed(account, [id])
    until(lambda: is_ready(the_pod(worker)), "the pod to be ready")
    assert restarts(the_pod(worker)) == 0
    events: Any = worker.get("events")["items"]
    assert not [each for each in events if "Liveness" in each["message"]]

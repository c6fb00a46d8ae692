"""deploy/kubernetes on a real cluster: a rollout, a new key, an eviction, an outage, and nothing is lost."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster, Platform, cluster, platform, until
from support.kustomize import KUBERNETES, Object, render
from support.podman import podman

KEY = "sandbox-key"
BASE = "docker.io/library/python:3.13-slim"
IMAGE = "localhost/product-live-worker:0.1.0"
PAUSE = "localhost/pause:1"
CERTIFICATES = Path(__file__).parents[2] / "support" / "certificates"
SETTLED = ("COMPLETED", "FAILED")
OUTAGE = 90.0
"""Seconds of an outage: longer than what the liveness probe and the grace of a first poll are patient for."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, bundle: Path, trixie: Path) -> list[Path]:
    """Build the worker's image as test_container.py does, and the one that holds a pod together."""
    folder = tmp_path_factory.mktemp("podman")
    pause = folder / "pause"
    pause.mkdir()
    with podman(folder) as engine:
        shutil.copy("/usr/bin/catatonit", pause)
        (pause / "Containerfile").write_text('FROM scratch\nCOPY catatonit /\nENTRYPOINT ["/catatonit", "-P"]\n')
        engine.build(pause, PAUSE)
        subprocess.run(["tar", "-C", str(trixie), "-cf", str(folder / "base.tar"), "."], check=True)  # noqa: S603, S607
        engine.ok("import", str(folder / "base.tar"), BASE)
        engine.build(bundle, IMAGE)
        saved = []
        for name in (PAUSE, IMAGE):
            saved.append(folder / f"{len(saved)}.tar")
            engine.ok("save", "--format", "docker-archive", "--output", str(saved[-1]), name)
    return saved


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, images: list[Path]) -> Iterator[Cluster]:
    """Run the cluster for the tests of this file."""
    with cluster(tmp_path_factory.mktemp("cluster"), *images) as made:
        yield made


@pytest.fixture(scope="module")
def account(machine: Cluster) -> Iterator[Platform]:
    """Run the platform, which outlives every worker."""
    with platform(machine, "power", "waits", "begins_anew") as made:
        yield made


@pytest.fixture(scope="module")
def worker(account: Platform) -> Cluster:
    """Install the worker as deploy/kubernetes/README.md says, and wait until it is ready."""
    machine = account.cluster
    machine.ok("create", "namespace", "product-live")
    machine.apply(secret(KEY), disk(machine.folder / "disk"), *manifests())
    machine.ok("rollout", "status", "deployment/product-live-worker", "--timeout=120s")
    return machine


def secret(key: str) -> Object:
    """Give the Secret with the key."""
    data = {"api_key": base64.b64encode(key.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "product-live-worker"}, "data": data}


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


def manifests(**variables: str) -> list[Object]:
    """Give the overlay for one worker as this cluster, which is of 2021, takes it; with the platform of the tests."""
    objects = render(KUBERNETES / "overlays" / "single")
    for each in objects:
        if each["kind"] == "PodDisruptionBudget":
            each["apiVersion"] = "policy/v1beta1"
            del each["spec"]["unhealthyPodEvictionPolicy"]
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            pod["hostAliases"] = [{"ip": "10.233.0.1", "hostnames": ["platform.test"]}]
            pod["volumes"].append({"name": "ca", "configMap": {"name": "ca"}})
            (container,) = pod["containers"]
            container["image"] = IMAGE
            container["volumeMounts"].append({"name": "ca", "mountPath": "/etc/ca"})
            given = {
                "PLW_API__BASE_URL": "https://platform.test",
                "PLW_API__CA_FILE": "/etc/ca/ca.pem",
                "PLW_BUDGET__REQUESTS_PER_MINUTE": "0",
                **variables,
            }
            container["env"] += [{"name": name, "value": value} for name, value in given.items()]
    certificate = {"ca.pem": (CERTIFICATES / "ca.pem").read_text(encoding="ascii")}
    ca = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": certificate}
    return [ca, *objects]


def the_pod(worker: Cluster) -> Object:
    """Give the pod that is not ending."""
    (pod,) = [each for each in worker.pods() if "deletionTimestamp" not in each["metadata"]]
    return pod


def is_ready(pod: Object) -> bool:
    """Whether its readiness probe succeeds."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def restarts(pod: Object) -> int:
    """Count how often Kubernetes has restarted it."""
    return sum(each["restartCount"] for each in pod["status"]["containerStatuses"])


def all_completed(account: Platform, ids: list[str]) -> None:
    """Wait until these executions have ended, each by a success, and see that none was claimed twice."""
    until(lambda: all(status in SETTLED for status in account.status(*ids)), "all executions to end", 180)
    ended = {each["id"]: each for each in account.ask("executions")["executions"] if each["id"] in ids}
    assert {each["status"] for each in ended.values()} == {"COMPLETED"}
    assert all(len([patch for patch in each["patches"] if patch["accepted"]]) == 1 for each in ended.values())


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
    before = the_pod(worker)["metadata"]["name"]
    running = account.submit("waits", *({"seconds": 6} for _ in range(4)))
    until(lambda: account.status(*running) == ["IN_PROGRESS"] * 4, "executions to be claimed")
    waiting = account.submit("waits", *({"seconds": 1} for _ in range(8)))
    worker.apply(*manifests(PLW_LOG__LEVEL="debug"))
    worker.ok("rollout", "status", "deployment/product-live-worker", "--timeout=180s")
    assert the_pod(worker)["metadata"]["name"] != before
    all_completed(account, running + waiting)


def test_a_new_key_needs_no_rollout(worker: Cluster, account: Platform) -> None:
    """The Secret's file follows, and the worker reads it when the old key is refused."""
    pod = the_pod(worker)["metadata"]["uid"]
    account.ask("settings", {"key": "the-next-key"}, "PUT")
    (id,) = account.submit("power", {"power": 5})
    worker.apply(secret("the-next-key"))
    all_completed(account, [id])
    until(lambda: is_ready(the_pod(worker)), "the pod to be ready")
    assert (the_pod(worker)["metadata"]["uid"], restarts(the_pod(worker))) == (pod, 0)


def test_an_eviction_loses_nothing(worker: Cluster, account: Platform) -> None:
    """The disruption budget allows it, the worker drains, and its successor goes on."""
    pod = the_pod(worker)["metadata"]["name"]
    running = account.submit("waits", *({"seconds": 6} for _ in range(4)))
    again = account.submit("begins_anew", {"seconds": 3})
    until(lambda: "SCHEDULED" not in account.status(*running, *again), "executions to be claimed")
    metadata = {"name": pod, "namespace": "product-live"}
    eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/product-live/pods/{pod}/eviction"
    worker.ok("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    until(lambda: pod not in [each["metadata"]["name"] for each in worker.pods()], "the pod to be gone")
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

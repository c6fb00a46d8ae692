"""The worker in the cluster of the tests: its objects, what its pods say, and how its executions have ended."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

from support.cluster import Cluster, Platform, until
from support.kustomize import KUBERNETES, Object, render

KEY = "sandbox-key"
IMAGE = "localhost/product-live-worker:0.1.0"
NODE = "10.233.0.1"
"""Where pods reach what the tests run in the cluster's network."""
CERTIFICATES = Path(__file__).parent / "certificates"
SETTLED = ("COMPLETED", "FAILED")


def secret(**files: str) -> Object:
    """Give the Secret with these files."""
    data = {name: base64.b64encode(text.encode()).decode() for name, text in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "product-live-worker"}, "data": data}


def manifests(overlay: str, *components: str, **variables: str) -> list[Object]:
    """Give an overlay as this cluster, which is of 2021, takes it; with the platform of the tests."""
    objects = render(KUBERNETES / "overlays" / overlay, *components)
    for each in objects:
        if each["kind"] == "PodDisruptionBudget":
            each["apiVersion"] = "policy/v1beta1"
            del each["spec"]["unhealthyPodEvictionPolicy"]
        if each["kind"] == "HorizontalPodAutoscaler":
            each["apiVersion"] = "autoscaling/v2beta2"
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            for constraint in pod.get("topologySpreadConstraints", ()):
                del constraint["matchLabelKeys"]
            pod["hostAliases"] = [{"ip": NODE, "hostnames": ["platform.test"]}]
            pod["volumes"].append({"name": "ca", "configMap": {"name": "ca"}})
            (container,) = pod["containers"]
            container["image"] = IMAGE
            container["volumeMounts"].append({"name": "ca", "mountPath": "/etc/ca"})
            given = {"PLW_API__BASE_URL": "https://platform.test", "PLW_API__CA_FILE": "/etc/ca/ca.pem", **variables}
            container["env"] += [{"name": name, "value": value} for name, value in given.items()]
    certificate = {"ca.pem": (CERTIFICATES / "ca.pem").read_text(encoding="ascii")}
    ca = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": certificate}
    return [ca, *objects]


def name_of(pod: Object) -> str:
    """Give a pod's name."""
    return str(pod["metadata"]["name"])


def living(worker: Cluster) -> list[Object]:
    """Give the pods that are not ending."""
    return [each for each in worker.pods() if "deletionTimestamp" not in each["metadata"]]


def is_ready(pod: Object) -> bool:
    """Whether its readiness probe succeeds."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ()))


def restarts(pod: Object) -> int:
    """Count how often Kubernetes has restarted it."""
    return sum(each["restartCount"] for each in pod["status"]["containerStatuses"])


def evict(worker: Cluster, pod: str) -> subprocess.CompletedProcess[str]:
    """Ask for a pod to be evicted, as `kubectl drain` does; the disruption budget may forbid it."""
    metadata = {"name": pod, "namespace": "product-live"}
    eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": metadata}
    path = f"/api/v1/namespaces/product-live/pods/{pod}/eviction"
    return worker.run("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def ended(account: Platform, ids: list[str]) -> list[dict[str, Any]]:
    """Wait until these executions have ended, see that each was reported once, and give them."""
    until(lambda: all(status in SETTLED for status in account.status(*ids)), "all executions to end", 180)
    found = [each for each in account.ask("executions")["executions"] if each["id"] in ids]
    assert all(len([patch for patch in each["patches"] if patch["accepted"]]) == 1 for each in found)
    return found


def all_completed(account: Platform, ids: list[str]) -> None:
    """Wait until these executions have ended, each by a success, and see that none was claimed twice."""
    assert {each["status"] for each in ended(account, ids)} == {"COMPLETED"}

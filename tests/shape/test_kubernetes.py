"""The manifests of deploy/kubernetes: valid for Kubernetes, restricted, and true to the worker's own settings."""

from __future__ import annotations

import copy
import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from product_live_worker.daemon import LAST_REPORTS
from product_live_worker.settings import Settings, load
from support.kustomize import KUBERNETES, Object, render

OLDEST, NEWEST = "1.31", "1.37"
OWN_KINDS = {"PodMonitor", "ScaledObject"}
"""What operators add to Kubernetes; it has no schema of them."""
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
RENDERED: list[tuple[str, tuple[str, ...]]] = [
    ("single", ("pod-monitor",)),
    ("fleet", ()),
    ("fleet", ("pod-monitor", "autoscaling-keda")),
    ("fleet", ("autoscaling-hpa",)),
]


def rendered(overlay: str, *components: str) -> list[Object]:
    """Give the objects of an overlay."""
    return render(KUBERNETES / "overlays" / overlay, *components)


def one(objects: list[Object], kind: str) -> Object:
    """Give the only object of a kind."""
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def mistakes(objects: list[Object], version: str) -> list[str]:
    """Say what Kubernetes of this version would refuse; a kind that it does not know is one, unless an operator's."""
    found = []
    for each in objects:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{each['kind']}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            if each["kind"] not in OWN_KINDS:
                found.append(error.message)
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize(("overlay", "components"), RENDERED)
def test_kubernetes_takes_what_is_rendered(overlay: str, components: tuple[str, ...], version: str) -> None:
    """The oldest and the newest that is supported, and every field by its name."""
    assert not mistakes(rendered(overlay, *components), version)


def test_a_misspelt_field_and_an_old_kind_are_mistakes() -> None:
    """Else the test above would find nothing."""
    objects = rendered("single")
    wrong = copy.deepcopy(objects)
    pod_of(one(wrong, "Deployment"))["terminationGracePeriod"] = 60
    (found,) = mistakes(wrong, NEWEST)
    assert "terminationGracePeriod" in found
    one(objects, "PodDisruptionBudget")["apiVersion"] = "policy/v1beta1"
    assert mistakes(objects, NEWEST)


def pod_of(deployment: Object) -> Object:
    """Give what a Deployment says of its pods."""
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_is_restricted(overlay: str) -> None:
    """By the Pod Security Standard of that name, which the namespace enforces, and by a root that cannot be written."""
    objects = rendered(overlay)
    assert one(objects, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = pod_of(one(objects, "Deployment"))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert min(pod["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")) > 9999
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for volume in pod["volumes"]:
        assert len(volume.keys() & {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}) == 1
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_secret_is_a_file_that_can_change(overlay: str) -> None:
    """In no variable, readable by the worker's group alone, and without subPath, which would never be updated."""
    objects = rendered(overlay)
    pod = pod_of(one(objects, "Deployment"))
    (container,) = pod["containers"]
    assert all("valueFrom" not in variable for variable in container["env"])
    assert "envFrom" not in container
    (volume,) = [volume for volume in pod["volumes"] if "secret" in volume]
    assert volume["secret"]["defaultMode"] == 0o440
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
    assert mount.keys() == {"name", "mountPath", "readOnly"}
    assert given_to(objects)["api"]["key_file"] == f"{mount['mountPath']}/api_key"
    assert not [each for each in objects if each["kind"] == "Secret"]


def given_to(objects: list[Object]) -> dict[str, Any]:
    """Read the worker's settings out of the rendered objects, where the pod will find them."""
    pod = pod_of(one(objects, "Deployment"))
    config_map = one(objects, "ConfigMap")
    (volume,) = [volume for volume in pod["volumes"] if "configMap" in volume]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    (container,) = pod["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
    ((name, text),) = config_map["data"].items()
    assert {"name": "PLW_CONFIG", "value": f"{mount['mountPath']}/{name}"} in container["env"]
    return tomllib.loads(text)


def settings_of(objects: list[Object], folder: Path) -> Settings:
    """Give the settings as the worker reads them."""
    (folder / "worker.toml").write_text(one(objects, "ConfigMap")["data"]["worker.toml"], encoding="utf-8")
    return load(folder / "worker.toml", {}, require_key=False)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_worker_takes_its_settings_and_they_fit_the_pod(overlay: str, tmp_path: Path) -> None:
    """Its port, its address, and a grace period that is longer than the drain and the last reports."""
    objects = rendered(overlay)
    settings = settings_of(objects, tmp_path)
    assert settings.http.host == "0.0.0.0"  # noqa: S104 (a pod's address is not known before)
    pod = pod_of(one(objects, "Deployment"))
    (container,) = pod["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": settings.http.port}]
    assert pod["terminationGracePeriodSeconds"] >= settings.drain.timeout + LAST_REPORTS + 15
    is_writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    url = settings.state.url
    assert url == given_to(objects)["state"]["url"]
    assert url.startswith("postgresql://") or str(Path(url.removeprefix("sqlite:///")).parent) in is_writable
    assert str(settings.workdir().parent) in is_writable


def test_other_settings_are_another_rollout(tmp_path: Path) -> None:
    """The name of the ConfigMap, which stands in the pod, is made of its content."""
    names = set()
    for drain in ("30s", "31s"):
        folder = tmp_path / drain
        folder.mkdir()
        (folder / "worker.toml").write_text(f'[drain]\ntimeout = "{drain}"\n')
        (folder / "kustomization.yaml").write_text("configMapGenerator: [{name: it, files: [worker.toml]}]\n")
        (config_map,) = render(folder)
        names.add(config_map["metadata"]["name"])
    assert len(names) == 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_what_they_are_for(overlay: str) -> None:
    """Only liveness restarts, and it asks for the worker's own progress; what the platform does is readiness."""
    (container,) = pod_of(one(rendered(overlay), "Deployment"))["containers"]
    asked = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert asked == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    liveness, startup = container["livenessProbe"], container["startupProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert (limits["memory"], "cpu" in limits) == (requests["memory"], False)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_means_the_same_pods(overlay: str) -> None:
    """Of the Deployment, the disruption budget, the network policy, the monitor and the spread."""
    objects = rendered(overlay, "pod-monitor")
    deployment = one(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    spread = pod_of(deployment).get("topologySpreadConstraints", ())
    selectors = [
        deployment["spec"]["selector"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"],
        one(objects, "PodMonitor")["spec"]["selector"],
        *(constraint["labelSelector"] for constraint in spread),
    ]
    assert all(selector == {"matchLabels": labels} for selector in selectors)
    assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} == {"product-live"}


def test_one_worker_has_one_disk_and_is_never_two() -> None:
    """The old pod has ended before the new one starts: two workers on one file would be two on a lock."""
    objects = rendered("single")
    spec = one(objects, "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    claims = [volume for volume in pod_of(one(objects, "Deployment"))["volumes"] if "persistentVolumeClaim" in volume]
    assert [claim["persistentVolumeClaim"]["claimName"] for claim in claims] == [
        one(objects, "PersistentVolumeClaim")["metadata"]["name"]
    ]
    budget = one(objects, "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


def test_a_fleet_keeps_nothing_on_a_disk_and_is_never_without_a_worker() -> None:
    """Its journal is PostgreSQL, whose password is in the Secret; a rollout begins with a new worker."""
    objects = rendered("fleet")
    spec = one(objects, "Deployment")["spec"]
    assert spec["replicas"] > 1
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert {
        constraint["topologyKey"] for constraint in pod_of(one(objects, "Deployment"))["topologySpreadConstraints"]
    } == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
    assert given_to(objects)["state"]["url"] == "postgresql://?service=product-live-worker"
    (container,) = pod_of(one(objects, "Deployment"))["containers"]
    assert {"name": "PGSERVICEFILE", "value": "/run/secrets/product-live-worker/pg_service.conf"} in container["env"]
    ports = {port["port"] for rule in one(objects, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 5432}


@pytest.mark.parametrize("component", ["autoscaling-keda", "autoscaling-hpa"])
def test_an_autoscaler_owns_the_number_and_goes_by_the_workers_own_metric(component: str) -> None:
    """Not by CPU; it lets go more slowly than a drain takes, and the rule that it asks for is there."""
    objects = rendered("fleet", component)
    deployment = one(objects, "Deployment")
    assert "replicas" not in deployment["spec"]
    scaler = next(each for each in objects if each["kind"] in {"ScaledObject", "HorizontalPodAutoscaler"})["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    behavior = scaler.get("behavior") or scaler["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    grace = pod_of(deployment)["terminationGracePeriodSeconds"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] > grace
    said = str(scaler)
    assert "product_live_worker_busy_workers" in said
    assert "cpu" not in said
    rules = (KUBERNETES.parent / "prometheus" / "rules.yml").read_text(encoding="utf-8")
    assert "record: job:product_live_worker_busy_workers:max" in rules


def test_what_the_readme_names_is_there() -> None:
    """Every folder of it, and no other."""
    text = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    folders = {
        f"{kind}/{name}" for kind, names in (("overlays", OVERLAYS), ("components", COMPONENTS)) for name in names
    }
    assert set(re.findall(r"`((?:overlays|components)/[\w-]+)`", text)) == folders
    assert all(f"{version}" in text for version in (OLDEST, NEWEST))


def test_no_two_components_are_in_each_others_way() -> None:
    """All but the two autoscalers, of which one at most is taken."""
    for pair in itertools.combinations(COMPONENTS, 2):
        if pair != ("autoscaling-hpa", "autoscaling-keda"):
            assert rendered("fleet", *pair)

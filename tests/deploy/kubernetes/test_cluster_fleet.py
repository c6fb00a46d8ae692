"""The fleet of deploy/kubernetes on a real cluster and a real PostgreSQL: one budget, and nothing lost or run twice."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster, Platform, until
from support.cluster_worker import (
    CERTIFICATES,
    KEY,
    all_completed,
    ended,
    evict,
    is_ready,
    living,
    manifests,
    name_of,
    restarts,
    secret,
)
from support.debian import need
from support.journals import all_rows
from support.kustomize import KUBERNETES, Object
from support.postgres import PASSWORD, Postgres, remote_postgres

REPLICAS = 3
LIMIT, WINDOW = 50, 6.0
"""The budget, scaled down ten times."""
LEASE = 10.0
README = (KUBERNETES / "README.md").read_text(encoding="utf-8")
DEPLOYMENT = "deployment/product-live-worker"
NAME = "product_live"
"""The README's, of the database and its user."""


@dataclass(frozen=True)
class Fleet:
    """The workers, what they share, and what the tests see of it."""

    cluster: Cluster
    account: Platform
    database: Postgres
    notes: Path
    """Where each run of a handler is noted."""

    def apply(self, *components: str, **variables: str) -> None:
        """Apply the overlay with these components and variables."""
        given = {
            "PLW_BUDGET__REQUESTS_PER_MINUTE": str(LIMIT),
            "PLW_BUDGET__WINDOW": f"{WINDOW}s",
            "PLW_BUDGET__MAX_STALENESS": f"{WINDOW}s",
            "PLW_STATE__LEASE": f"{LEASE}s",
            "NOTES": "/notes",
            **variables,
        }
        objects = manifests("fleet", *components, **given)
        (deployment,) = (each for each in objects if each["kind"] == "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        pod["volumes"].append({"name": "notes", "hostPath": {"path": str(self.notes)}})
        pod["containers"][0]["volumeMounts"] += [
            {"name": "notes", "mountPath": "/notes"},
            # The authority of the tests in place of all those that the image knows.
            {"name": "ca", "mountPath": service()["sslrootcert"], "subPath": "ca.pem"},
        ]
        self.cluster.apply(*objects)

    def scale(self, replicas: int) -> None:
        """Ask for so many workers, and wait until there are no more and no fewer, all ready."""
        self.cluster.ok("scale", DEPLOYMENT, f"--replicas={replicas}")
        until(lambda: self.is_whole(replicas), f"{replicas} workers")

    def is_whole(self, replicas: int = REPLICAS) -> bool:
        """Whether there are just so many pods, and all are ready."""
        pods = self.cluster.pods()
        return len(pods) == replicas and len(self.ready()) == replicas

    def ready(self) -> set[str]:
        """Give the names of the pods that are ready and not ending."""
        return {name_of(pod) for pod in living(self.cluster) if is_ready(pod)}

    def seen_by(self, pod: Object) -> set[str]:
        """Give the pods whose workers this one's worker knows to be alive, itself among them."""
        done = self.cluster.inside("curl", "-sS", "--fail", f"http://{pod['status']['podIP']}:8080/status")
        assert done.returncode == 0, done.stderr
        return {pod_of(each["name"]) for each in json.loads(done.stdout)["workers"] if each["lease_left_seconds"] > 0}

    def rows(self, *ids: str) -> dict[str, dict[str, Any]]:
        """Give the journal's rows of these executions."""
        return {row["id"]: row for row in all_rows(self.database.url(NAME)) if row["id"] in ids}

    def workers_of(self, *ids: str) -> set[str]:
        """Give the pods that these executions are, or were last, in the hands of."""
        return {pod_of(row["holder"]) for row in self.rows(*ids).values()}

    def runs(self, id: str) -> list[str]:
        """Give the pods that have begun to run an execution, one for each time."""
        noted = [line.split() for line in self.notes.read_text(encoding="utf-8").splitlines()]
        return [pod for execution, pod in noted if execution == id]

    def keeps_the_limit(self) -> None:
        """See that no window has held more requests than the limit, and that none was refused."""
        traffic = self.account.ask("requests")
        assert traffic["refused"] == 0
        assert traffic["largest_window"] <= LIMIT

    def completed_once(self, ids: list[str]) -> None:
        """Wait until these executions have completed, and see that each was run and reported once, within the limit."""
        all_completed(self.account, ids)
        assert {id: len(self.runs(id)) for id in ids} == dict.fromkeys(ids, 1)
        self.keeps_the_limit()


def pod_of(holder: str) -> str:
    """Give the pod that a holder of the journal lives in: its name begins with that of the machine."""
    return holder.partition(".")[0]


@pytest.fixture(scope="module")
def database(machine: Cluster) -> Iterator[Postgres]:
    """Run PostgreSQL where the pods reach it as platform.test: by TLS, with a password, as the owner of a database."""
    need("postgresql")
    with remote_postgres(machine.first, CERTIFICATES / "platform.test.pem") as server:
        server.sql(f"CREATE ROLE {NAME} LOGIN PASSWORD '{PASSWORD}'")
        server.sql(f"CREATE DATABASE {NAME} OWNER {NAME}")
        yield server


@pytest.fixture(scope="module")
def installed(account: Platform, database: Postgres) -> Iterator[Fleet]:
    """Install the fleet as deploy/kubernetes/README.md says; in all that is done to it nobody is ever restarted."""
    notes = account.cluster.folder / "notes"
    notes.touch()
    os.chown(notes, 10001, 10001)
    account.ask("settings", {"limit": LIMIT, "window": WINDOW}, "PUT")
    account.cluster.apply(secret(**{"api_key": KEY, "pg_service.conf": service_file()}))
    made = Fleet(account.cluster, account, database, notes)
    made.apply()
    made.cluster.ok("rollout", "status", DEPLOYMENT, "--timeout=120s")
    yield made
    assert {restarts(pod) for pod in living(made.cluster)} == {0}
    events: Any = made.cluster.get("events")["items"]
    # A probe may find a pod that ends without its listener; what would count is that it is restarted for it.
    assert not [each for each in events if each["reason"] in {"Killing", "BackOff"} and "restart" in each["message"]]


@pytest.fixture
def fleet(installed: Fleet) -> Fleet:
    """Give the fleet with all its workers, whatever the test before has done to it."""
    installed.scale(REPLICAS)
    return installed


def service() -> dict[str, str]:
    """Give what the README has in pg_service.conf, with the database of the tests."""
    shown = re.search(r"```ini\n\[product-live-worker\]\n(.*?)```", README, re.DOTALL)
    assert shown
    own = {"host": "platform.test", "dbname": NAME, "user": NAME, "password": PASSWORD}
    return dict(line.split("=") for line in shown[1].splitlines()) | own


def service_file() -> str:
    """Write the file."""
    return "\n".join(["[product-live-worker]", *(f"{name}={value}" for name, value in service().items()), ""])


def test_three_workers_are_one_fleet(fleet: Fleet) -> None:
    """Each has a lease of its own and sees the others; together they end everything, within one limit."""
    names = fleet.ready()
    assert len(names) == REPLICAS
    for pod in living(fleet.cluster):
        until(lambda pod=pod: fleet.seen_by(pod) == names, "all to be seen")
    ids = fleet.account.submit("waits", *({"seconds": 3} for _ in range(60)))
    fleet.completed_once(ids)
    assert fleet.workers_of(*ids) == names
    connections = "SELECT usename, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE client_addr IS NOT NULL"
    assert set(fleet.database.sql(connections)) == {(NAME, True)}


def test_a_rollout_in_the_middle_of_executions_loses_none(fleet: Fleet) -> None:
    """One new worker after the other, never fewer than three, and old and new ones take part in the work."""
    old = fleet.ready()
    ids = fleet.account.submit("waits", *({"seconds": 4} for _ in range(140)))
    until(lambda: fleet.workers_of(*ids) == old, "all to be at work")
    fleet.apply(PLW_LOG__LEVEL="debug")

    def is_over() -> bool:
        deployment = fleet.cluster.get(DEPLOYMENT)
        status = deployment["status"]
        assert status["availableReplicas"] >= REPLICAS
        assert len(living(fleet.cluster)) <= REPLICAS + 1
        seen = status["observedGeneration"] == deployment["metadata"]["generation"]
        return seen and status["updatedReplicas"] == status["replicas"] == REPLICAS

    until(is_over, "the rollout", 180)
    until(fleet.is_whole, "the old workers to be gone")
    new = fleet.ready()
    assert not new & old
    more = fleet.account.submit("waits", *({"seconds": 2} for _ in range(20)))
    fleet.completed_once(ids + more)
    assert fleet.workers_of(*ids) > old
    assert fleet.workers_of(*more) == new


def test_what_a_killed_pod_ran_is_settled_by_another_soon(fleet: Fleet) -> None:
    """Within a lease and five seconds; by the handler's word it has failed, or is run again."""
    (fails,) = fleet.account.submit("waits", {"seconds": 60})
    others = fleet.account.submit("begins_anew", *({"seconds": 12} for _ in range(2 * REPLICAS)))
    until(lambda: all(map(fleet.runs, [fails, *others])), "all to run")
    (killed,) = fleet.runs(fails)
    lost = {id for id in others if fleet.runs(id) == [killed]}
    assert len(lost) == len(others) / REPLICAS
    began = time.time()
    fleet.cluster.ok("delete", "pod", killed, "--grace-period=0", "--force")
    (end,) = ended(fleet.account, [fails])
    assert (end["status"], end["output"]["code"]) == ("FAILED", "worker_restarted")
    row = fleet.rows(fails)[fails]
    assert pod_of(row["holder"]) != killed
    assert row["settled_at"] - began < LEASE + 5.0
    all_completed(fleet.account, others)
    assert {id: len(fleet.runs(id)) for id in others} == {id: 2 if id in lost else 1 for id in others}
    assert killed not in fleet.workers_of(*others)
    fleet.keeps_the_limit()


def test_the_disruption_budget_lets_one_go_at_a_time(fleet: Fleet) -> None:
    """An eviction is allowed, the next one is refused until the successor is ready, and nothing is lost by either."""
    ids = fleet.account.submit("waits", *({"seconds": 4} for _ in range(60)))
    until(lambda: fleet.workers_of(*ids) == fleet.ready(), "all to be at work")
    first, second, _ = sorted(fleet.ready())
    allowed = evict(fleet.cluster, first)
    assert allowed.returncode == 0, allowed.stderr
    refused = evict(fleet.cluster, second)
    assert refused.returncode != 0
    assert "disruption budget" in refused.stderr
    until(lambda: evict(fleet.cluster, second).returncode == 0, "the budget to allow another")
    assert len(fleet.ready() | {second}) == REPLICAS
    until(fleet.is_whole, "their successors")
    assert not {first, second} & fleet.ready()
    fleet.completed_once(ids)


def test_more_workers_and_fewer_lose_nothing(fleet: Fleet) -> None:
    """As an autoscaler does it, in the middle of executions; who is new takes part, and who goes ends its own first."""
    before = fleet.ready()
    ids = fleet.account.submit("waits", *({"seconds": 4} for _ in range(100)))
    fleet.scale(5)
    every = fleet.ready()
    assert every > before
    until(lambda: fleet.workers_of(*ids) == every, "all to take part")
    fleet.scale(2)
    left = fleet.ready()
    assert left < every
    assert "SCHEDULED" in fleet.account.status(*ids)
    fleet.completed_once(ids)
    for pod in living(fleet.cluster):
        until(lambda pod=pod: fleet.seen_by(pod) == left, "the others to go")


def test_an_autoscaler_is_taken_on_without_ending_a_worker(fleet: Fleet) -> None:
    """As the README says: the number stays until the autoscaler, which has no metrics here, wishes for another."""
    ids = fleet.account.submit("waits", *({"seconds": 2} for _ in range(20)))
    (command,) = re.findall(r"```sh\n([^`]*edit-last-applied[^`]*)```", README)
    fleet.cluster.shell(command)
    fleet.apply("autoscaling-hpa")
    scaler = ("horizontalpodautoscalers.v2beta2.autoscaling", "product-live-worker")
    until(lambda: fleet.cluster.get(*scaler)["status"].get("conditions"), "the autoscaler to look")
    assert fleet.cluster.get(DEPLOYMENT)["spec"]["replicas"] == REPLICAS
    fleet.completed_once(ids)
    fleet.cluster.ok("delete", *scaler)
    fleet.apply()

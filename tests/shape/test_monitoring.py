"""What is said about the metrics, and what watches them, is true to their own definitions."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from product_live_worker.telemetry.metrics import CODES, PREFIX, Definition
from support.metrics import definitions, named, undefined

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"


def loaded(path: Path) -> Any:
    """Read a file of YAML."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


RULES = [rule for group in loaded(PROMETHEUS / "rules.yml")["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TESTED = [test for case in loaded(PROMETHEUS / "rules.test.yml")["tests"] for test in case.get("alert_rule_test", ())]


def name_of(rule: dict[str, Any]) -> str:
    """Give what a rule is called."""
    return str(rule.get("alert") or rule["record"])


def test_the_page_names_every_metric_and_no_other() -> None:
    """With its kind, its labels and its meaning, as the worker itself tells them."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert rows == [
        (one.name.removeprefix(PREFIX), one.kind, ", ".join(one.labels), one.meaning) for one in definitions()
    ]


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("product_live_worker_ready{check='journal'} == 0", []),
        ("rate(product_live_worker_handler_seconds_bucket[5m])", []),
        ("task:product_live_worker_defects:increase30m > 3", []),
        ("product_live_worker_redy == 0", ["product_live_worker_redy{}"]),
        ("product_live_worker_ready{kind='journal'}", ["product_live_worker_ready{kind}"]),
        ("product_live_worker_handler_seconds", ["product_live_worker_handler_seconds{}"]),
        ("product_live_worker_ready_count", ["product_live_worker_ready_count{}"]),
    ],
)
def test_what_no_worker_has_is_found_in_an_expression(expression: str, wrong: list[str]) -> None:
    """A name, a label, or a part that only histograms have."""
    assert undefined(expression) == wrong


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_a_rule_asks_for_what_a_worker_has(rule: dict[str, Any]) -> None:
    """A rule on a metric that does not exist would never fire, and nobody would notice."""
    assert not undefined(rule["expr"])
    assert set(re.findall(rf"\w+:{PREFIX}\w+:\w+", rule["expr"])) <= RECORDED
    codes = [code for codes in re.findall(r'code!~"([^"]+)"', rule["expr"]) for code in codes.split("|")]
    assert set(codes) <= CODES | {"own"}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_urgent_it_is_and_what_to_do(alert: str) -> None:
    """Its section in the operations page bears its name, and says the same urgency first."""
    rule = ALERTS[alert]
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {alert}\n\n\*(page|ticket)\.\* ", page, re.MULTILINE)
    assert section is not None
    assert rule["labels"] == {"severity": section[1]}
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{alert.lower()}"
    assert rule["annotations"]["summary"].endswith(".")


def test_no_alert_is_told_of_that_there_is_not() -> None:
    """The operations page and the alerts are one list, in one order."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (ProductLiveWorker\w+)", page, re.MULTILINE) == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_firing_and_not_firing(alert: str) -> None:
    """`make test-deploy` runs these tests with promtool."""
    outcomes = {bool(test["exp_alerts"]) for test in TESTED if test["alertname"] == alert}
    assert outcomes == {True, False}


def test_the_scrape_is_called_what_the_alerts_look_for() -> None:
    """`up` has no other name for the workers."""
    (job,) = loaded(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    looked_for = {name for rule in RULES for name in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert looked_for == {job["job_name"]}


GRAFANA = ROOT / "deploy" / "grafana"
BOARD = json.loads((GRAFANA / "product-live-worker.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
ASKED = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


def test_the_dashboard_is_what_the_script_writes() -> None:
    """`python deploy/grafana/dashboard.py` writes it anew after a metric has changed."""
    script = runpy.run_path(str(GRAFANA / "dashboard.py"))
    defined = {one.name.removeprefix(PREFIX): one for one in definitions()}
    assert script["written"](defined) == (GRAFANA / "product-live-worker.json").read_text(encoding="utf-8")
    added = Definition(f"{PREFIX}new_total", "counter", "New.", ("task",))
    assert '"title": "new_total"' in script["written"]({**defined, "new_total": added})


def test_a_panel_is_told_apart_and_says_what_it_shows() -> None:
    """Titles and numbers are unique, and every panel has a unit and asks the data source that was chosen."""
    for name in ("title", "id"):
        values = [panel[name] for panel in BOARD["panels"]]
        assert len(values) == len(set(values))
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@pytest.mark.parametrize(("title", "target"), ASKED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_panel_asks_for_what_a_worker_has(title: str, target: dict[str, Any]) -> None:
    """Of the chosen job, and the legend names labels that its series have."""
    assert not undefined(target["expr"])
    assert '"$job"' in target["expr"]
    grouped = re.search(r"by \(([^)]+)\)", target["expr"])
    kept = set(grouped[1].split(", ")) if grouped else {"instance", *labels_of(target["expr"])}
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, title


def labels_of(expression: str) -> set[str]:
    """Give the labels of the metrics in an expression."""
    known = {definition.name: definition.labels for definition in definitions()}
    return {label for name, _ in named(expression) for label in known.get(name, ())}


def test_every_metric_is_on_the_dashboard() -> None:
    """What is not shown, nobody sees."""
    shown = {re.sub("_bucket$", "", name) for _, target in ASKED for name, _ in named(target["expr"])}
    assert shown == {definition.name for definition in definitions()}

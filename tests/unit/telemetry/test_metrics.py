"""Events as Prometheus series, under the names that dashboards and alerts rely on."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from product_live_worker import TaskFailed
from product_live_worker.telemetry import events
from product_live_worker.telemetry.events import Event
from product_live_worker.telemetry.metrics import BUCKETS, CODES, CONTENT_TYPE, PREFIX, Metrics

WORKER = Path(__file__).parents[3] / "worker" / "product_live_worker"

ABOUT = {"task": "power", "execution": "e1", "correlation": "c1"}
REPORTED = events.ExecutionReported(
    **ABOUT,
    status="COMPLETED",
    code="",
    message="",
    waited_seconds=0.1,
    ran_seconds=2.0,
    claim_to_report_seconds=2.5,
    attempts=1,
)
SETTLED = events.ExecutionSettled(**ABOUT, status="COMPLETED", code="", handler_seconds=2.0)

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics) -> Series:
    """Read what a scrape gives: the name without its prefix, the labels, the value."""
    families = text_string_to_metric_families(metrics.text().decode())
    samples = [sample for family in families for sample in family.samples]
    assert all(sample.name.startswith(PREFIX) for sample in samples)
    return {
        (sample.name.removeprefix(PREFIX), tuple(sorted(sample.labels.items()))): sample.value
        for sample in samples
        if not sample.name.endswith("_created")
    }


def moved(event: Event) -> Series:
    """Give the series that an event moves, with how much, without buckets."""
    metrics = Metrics("1.2")
    before = scrape(metrics)
    metrics.read(event)
    return {
        series: value - before.get(series, 0)
        for series, value in scrape(metrics).items()
        if value != before.get(series, 0) and not series[0].endswith("_bucket")
    }


@pytest.mark.parametrize(
    ("event", "series"),
    [
        (
            events.TaskPolled(task="power", outcome="failed"),
            {("polls_total", (("outcome", "failed"), ("task", "power"))): 1},
        ),
        (
            SETTLED,
            {
                ("handler_seconds_count", (("task", "power"),)): 1,
                ("handler_seconds_sum", (("task", "power"),)): 2.0,
            },
        ),
        (
            REPORTED,
            {
                ("executions_total", (("status", "COMPLETED"), ("task", "power"))): 1,
                ("claim_to_report_seconds_count", (("task", "power"),)): 1,
                ("claim_to_report_seconds_sum", (("task", "power"),)): 2.5,
            },
        ),
        (
            events.RequestAnswered(operation="poll", code="404", seconds=0.25),
            {
                ("api_requests_total", (("code", "404"), ("operation", "poll"))): 1,
                ("api_request_seconds_count", (("operation", "poll"),)): 1,
                ("api_request_seconds_sum", (("operation", "poll"),)): 0.25,
            },
        ),
        (
            events.BudgetWaited(purpose="report", seconds=0.5),
            {
                ("budget_wait_seconds_count", (("purpose", "report"),)): 1,
                ("budget_wait_seconds_sum", (("purpose", "report"),)): 0.5,
            },
        ),
        (
            replace(REPORTED, status="FAILED", code="timeout"),
            {
                ("executions_total", (("status", "FAILED"), ("task", "power"))): 1,
                ("failures_total", (("code", "timeout"), ("task", "power"))): 1,
                ("claim_to_report_seconds_count", (("task", "power"),)): 1,
                ("claim_to_report_seconds_sum", (("task", "power"),)): 2.5,
            },
        ),
        (events.ClaimAmbiguous(task="power", reason="no answer"), {("claims_ambiguous_total", ()): 1}),
        (
            events.ReportConflicted(**ABOUT, sent="COMPLETED", found="CANCELED"),
            {("report_conflicts_total", ()): 1},
        ),
        (events.DrainTooShort(drain_seconds=30, handlers=("power may",), advice="Set"), {}),
        (events.DrainStarted(reason="SIGTERM", seconds=30, running=1), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_moves_its_series_and_no_other(event: Event, series: Series) -> None:
    """One fact is counted in one place."""
    assert moved(event) == series


def test_the_codes_of_handlers_are_counted_as_one() -> None:
    """A handler may make up as many codes as it likes; a label may not."""
    metrics = Metrics("1.2")
    for code in ("sold_out", "task_failed", "no_such_sku"):
        metrics.read(replace(REPORTED, status="FAILED", code=code))
    counted = {labels: value for (name, labels), value in scrape(metrics).items() if name == "failures_total"}
    assert counted == {(("code", "own"), ("task", "power")): 2, (("code", "task_failed"), ("task", "power")): 1}


def test_every_code_of_the_worker_is_counted_by_its_name() -> None:
    """A code that the worker comes to use one day has to be told apart as well."""
    said = "".join(path.read_text(encoding="utf-8") for path in WORKER.rglob("*.py"))
    used = set(re.findall(r'(?:Outcome\.|_)failed\(\s*"(\w+)"', said)) | {TaskFailed.code}
    assert used == CODES


def test_the_series_of_a_task_begin_at_nothing() -> None:
    """A series that begins with its first event would hide that event from `increase`."""
    metrics = Metrics("1.2")
    metrics.read(events.TasksServed(platform="https://platform.test", tasks=(("power", "power"),)))
    begun = {series for series, value in scrape(metrics).items() if value == 0 and ("task", "power") in series[1]}
    assert begun == {
        *(("polls_total", (("outcome", outcome), ("task", "power"))) for outcome in ("hit", "empty", "failed")),
        *(("executions_total", (("status", status), ("task", "power"))) for status in ("COMPLETED", "FAILED")),
    }


@pytest.mark.parametrize("outcome", ["hit", "empty"])
def test_a_poll_with_an_answer_is_counted_and_dated(outcome: events.PollOutcome) -> None:
    """An empty answer is a success as well; alerts look at the date of the last one."""
    metrics, before = Metrics("1.2"), time.time()
    assert scrape(metrics)["last_successful_poll_timestamp_seconds", ()] == 0
    metrics.read(events.TaskPolled(task="power", outcome=outcome))
    series = scrape(metrics)
    assert series["polls_total", (("outcome", outcome), ("task", "power"))] == 1
    assert before <= series["last_successful_poll_timestamp_seconds", ()] <= time.time()


def test_the_share_of_empty_answers_is_that_of_the_last_hundred_polls_of_the_task() -> None:
    """It shows whether more polls would find more; what failed says nothing about it, and old polls are forgotten."""
    metrics = Metrics("1.2")

    def share(*outcomes: events.PollOutcome) -> float:
        for outcome in outcomes:
            metrics.read(events.TaskPolled(task="power", outcome=outcome))
        metrics.read(events.TaskPolled(task="other", outcome="hit"))
        return scrape(metrics)["poll_empty_ratio", (("task", "power"),)]

    assert share("empty", "hit", "failed", "empty", "empty") == 0.75
    assert share(*(["hit"] * 100)) == 0.0


def test_the_names_are_the_fixed_ones() -> None:
    """Deploy files and documents rely on these names, with these labels and no others."""
    text = Metrics("1.2").text().decode()
    kinds = dict(re.findall(rf"# TYPE {PREFIX}(\w+) (\w+)", text))
    assert {name: kind for name, kind in kinds.items() if not name.endswith("_created")} == {
        "polls_total": "counter",
        "job_log_lines_total": "counter",
        "executions_total": "counter",
        "failures_total": "counter",
        "handler_seconds": "histogram",
        "claim_to_report_seconds": "histogram",
        "api_requests_total": "counter",
        "api_request_seconds": "histogram",
        "budget_wait_seconds": "histogram",
        "claims_ambiguous_total": "counter",
        "report_conflicts_total": "counter",
        "handler_processes_ended_total": "counter",
        "last_successful_poll_timestamp_seconds": "gauge",
        "poll_empty_ratio": "gauge",
        "start_timestamp_seconds": "gauge",
        "info": "gauge",
    }


def test_the_version_is_a_label() -> None:
    """Which version runs where is read from the metrics too."""
    assert scrape(Metrics("1.2"))["info", (("version", "1.2"),)] == 1


def test_buckets_reach_from_ten_milliseconds_to_an_hour() -> None:
    """A handler may take a moment, or wait for a remote job."""
    assert (BUCKETS[0], BUCKETS[-1]) == (0.01, 3600)
    assert sorted(BUCKETS) == list(BUCKETS)
    metrics = Metrics("1.2")
    metrics.read(SETTLED)
    bounds = {dict(labels)["le"] for name, labels in scrape(metrics) if name == "handler_seconds_bucket"}
    assert {float(bound) for bound in bounds} == {*BUCKETS, float("inf")}


def test_a_gauge_is_read_at_each_scrape() -> None:
    """A gauge shows what is, not what was when it was added."""
    waiting = [3]
    metrics = Metrics("1.2")
    metrics.watch({"reports_pending": ("Waiting.", lambda: waiting[0])})
    assert scrape(metrics)["reports_pending", ()] == 3
    waiting[0] = 4
    assert scrape(metrics)["reports_pending", ()] == 4


def test_a_gauge_by_task_has_a_series_for_each_task() -> None:
    """A mapping gives one value by task; tasks come and go with it."""
    in_hand = {"power": 2, "half": 0}
    metrics = Metrics("1.2")
    metrics.watch({"executions_in_flight": ("In hand.", lambda: in_hand)})
    assert scrape(metrics)["executions_in_flight", (("task", "power"),)] == 2
    assert scrape(metrics)["executions_in_flight", (("task", "half"),)] == 0
    by_check = {"journal": True}
    metrics.watch({"ready": ("Passed.", lambda: by_check)}, by="check")
    assert scrape(metrics)["ready", (("check", "journal"),)] == 1
    in_hand.clear()
    assert not any(name == "executions_in_flight" for name, _ in scrape(metrics))


def test_every_series_is_of_a_metric_that_is_defined() -> None:
    """Rules, dashboards and documents are held to the definitions."""
    metrics = Metrics("1.2")
    metrics.watch({"ready": ("Passed.", lambda: {"journal": 1.0}), "stuck_threads": ("Stuck.", lambda: 2)}, by="check")
    metrics.read(events.TasksServed(platform="https://platform.test", tasks=(("power", "power"),)))
    defined = {definition.name.removeprefix(PREFIX): definition for definition in metrics.definitions()}
    for name, labels in scrape(metrics):
        definition = defined[re.sub(r"_(?:bucket|sum|count)$", "", name)]
        assert tuple(sorted(definition.labels)) == tuple(label for label, _ in labels if label != "le")
    kinds = dict(re.findall(rf"# TYPE {PREFIX}(\w+) (\w+)", metrics.text().decode()))
    assert {name: definition.kind for name, definition in defined.items()} == {
        name: kind for name, kind in kinds.items() if not name.endswith("_created")
    }
    assert all(definition.meaning.endswith(".") for definition in defined.values())


def test_two_daemons_in_one_process_do_not_count_for_each_other() -> None:
    """Each daemon has a registry of its own."""
    one, other = Metrics("1.2"), Metrics("1.2")
    one.read(events.ClaimAmbiguous(task="power", reason="no answer"))
    assert scrape(other)["claims_ambiguous_total", ()] == 0


def test_a_scrape_has_a_content_type_that_prometheus_reads() -> None:
    """Prometheus 3 refuses a target that does not name its format."""
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"

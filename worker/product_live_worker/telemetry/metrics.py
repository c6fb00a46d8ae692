"""Events as Prometheus series. Every label is from a bounded set: tasks served, operations, statuses."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from product_live_worker.model.execution import Status
from product_live_worker.telemetry import events
from product_live_worker.telemetry.events import Event, PollOutcome

PREFIX = "product_live_worker_"
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
"""Seconds, from 10 ms to 1 h: a handler may wait for a remote job."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

CODES = frozenset(
    {
        "cancelled",
        "handler_crashed",
        "handler_error",
        "invalid_input",
        "invalid_output",
        "output_too_large",
        "quarantined",
        "repeated",
        "task_failed",
        "timeout",
        "worker_restarted",
    }
)
"""The worker's own codes of failures; a handler may have any, which are counted together as `own`."""

Reading = Callable[[], float | Mapping[str, float]]
"""A gauge's value when it is asked for; a mapping gives one for each value of its label."""
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric as rules and dashboards know it."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...]


class Metrics:
    """One registry for each daemon; `read` is an event's reader, `text` what a scrape gets."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        self._defined: list[Definition] = []
        self._readings: list[_Readings] = []
        self._polls = self._counter("polls_total", "Polls by outcome: hit, empty, failed.", "task", "outcome")
        self._executions = self._counter("executions_total", "Executions reported, by status.", "task", "status")
        self._failures = self._counter("failures_total", "Executions reported as FAILED, by code.", "task", "code")
        self._empty_ratio = self._gauge("poll_empty_ratio", "Share of empty answers in the last 100 polls.", "task")
        self._last_polls: dict[str, deque[bool]] = defaultdict(lambda: deque(maxlen=100))
        self._handler_seconds = self._histogram("handler_seconds", "How long handlers ran.", "task")
        self._claim_to_report = self._histogram("claim_to_report_seconds", "From a claim to its report.", "task")
        self._requests = self._counter("api_requests_total", "Requests to the platform.", "operation", "code")
        self._request_seconds = self._histogram("api_request_seconds", "How long requests took.", "operation")
        self._budget_wait = self._histogram("budget_wait_seconds", "How long requests waited for a slot.", "purpose")
        self._ambiguous = self._counter("claims_ambiguous_total", "Polls that may have claimed what never arrived.")
        self._conflicts = self._counter("report_conflicts_total", "Reports to which the platform had another status.")
        self._processes_ended = self._counter(
            "handler_processes_ended_total", "Handlers' processes that ended during an execution.", "task", "reason"
        )
        self._job_log = self._counter(
            "job_log_lines_total", "Lines for the logs of jobs on the platform: sent, dropped, failed.", "outcome"
        )
        self._last_poll = self._gauge("last_successful_poll_timestamp_seconds", "When a poll last got an answer.")
        self._started = self._gauge("start_timestamp_seconds", "When this process started.")
        self._started.set(time.time())
        self._gauge("info", "The worker's version.", "version").labels(version).set(1)

    def read(self, event: Event) -> None:
        """Count the event."""
        self._count(event)

    def watch(self, readings: Mapping[str, tuple[str, Reading]], *, by: str = "task") -> None:
        """Add gauges that are read at each scrape: name → (help, reading); `by` is the label of those with several."""
        added = _Readings(readings, by)
        self._registry.register(added)
        self._readings.append(added)

    def definitions(self) -> tuple[Definition, ...]:
        """Name every metric, in order."""
        watched = (definition for readings in self._readings for definition in readings.definitions())
        return tuple(sorted((*self._defined, *watched), key=lambda definition: definition.name))

    def text(self) -> bytes:
        """Give everything in Prometheus's text format."""
        return generate_latest(self._registry)

    @singledispatchmethod
    def _count(self, event: Event) -> None:
        """Most events are not counted."""

    @_count.register
    def _(self, event: events.TasksServed) -> None:
        # A series that begins with its first event has no increase that Prometheus could see.
        for task, _ in event.tasks:
            for outcome in get_args(PollOutcome):
                self._polls.labels(task, outcome)
            for status in Status:
                self._executions.labels(task, status.value)

    @_count.register
    def _(self, event: events.TaskPolled) -> None:
        self._polls.labels(event.task, event.outcome).inc()
        if event.outcome != "failed":
            self._last_poll.set(time.time())
            last = self._last_polls[event.task]
            last.append(event.outcome == "empty")
            self._empty_ratio.labels(event.task).set(sum(last) / len(last))

    @_count.register
    def _(self, event: events.ExecutionSettled) -> None:
        self._handler_seconds.labels(event.task).observe(event.handler_seconds)

    @_count.register
    def _(self, event: events.ExecutionReported) -> None:
        self._executions.labels(event.task, event.status).inc()
        if event.status == Status.FAILED:
            self._failures.labels(event.task, event.code if event.code in CODES else "own").inc()
        self._claim_to_report.labels(event.task).observe(event.claim_to_report_seconds)

    @_count.register
    def _(self, event: events.RequestAnswered) -> None:
        self._requests.labels(event.operation, event.code).inc()
        self._request_seconds.labels(event.operation).observe(event.seconds)

    @_count.register
    def _(self, event: events.BudgetWaited) -> None:
        self._budget_wait.labels(event.purpose).observe(event.seconds)

    @_count.register
    def _(self, event: events.ClaimAmbiguous) -> None:
        self._ambiguous.inc()

    @_count.register
    def _(self, event: events.ReportConflicted) -> None:
        self._conflicts.inc()

    @_count.register
    def _(self, event: events.HandlerProcessEnded) -> None:
        self._processes_ended.labels(event.task, event.reason).inc()

    @_count.register
    def _(self, event: events.JobLogLine) -> None:
        self._job_log.labels(event.outcome).inc()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(self._define(name, "counter", meaning, labels), meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(self._define(name, "gauge", meaning, labels), meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        full = self._define(name, "histogram", meaning, labels)
        return Histogram(full, meaning, labels, registry=self._registry, buckets=BUCKETS)

    def _define(self, name: str, kind: Kind, meaning: str, labels: tuple[str, ...]) -> str:
        self._defined.append(Definition(PREFIX + name, kind, meaning, labels))
        return PREFIX + name


class _Readings(Collector):
    def __init__(self, readings: Mapping[str, tuple[str, Reading]], by: str) -> None:
        self._readings = readings
        self._by = by

    def definitions(self) -> Iterable[Definition]:
        for name, (meaning, read) in self._readings.items():
            labels = (self._by,) if isinstance(read(), Mapping) else ()
            yield Definition(PREFIX + name, "gauge", meaning, labels)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, (meaning, read) in self._readings.items():
            value = read()
            if isinstance(value, Mapping):
                family = GaugeMetricFamily(PREFIX + name, meaning, labels=[self._by])
                for label, number in value.items():
                    family.add_metric([label], number)
                yield family
            else:
                yield GaugeMetricFamily(PREFIX + name, meaning, value=value)

"""Writes product-live-worker.json beside it, out of the metrics' own definitions.

What is shown where is below, in the order in which an operator asks. Names, labels, descriptions, units and queries
come from the worker; a metric that no row has yet is shown in the last one.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as parts

from product_live_worker.daemon import open_daemon
from product_live_worker.settings import load
from product_live_worker.telemetry import log
from product_live_worker.telemetry.metrics import PREFIX, Definition

TARGET = Path(__file__).parent / "product-live-worker.json"
SOURCE = parts.DataSourceRef(type_val="prometheus", uid="${datasource}")
OF_WORKERS = 'job="$job", instance=~"$instance"'
PER_MINUTE = "cpm"


@dataclass(frozen=True)
class Panel:
    """What is asked; `metrics` are names without the prefix, or, with `asks`, what that expression is about."""

    title: str
    metrics: tuple[str, ...]
    form: Literal["lines", "number"] = "lines"
    where: str = ""
    """What else the series have to match."""
    asks: str = ""
    """The expression, where it is none of those that a kind of metric has; $$ is what all series have to match."""
    unit: str = ""
    words: tuple[tuple[str, str, str], ...] = ()
    """What a value means, and in which colour."""
    wide: int = 8
    tall: int = 7


YES = (("0", "no", "green"), ("1", "yes", "red"))
OK = (("0", "no", "red"), ("1", "ok", "green"))
SOME = (("0", "none", "green"),)

ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it healthy?": (
        Panel("Workers that answer", (), "number", asks="sum(up{$$})", unit="short", wide=3, tall=4),
        Panel(
            "Alerts firing",
            (),
            "number",
            asks='count(ALERTS{alertname=~"ProductLiveWorker.+", alertstate="firing", job="$job"}) or vector(0)',
            unit="short",
            words=SOME,
            wide=3,
            tall=4,
        ),
        Panel("Ready", ("ready",), "number", asks=f"min by (check) ({PREFIX}ready{{$$}})", words=OK, wide=9, tall=4),
        Panel("Key refused", ("key_refused",), "number", words=YES, wide=3, tall=4),
        Panel("Last answer to a poll", ("last_successful_poll_timestamp_seconds",), "number", wide=3, tall=4),
        Panel("Running since", ("start_timestamp_seconds",), "number", wide=3, tall=4),
        Panel("Polls overdue", ("poll_overdue_seconds",), wide=8),
        Panel("Results that wait", ("reports_pending",), wide=8),
        Panel("Results refused for good", ("reports_undeliverable",), "number", words=SOME, wide=4),
        Panel("Version", ("info",), "number", asks=f"count by (version) ({PREFIX}info{{$$}})", unit="short", wide=4),
    ),
    "What is it doing?": (
        Panel("Executions reported", ("executions_total",)),
        Panel("Executions in hand", ("executions_in_flight", "concurrency")),
        Panel("Polls", ("polls_total",)),
        Panel("Longest wait for a claim, by plan", ("pickup_delay_bound_seconds",)),
        Panel("Polls that find nothing", ("poll_empty_ratio",), unit="percentunit"),
        Panel("Processes of handlers", ("handler_processes",)),
    ),
    "Where do the time and the budget go?": (
        Panel("The budget", ("budget_used", "budget_limit", "budget_limit_configured")),
        Panel("Requests", ("api_requests_total",)),
        Panel("Waits for a slot of the budget", ("budget_wait_seconds",)),
        Panel("From claim to report", ("claim_to_report_seconds",)),
        Panel("In the handlers", ("handler_seconds",)),
        Panel("In requests", ("api_request_seconds",)),
        Panel("Lag of the event loop", ("loop_lag_seconds",)),
    ),
    "What failed?": (
        Panel("Failures, by code", ("failures_total",)),
        Panel("Requests without success", ("api_requests_total",), where='code!~"2.."'),
        Panel("Polls that may have claimed what never arrived", ("claims_ambiguous_total",)),
        Panel("Reports to which the platform had another status", ("report_conflicts_total",)),
        Panel("Lines for the logs of jobs", ("job_log_lines_total",)),
        Panel("Threads that do not end", ("stuck_threads",)),
        Panel("Processes of handlers that ended", ("handler_processes_ended_total",)),
        Panel(
            "Restarts within an hour",
            ("start_timestamp_seconds",),
            asks=f"changes({PREFIX}start_timestamp_seconds{{$$}}[1h])",
            unit="short",
        ),
    ),
}


async def definitions() -> dict[str, Definition]:
    """Ask a worker that is opened for this, and that asks nobody, for its metrics."""
    with tempfile.TemporaryDirectory() as state:
        given = {"API__KEY": "none", "HTTP__PORT": "0", "STATE__URL": f"sqlite:///{state}/worker.db"}
        settings = load(None, {"PLW_CONFIG": "/dev/null", **{f"PLW_{name}": value for name, value in given.items()}})
        log.configure("error")
        async with open_daemon(settings, {}) as daemon:
            return {one.name.removeprefix(PREFIX): one for one in daemon.metrics.definitions()}


def written(defined: dict[str, Definition]) -> str:
    """Give the dashboard as the file has it."""
    board = (
        dashboard.Dashboard("product-live-worker")
        .uid("product-live-worker")
        .description(
            "Workers of Product-Live: are they healthy, what do they do, where do time and budget go, what failed."
        )
        .tags(["product-live"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(parts.DashboardCursorSync.CROSSHAIR)
        .editable()
    )
    for variable in _variables():
        board = board.with_variable(variable)
    number = itertools.count(1)
    for title, panels in {**ROWS, **_left_over(defined)}.items():
        board = board.with_row(dashboard.Row(title).id(next(number)))
        for panel in panels:
            drawn = _drawn(panel, [defined[name] for name in panel.metrics])
            board = board.with_panel(drawn.id(next(number)))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _left_over(defined: dict[str, Definition]) -> dict[str, tuple[Panel, ...]]:
    shown = {name for panels in ROWS.values() for panel in panels for name in panel.metrics}
    missing = [name for name in defined if name not in shown]
    return {"What else?": tuple(Panel(name, (name,)) for name in missing)} if missing else {}


def _variables() -> Iterator[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    yield dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    for name, of, several in (("job", "info", False), ("instance", "info", True), ("task", "polls_total", True)):
        only = "" if name == "job" else '{job="$job"}'
        variable = (
            dashboard.QueryVariable(name)
            .label(name.capitalize())
            .datasource(SOURCE)
            .query(f"label_values({PREFIX}{of}{only}, {name})")
            .refresh(parts.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(parts.VariableSort.ALPHABETICAL_ASC)
        )
        yield variable.multi(True).include_all(True).all_value(".*") if several else variable


def _drawn(panel: Panel, metrics: list[Definition]) -> stat.Panel | timeseries.Panel:
    drawn = _number(panel) if panel.form == "number" else _lines()
    meanings = dict.fromkeys(metric.meaning for metric in metrics)
    drawn = drawn.title(panel.title).datasource(SOURCE).span(panel.wide).height(panel.tall)
    drawn = drawn.unit(panel.unit or _unit(metrics[0]))
    if meanings:
        drawn = drawn.description(" ".join(meanings))
    if panel.words:
        drawn = drawn.mappings([_words(panel.words)])
    for expression, legend in _asked(panel, metrics):
        target = prometheus.Dataquery().expr(expression).legend_format(legend)
        drawn = drawn.with_target(target.instant() if panel.form == "number" else target.range())
    return drawn


def _number(panel: Panel) -> stat.Panel:
    named = looks.BigValueTextMode.VALUE_AND_NAME if panel.title == "Ready" else looks.BigValueTextMode.AUTO
    if panel.metrics == ("info",):
        named = looks.BigValueTextMode.NAME
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"])
    colours = dashboard.ThresholdsConfig().mode(parts.ThresholdsMode.ABSOLUTE)
    colours = colours.steps([parts.Threshold(value=None, color="red" if panel.words == SOME else "text")])
    number = stat.Panel().reduce_options(reduced).graph_mode(looks.BigValueGraphMode.NONE).text_mode(named)
    return number.thresholds(colours)


def _lines() -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(looks.LegendDisplayMode.LIST)
    legend = legend.placement(looks.LegendPlacement.BOTTOM).show_legend(True)
    return timeseries.Panel().min(0).line_width(1).fill_opacity(10).legend(legend)


def _words(words: Iterable[tuple[str, str, str]]) -> parts.ValueMap:
    shown = {
        value: parts.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, text, colour) in enumerate(words)
    }
    return parts.ValueMap(options=shown)


def _asked(panel: Panel, metrics: list[Definition]) -> Iterator[tuple[str, str]]:
    """Give the expressions of a panel, each with its legend."""
    if panel.asks:
        kept = panel.asks.partition("by (")[2].partition(")")[0]
        yield panel.asks.replace("$$", OF_WORKERS), f"{{{{{kept}}}}}" if kept else "{{instance}}"
        return
    for metric in metrics:
        of_task = 'task=~"$task"' if "task" in metric.labels else ""
        only = f"{{{', '.join(filter(None, (OF_WORKERS, of_task, panel.where)))}}}"
        kept = ", ".join(metric.labels)
        legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
        match metric.kind:
            case "counter":
                summed = f"sum by ({kept})" if kept else "sum"
                yield f"60 * {summed} (rate({metric.name}{only}[$__rate_interval]))", legend or "all"
            case "histogram":
                for part in (0.5, 0.95):
                    rates = f"sum by ({kept}, le) (rate({metric.name}_bucket{only}[$__rate_interval]))"
                    yield f"histogram_quantile({part}, {rates})", f"{legend} p{part * 100:g}"
            case "gauge":
                what = metric.name.removeprefix(PREFIX) if len(metrics) > 1 else ""
                is_moment = metric.name.endswith("_timestamp_seconds")
                yield (
                    f"{metric.name}{only}" + " * 1000" * is_moment,
                    " ".join(filter(None, ("{{instance}}", legend, what))),
                )


def _unit(metric: Definition) -> str:
    if metric.kind == "counter":
        return PER_MINUTE
    if metric.name.endswith("_timestamp_seconds"):
        return "dateTimeFromNow"
    return "s" if metric.name.endswith("_seconds") else "short"


if __name__ == "__main__":
    TARGET.write_text(written(anyio.run(definitions)), encoding="utf-8")

"""Events as log lines: JSON, one canonical line for each execution, and never a secret, an input or an output."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
import typing
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from product_live_worker.telemetry import events
from product_live_worker.telemetry.events import Event
from product_live_worker.telemetry.log import LINES, log_event, log_for
from support.logs import Terminal, lines, logging_to

KEY = "plk-4711-secret"
PAYLOAD = "what the job sent"
ABOUT = {"task": "power", "execution": "e1", "correlation": "c1"}
REPORTED = events.ExecutionReported(
    **ABOUT,
    status="FAILED",
    code="no_data",
    message="No data.",
    waited_seconds=0.0123456,
    ran_seconds=2.0,
    claim_to_report_seconds=2.5,
    attempts=1,
)


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Log as JSON, everything, with a secret to be kept."""
    stream = io.StringIO()
    with logging_to(stream, "debug", "json", secrets=lambda: [KEY]):
        yield stream


def every_event() -> list[type[Event]]:
    """Give all kinds of events."""
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    return [kind for kind in kinds if kind not in (Event, events.ExecutionEvent)]


def an_event(kind: type[Event], error: BaseException | None = None) -> Event:
    """Give an event of this kind with some values."""
    hints = typing.get_type_hints(kind)
    values = {
        str: "text",
        str | None: "text",
        int: 1,
        float: 1.5,
        BaseException: error or ValueError("no"),
        events.PollOutcome: "hit",
        tuple[str, ...]: ("a problem",),
        tuple[tuple[str, str], ...]: (("power", "power"),),
    }
    return kind(**{field.name: values[hints[field.name]] for field in dataclasses.fields(kind)})


# Lines


@pytest.mark.parametrize("kind", every_event())
def test_every_event_that_has_a_line_is_one_line_of_json(kind: type[Event], out: io.StringIO) -> None:
    """A line has its moment, its level, its words, and the event's facts; an event without a line is only counted."""
    log_event(an_event(kind))
    if kind not in LINES:
        assert out.getvalue() == ""
        return
    (line,) = lines(out)
    level, words = LINES[kind]
    assert line["event"] == words
    assert line["level"] == level or (kind is events.ReportPostponed and line["level"] == "warning")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
    said = {field.name for field in dataclasses.fields(kind)}
    assert said - {"error"} <= set(line)
    assert ("exception" in line) is ("error" in said)


def test_an_execution_has_one_canonical_line(out: io.StringIO) -> None:
    """Its report says all that one wants to know of an execution, in one line, rounded to what can be read."""
    log_event(REPORTED)
    (line,) = lines(out)
    assert {name: value for name, value in line.items() if name != "timestamp"} == {
        "level": "info",
        "event": "execution reported",
        **ABOUT,
        "status": "FAILED",
        "code": "no_data",
        "message": "No data.",
        "waited_seconds": 0.012,
        "ran_seconds": 2.0,
        "claim_to_report_seconds": 2.5,
        "attempts": 1,
    }


@pytest.mark.parametrize(
    "kind", [kind for kind in every_event() if issubclass(kind, events.ExecutionEvent)], ids=lambda kind: kind.__name__
)
def test_every_line_of_an_execution_carries_its_correlation_id(kind: type[Event], out: io.StringIO) -> None:
    """The job's id finds all lines of its executions."""
    log_event(dataclasses.replace(an_event(kind), **ABOUT))
    (line,) = lines(out)
    assert ABOUT.items() <= line.items()


@pytest.mark.parametrize("kind", every_event())
def test_no_event_has_room_for_an_input_or_an_output(kind: type[Event]) -> None:
    """What no event carries, no reader can write down."""
    assert not {"input", "output", "key", "body"} & {field.name for field in dataclasses.fields(kind)}


def test_what_is_empty_is_left_out_and_zero_is_not(out: io.StringIO) -> None:
    """A line has no empty fields; a nought is a fact."""
    log_event(events.WorkerStopped(unreported=0, left_running=0))
    log_event(dataclasses.replace(REPORTED, correlation=None, code="", message=""))
    stopped, reported = lines(out)
    assert (stopped["unreported"], stopped["left_running"]) == (0, 0)
    assert not {"correlation", "code", "message"} & set(reported)


def test_the_tasks_served_are_one_readable_text(out: io.StringIO) -> None:
    """A task is named with its handler only where they differ."""
    log_event(events.TasksServed(platform="https://x", tasks=(("power", "power"), ("a", "b"))))
    assert lines(out)[0]["tasks"] == "power, a by b"


def test_the_first_postponed_report_is_a_warning_and_the_next_are_not(out: io.StringIO) -> None:
    """An outage is told on its edge, not once for each attempt."""
    for attempts in (1, 2, 3):
        log_event(events.ReportPostponed(**ABOUT, reason="503", attempts=attempts, again_in=1.0))
    assert [line["level"] for line in lines(out)] == ["warning", "debug", "debug"]


def test_a_handlers_log_carries_its_execution(out: io.StringIO) -> None:
    """Lines of a handler's own are found by execution and job like the worker's; what is unknown is left out."""
    log = log_for(task="power", execution="e1", correlation=None)
    for write in (log.debug, log.info, log.warning, log.error):
        write("half done", rows=7)
    written = lines(out)
    assert [line["level"] for line in written] == ["debug", "info", "warning", "error"]
    assert all((line["task"], line["execution"], line["rows"]) == ("power", "e1", 7) for line in written)
    assert "correlation" not in written[0]


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
@pytest.mark.parametrize("standard", [True, False])
def test_lines_below_the_level_are_not_written(level: str, count: int, standard: bool) -> None:
    """The level holds for the worker's lines and for those of libraries."""
    stream = io.StringIO()
    with logging_to(stream, level, "json"):
        log = logging.getLogger("some.library") if standard else log_for()
        for write in (log.debug, log.info, log.warning, log.error):
            write("said")
    assert len(lines(stream)) == count


def test_a_terminal_gets_readable_lines_and_a_pipe_gets_json() -> None:
    """Whoever reads gets what they can read, unless the setting says otherwise."""
    for stream, format, is_json in (
        (Terminal(), "auto", False),
        (io.StringIO(), "auto", True),
        (io.StringIO(), "text", False),
        (Terminal(), "json", True),
    ):
        with logging_to(stream, "info", format):
            log_event(REPORTED)
        text = stream.getvalue()
        assert text.startswith("{") is is_json
        assert "execution reported" in text
        assert len(text.splitlines()) == 1


# Secrets


def said_by_worker() -> None:
    """Say the key in an event."""
    log_event(events.OutageStarted(what="polling", reason=f"401 for {KEY}"))


def said_by_handler() -> None:
    """Say the key in a handler's line, as its words, a field and a key."""
    log_for(task="power").info(f"using {KEY}", header={"X-Api-Key": KEY}, several=[KEY, KEY], **{KEY: 1})


def said_by_library() -> None:
    """Say the key by the standard logging."""
    logging.getLogger("some.library").warning("sent %s", KEY)


def said_in_traceback() -> None:
    """Say the key as the text of an exception."""
    log_event(events.HandlerFailed(**ABOUT, error=ValueError(f"bad key {KEY}")))


def said_in_librarys_traceback() -> None:
    """Say the key as the text of an exception that the standard logging writes."""
    try:
        int(KEY)
    except ValueError:
        logging.getLogger("some.library").exception("failed")


SAID = [said_by_worker, said_by_handler, said_by_library, said_in_traceback, said_in_librarys_traceback]


@pytest.mark.parametrize("say", SAID)
@pytest.mark.parametrize("format", ["json", "text"])
def test_no_line_holds_a_secret_whoever_writes_it(say: typing.Callable[[], None], format: str) -> None:
    """The key is in no line, of the worker, of a handler, of a library, or in a traceback."""
    stream = io.StringIO()
    with logging_to(stream, "debug", format, secrets=lambda: [KEY]):
        say()
    assert KEY not in stream.getvalue()
    assert "***" in stream.getvalue()


@given(secret=st.text(min_size=6, max_size=30))
@pytest.mark.parametrize("format", ["json", "text"])
def test_a_secret_of_any_letters_is_hidden_as_it_is_written(secret: str, format: str) -> None:
    """Quotes, backslashes and accents are written in other ways by JSON and on a terminal; they are hidden as well."""
    stream = io.StringIO()
    with logging_to(stream, "debug", format, secrets=lambda: [secret]):
        log_for().info("<<<", value=secret)
    text = stream.getvalue()
    assert "***" in text
    assert secret not in text.replace("***", "")
    assert json.dumps(secret)[1:-1] not in text


def test_a_key_that_was_changed_is_hidden_from_then_on(out: io.StringIO) -> None:
    """Secrets are asked for at each line, so a rotated key is known."""
    keys = ["first-key"]
    with logging_to(out, "info", "json", secrets=lambda: keys):
        keys[0] = "second-key"
        log_for().info("second-key")
    assert "second-key" not in out.getvalue()


def test_no_secret_at_all_hides_nothing() -> None:
    """An empty key, as before the settings are read, leaves the lines as they are."""
    stream = io.StringIO()
    with logging_to(stream, "info", "json", secrets=lambda: [""]):
        log_for().info("plain")
    assert lines(stream)[0]["event"] == "plain"


def test_a_secret_that_begins_like_another_is_hidden_whole() -> None:
    """The longer of two is looked for first, so that its end does not stay."""
    stream = io.StringIO()
    with logging_to(stream, "info", "json", secrets=lambda: ["abc123", "abc123-tail"]):
        log_for().info("abc123-tail abc123")
    assert lines(stream)[0]["event"] == "*** ***"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.parametrize("format", ["json", "text"])
def test_a_traceback_never_shows_local_variables(stream: type[io.StringIO], format: str) -> None:
    """The variables of a handler are its inputs; a traceback shows code and nothing else."""

    def handle(payload: str) -> None:
        raise ValueError("no such row", len(payload))

    out = stream()
    with logging_to(out, "debug", format):
        try:
            handle(PAYLOAD)
        except ValueError as error:
            log_event(events.HandlerFailed(**ABOUT, error=error))
            log_for().error("failed", exc_info=True)
            logging.getLogger("some.library").exception("failed")
    assert out.getvalue().count("Traceback") == 3
    assert "no such row" in out.getvalue()
    assert PAYLOAD not in out.getvalue()


# Libraries and plugins


def test_lines_of_the_standard_logging_come_out_like_ours(out: io.StringIO) -> None:
    """A plugin that logs in the usual way is read in the same place, with the logger's name."""
    logging.getLogger("some.plugin").warning("%d rows", 7)
    (line,) = lines(out)
    assert (line["event"], line["level"], line["logger"]) == ("7 rows", "warning", "some.plugin")


@pytest.mark.parametrize(
    ("level", "shown"), [(1, "debug"), (5, "debug"), (25, "info"), (35, "warning"), (50, "critical"), (70, "critical")]
)
def test_a_librarys_own_level_is_shown_as_the_standard_one_below(level: int, shown: str) -> None:
    """A level such as NOTICE or TRACE is no reason to fail in the middle of a handler."""
    stream = io.StringIO()
    with logging_to(stream, "debug", "json"):
        logging.getLogger().setLevel(1)
        logging.getLogger("some.library").log(level, "said")
    assert lines(stream)[0]["level"] == shown


def test_a_line_whose_values_do_not_fit_is_written_without_them() -> None:
    """A mistake in a library's log line neither breaks a handler nor prints its values somewhere else."""
    stream = io.StringIO()
    with logging_to(stream, "info", "json"):
        logging.getLogger("some.library").warning("%d rows of %s", KEY)  # noqa: PLE1206 (the mistake that is tested)
    assert lines(stream)[0]["event"] == "%d rows of %s"


def test_a_traceback_that_is_none_does_no_harm(out: io.StringIO) -> None:
    """logging.exception outside of an except clause is a line like any other."""
    logging.getLogger("some.library").exception("nothing happened")  # noqa: LOG004 (the mistake that is tested)
    assert lines(out)[0]["event"] == "nothing happened"


@pytest.mark.parametrize("name", ["httpx", "httpcore.connection", "uvicorn.error", "asyncio", "sqlalchemy.engine"])
def test_chatty_libraries_are_heard_from_a_warning_on(name: str, out: io.StringIO) -> None:
    """Httpx would log every request, with its address; only trouble is of use."""
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("trouble")
    assert [line["event"] for line in lines(out)] == ["trouble"]


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_text_that_is_no_unicode_can_be_logged(format: str) -> None:
    """The name of a file may be no UTF-8; a line that holds it is written all the same, as bytes too."""
    stream = io.StringIO()
    with logging_to(stream, "info", format):
        log_for().info("no such file: caf\udce9", name="\ud800")
        log_event(events.HandlerFailed(**ABOUT, error=ValueError("caf\udce9")))
    assert "caf" in stream.getvalue()
    stream.getvalue().encode("utf-8")


def test_without_a_stream_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon's log is its standard output; who runs it decides where that goes."""
    with logging_to(None, "info", "json"):
        log_for().info("said")
    assert json.loads(capsys.readouterr().out)["event"] == "said"

"""The settings: where they come from, what is allowed, and what a mistake is told."""

import contextlib
import os
import sys
from pathlib import Path

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from product_live_worker.model.errors import SettingsError
from product_live_worker.model.task import TaskSettings
from product_live_worker.settings import Settings, admin_token, api_key, check_admin_token, known_secrets, load
from product_live_worker.settings.values import seconds, size

KEY = "a-very-secret-key"
posix = pytest.mark.skipif(sys.platform == "win32", reason="permissions are those of POSIX")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start in a folder without settings."""
    monkeypatch.chdir(tmp_path)


def read(toml: str = "", **environ: str) -> Settings:
    """Load settings with a key from this file and this environment."""
    return load(_written(toml), {"PLW_API__KEY": KEY, **environ})


def _written(toml: str) -> Path:
    file = Path("worker.toml")
    file.write_text(toml, encoding="utf-8")
    return file


def problems(toml: str = "", **environ: str) -> tuple[str, ...]:
    """Load settings that cannot be used; gives what is said of them."""
    with pytest.raises(SettingsError) as caught:
        read(toml, **environ)
    return caught.value.problems


def problem(toml: str = "", **environ: str) -> str:
    """Load settings with one mistake; gives what is said of it."""
    (line,) = problems(toml, **environ)
    assert "\n" not in line
    return line


# ── Where settings come from ──


def test_a_url_and_a_key_in_the_environment_are_enough() -> None:
    """A new user sets two variables and nothing else."""
    settings = load(None, {"PLW_API__BASE_URL": "http://127.0.0.1:9000", "PLW_API__KEY": KEY})
    assert (settings.api.base_url, api_key(settings.api)) == ("http://127.0.0.1:9000", KEY)
    assert Settings(api=settings.api) == settings


def test_the_environment_wins_over_the_file_setting_by_setting() -> None:
    """A variable replaces its own setting and leaves its neighbours in the file alone."""
    settings = read("[http]\nport = 1\nhost = '::1'", PLW_HTTP__PORT="2")
    assert (settings.http.port, settings.http.host) == (2, "::1")


def test_the_option_wins_over_the_variable_and_the_variable_over_the_place() -> None:
    """`--config`, else PLW_CONFIG, else ./config/worker.toml."""
    Path("config").mkdir()
    for port, name in enumerate(("config/worker.toml", "variable.toml", "option.toml"), start=1):
        Path(name).write_text(f"[http]\nport = {port}", encoding="utf-8")
    environ = {"PLW_CONFIG": "variable.toml"}
    assert load(None, {}, require_key=False).http.port == 1
    assert load(None, environ, require_key=False).http.port == 2
    assert load(Path("option.toml"), environ, require_key=False).http.port == 3


def test_nothing_of_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the environment that was passed in."""
    monkeypatch.setenv("PLW_HTTP__PORT", "1")
    assert load(None, {}, require_key=False).http.port == 8080


def test_a_file_may_begin_with_a_byte_order_mark() -> None:
    """Windows editors write one."""
    assert read("\ufeff[http]\nport = 1").http.port == 1


def test_systemd_says_where_state_is_kept() -> None:
    """The journal is in the first of the service's state directories, unless a setting says otherwise."""
    assert load(None, {}, require_key=False).state.url == "sqlite:///state/worker.db"
    state = os.pathsep.join(("/var/lib/worker", "/elsewhere"))
    assert read(STATE_DIRECTORY=state).state.url == "sqlite:////var/lib/worker/worker.db"
    assert read("[state]\nurl = 'sqlite:///my.db'", STATE_DIRECTORY=state).state.url == "sqlite:///my.db"


def test_settings_are_frozen() -> None:
    """Nothing changes a setting once it is read."""
    settings = read()
    with pytest.raises(ValidationError):
        settings.http.port = 1
    with pytest.raises(ValidationError):
        settings.http = settings.http


def test_the_sections_of_tasks_speak_the_words_of_the_model() -> None:
    """What a section leaves out is None, so that the handler's decorator has the word."""
    settings = read("[tasks.power]\ntimeout = '5m'\nsettings = { a = 1 }\n[tasks.'64a']\non_crash = 'rerun'")
    assert settings.task_settings() == {
        "power": TaskSettings(timeout=300.0, settings={"a": 1}),
        "64a": TaskSettings(on_crash="rerun"),
    }


# ── The key ──


def test_the_key_is_taken_out_of_the_environment() -> None:
    """What this process starts cannot inherit the key."""
    environ = {"PLW_API__KEY": KEY, "PATH": "/bin"}
    load(None, environ)
    assert environ == {"PATH": "/bin"}


def test_the_key_is_taken_out_of_the_environment_although_settings_are_wrong() -> None:
    """A mistake elsewhere does not leave the key behind."""
    environ = {"PLW_API__KEY": KEY, "PLW_HTTP__PORT": "x"}
    with pytest.raises(SettingsError):
        load(None, environ)
    assert "PLW_API__KEY" not in environ


def test_no_text_of_the_settings_shows_the_key() -> None:
    """repr, str and JSON of the settings hide it."""
    settings = read()
    assert KEY not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_white_space_around_the_key_is_dropped() -> None:
    """Files and secrets end with a newline more often than not."""
    assert api_key(load(None, {"PLW_API__KEY": f" {KEY}\r\n"}).api) == KEY
    Path("key").write_text(f"\ufeff{KEY}\n", encoding="utf-8")
    assert api_key(load(None, {"PLW_API__KEY_FILE": "key"}).api) == KEY


def test_the_key_file_is_read_afresh() -> None:
    """A key that was rotated in its file needs no restart."""
    Path("key").write_text("old", encoding="utf-8")
    settings = load(None, {"PLW_API__KEY_FILE": "key"})
    Path("key").write_text("new", encoding="utf-8")
    assert api_key(settings.api) == "new"


def test_systemd_passes_the_key_as_a_credential() -> None:
    """The credential is used when no setting names a key."""
    Path("product_live_api_key").write_text("of systemd", encoding="utf-8")
    Path("key").write_text("of the setting", encoding="utf-8")
    credentials = {"CREDENTIALS_DIRECTORY": "."}
    assert api_key(load(None, {**credentials}).api) == "of systemd"
    assert api_key(load(None, {**credentials, "PLW_API__KEY_FILE": "key"}).api) == "of the setting"
    assert api_key(load(None, {**credentials, "PLW_API__KEY": KEY}).api) == KEY


def test_a_missing_key_is_told_with_all_three_ways_to_give_it() -> None:
    """Whoever starts the worker for the first time learns what to do."""
    with pytest.raises(SettingsError) as caught:
        load(None, {})
    assert all(way in str(caught.value) for way in ("PLW_API__KEY", "api.key_file", "product_live_api_key"))


def test_the_sandbox_needs_no_key() -> None:
    """`run --sandbox` loads settings without one."""
    settings = load(None, {}, require_key=False)
    with pytest.raises(SettingsError, match="PLW_API__KEY"):
        api_key(settings.api)


@pytest.mark.parametrize(
    ("key", "finding"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("two\nlines", "several lines"),
        ("nul\0", "control character"),
        ("clé", "outside of ASCII"),
        ("“quoted”", "outside of ASCII"),
    ],
)
def test_an_unusable_key_is_told_without_showing_it(key: str, finding: str) -> None:
    """A key that no header can carry is refused at the start, in the environment as in its file."""
    Path("key").write_bytes(key.encode())
    line = problem(PLW_API__KEY=key)
    with pytest.raises(SettingsError) as caught:
        load(None, {"PLW_API__KEY_FILE": "key"})
    assert line.startswith("PLW_API__KEY: found ")
    assert str(caught.value).startswith("api.key_file: found key (")
    for text in (line, str(caught.value)):
        assert finding in text
        assert not key.strip() or key.strip() not in text


def test_a_key_beside_a_key_file_is_refused() -> None:
    """Two keys leave open which one is meant."""
    assert problem("[api]\nkey_file = 'key'") == (
        "api.key_file (worker.toml): found beside PLW_API__KEY; allowed is one of them"
    )


def test_a_key_file_that_is_not_there_is_named() -> None:
    """The path stands in the line, unless it may be the key itself, put into the wrong setting."""
    with pytest.raises(SettingsError, match=r"/nowhere/key \(No such file"):
        load(None, {"PLW_API__KEY_FILE": "/nowhere/key"})
    with pytest.raises(SettingsError) as caught:
        load(None, {"PLW_API__KEY_FILE": KEY})
    assert KEY not in str(caught.value)


def test_a_key_that_is_no_text_is_told_without_showing_it() -> None:
    """TOML has numbers, too."""
    with pytest.raises(SettingsError, match=r"^api\.key \(worker\.toml\): found something that is no text") as caught:
        load(_written("[api]\nkey = 12345"), {})
    assert "12345" not in str(caught.value)


def test_a_token_has_to_be_long_enough_and_is_read_afresh() -> None:
    """A bad one is told of at the start; one that goes bad later lets nobody act, and no secret is shown meanwhile."""
    settings = load(None, {"PLW_API__KEY": KEY, "PLW_HTTP__ADMIN_TOKEN_FILE": "token"})
    assert (admin_token(settings.http), known_secrets(settings)) == (None, (KEY,))
    for text, said in (("x" * 15, "found a token of 15 characters"), ("a\nb", "several lines"), ("", "an empty text")):
        Path("token").write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match=f"{said}.*16 characters or more"):
            check_admin_token(settings.http)
        assert admin_token(settings.http) is None
    Path("token").write_text("a token that is long enough\n", encoding="utf-8")
    check_admin_token(settings.http)
    assert admin_token(settings.http) == "a token that is long enough"
    assert known_secrets(settings) == (KEY, "a token that is long enough")
    without = load(None, {}, require_key=False)
    check_admin_token(without.http)
    assert known_secrets(without) == ()


def test_a_key_file_without_text_is_told() -> None:
    """Bytes that are no text are no key."""
    Path("key").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match="it is no text"):
        load(None, {"PLW_API__KEY_FILE": "key"})


@pytest.mark.parametrize(
    "toml",
    [
        f"[api]\nkye = '{KEY}'",
        f"[http]\nkey = '{KEY}'",
        f"api = '{KEY}'",
        f"[tasks]\npower = '{KEY}'",
        f"[api]\nbase_url = 'https://user:{KEY}@api.product-live.com'",
        f"[api]\nbase_url = 'https://user:a/{KEY}#@api.product-live.com'",
        f"[api]\nbase_url = 'https://api.product-live.com/?key={KEY}'",
        f"[state]\nurl = 'postgres://user:{KEY}@host/db'",
        f"[state]\nurl = 'postgresql://user:{KEY}@x@host/db'",
        f"[api]\nkey = {KEY}",
    ],
)
def test_no_mistake_shows_a_secret(toml: str) -> None:
    """Lines about mistakes go to logs; a secret in the wrong place stays out of them."""
    assert KEY not in str(problems(toml))
    assert KEY not in str(problems(PLW_API__KEYS=KEY))


# ── What a mistake is told ──


def test_all_mistakes_are_told_at_once() -> None:
    """One line each, whichever source they came from."""
    lines = problems("[http]\nport = 70000\n[bugdet]\nwindow = 1", PLW_DRAIN__TIMEOUT="soon", PLW_FOO__BAR="1")
    assert {line.partition(": ")[0] for line in lines} == {
        "http.port (worker.toml)",
        "bugdet (worker.toml)",
        "PLW_DRAIN__TIMEOUT",
        "PLW_FOO__BAR",
    }


def test_a_line_names_setting_finding_and_what_is_allowed() -> None:
    """The setting is named as its writer wrote it."""
    told = "allowed is 0 (no limit) or a whole number from 4"
    assert problem("[budget]\nrequests_per_minute = 3") == (
        f"budget.requests_per_minute (worker.toml): found 3; {told}"
    )
    assert problem(PLW_BUDGET__REQUESTS_PER_MINUTE="3") == f'PLW_BUDGET__REQUESTS_PER_MINUTE: found "3"; {told}'


@pytest.mark.parametrize(
    ("toml", "meant"),
    [
        ("[budget]\nrequest_per_minute = 5", "budget.requests_per_minute"),
        ("[bugdet]\nwindow = 5", "budget"),
        ("port = 5", "http.port"),
        ("[budget]\nport = 5", "http.port"),
        ("[tasks.power]\nconcurency = 5", "tasks.power.concurrency"),
        ("[tasks.'a b']\ntime_out = 5", 'tasks."a b".timeout'),
    ],
)
def test_an_unknown_setting_is_told_with_the_closest_known_one(toml: str, meant: str) -> None:
    """A slip of the pen is an error, with its cure."""
    assert problem(toml).endswith(f": there is no such setting; did you mean {meant}?")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PLW_BUDGET__REQUEST_PER_MINUTE", "PLW_BUDGET__REQUESTS_PER_MINUTE"),
        ("PLW_BUDGET_WINDOW", "PLW_BUDGET__WINDOW"),
        ("PLW_PORT", "PLW_HTTP__PORT"),
        ("PLW_API__KEY__", "PLW_API__KEY"),
    ],
)
def test_an_unknown_variable_is_told_with_the_closest_known_one(variable: str, meant: str) -> None:
    """Variables are held to the same rule as the file."""
    assert problem(**{variable: "5"}) == f"{variable}: there is no such setting; did you mean {meant}?"


@pytest.mark.parametrize(
    ("toml", "known"),
    [
        ("[erp]\nurl = 'x'", "sections are [api], [budget], "),
        ("[drain]\nzzz = 1", "[drain] has timeout"),
        ("[tasks.power]\nzzz = 1", "[tasks.<key or id>] has handler, "),
    ],
)
def test_an_unknown_setting_that_resembles_nothing_is_told_with_what_there_is(toml: str, known: str) -> None:
    """Where no name is close, the choice is shown."""
    assert f": there is no such setting; {known}" in problem(toml)


def test_tasks_are_not_set_in_the_environment() -> None:
    """Keys of tasks cannot be told apart in capitals."""
    assert "settings file only" in problem(PLW_TASKS__POWER__CONCURRENCY="2")


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ("api", ["base_url = 5", "key_file = 5", "ca_file = 'nowhere.pem'", "connect_timeout = 0"]),
        ("api", ["ca_file = 'worker.toml'", "total_timeout = -1", "base_url = ''"]),
        ("budget", ["requests_per_minute = -1", "requests_per_minute = 3", "requests_per_minute = 4.5"]),
        ("budget", ["requests_per_minute = true", "window = true", "window = 0", "window = nan", "window = inf"]),
        ("budget", ["scope = 'all'", "idle_share = 0", "idle_share = 1.1", "idle_share = nan", "max_staleness = ''"]),
        (
            "state",
            [
                "url = 'postgres://host/db'",
                "url = 'postgresql://a:b@c@host/db'",
                "url = 'sqlite://'",
                "url = 'sqlite:///:memory:'",
                "retention = '1w'",
            ],
        ),
        ("state", ["keep_payloads = 'maybe'", "max_crashes = 0", "lease = 0", "url = 'sqlite:///a.db?mode=ro'"]),
        (
            "http",
            [
                "host = ''",
                "host = '127.0.0.1:80'",
                "host = 'http://x'",
                "port = -1",
                "port = 65536",
                "port = 1979-05-27",
            ],
        ),
        ("drain", ["timeout = '3651d'", "timeout = [1]", "timeout = {}"]),
        ("execution", ["max_stuck_threads = 0", "max_output = 0", "max_output = '11MB'", "max_output = true"]),
        ("log", ["level = 'loud'", "format = 3"]),
        ("tasks.power", ["handler = ''", "concurrency = 0", "timeout = 0", "on_crash = 'retry'", "settings = 3"]),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(section: str, wrong: list[str]) -> None:
    """The line names the setting, in whichever way the value is wrong."""
    for setting in wrong:
        name = f"{section}.{setting.partition(' ')[0]}"
        lines = problems(f"[{section}]\n{setting}")
        assert any(line.startswith(f"{name} (worker.toml): found ") and "; allowed is " in line for line in lines), (
            setting
        )


def test_a_long_value_is_cut() -> None:
    """A line stays a line."""
    assert len(problem(PLW_HTTP__HOST="/" * 10_000)) < 300


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[api\n", "is not valid TOML: .* line 1"),
        (b"[http]\nport = \n", "is not valid TOML: .* line 2"),
        (b"[http]\n[http]\n", "is not valid TOML: .* twice"),
        (b"\xff\xfe", "is not written in UTF-8"),
    ],
)
def test_a_file_that_is_no_toml_is_told_with_its_line(content: bytes, told: str) -> None:
    """One line, with the place in the file."""
    Path("worker.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^worker\.toml: the settings file {told}") as caught:
        load(Path("worker.toml"), {})
    assert len(caught.value.problems) == 1


def test_a_file_that_cannot_be_read_is_told() -> None:
    """Only the file in its usual place may be absent."""
    with pytest.raises(SettingsError, match=r"^nowhere\.toml: there is no such settings file"):
        load(None, {"PLW_CONFIG": "nowhere.toml"})
    Path("config/worker.toml").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"worker\.toml: the settings file cannot be read: "):
        load(None, {})


# ── Addresses ──


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://api.product-live.com/", "https://api.product-live.com"),
        ("HTTPS://API.Product-Live.com:443", "https://api.product-live.com"),
        ("https://proxy.example:8443/product-live/", "https://proxy.example:8443/product-live"),
        ("https://api.product-live.com\n", "https://api.product-live.com"),
        ("http://localhost:9000/", "http://localhost:9000"),
        ("http://127.9.9.9:80", "http://127.9.9.9"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_the_same_platform_is_kept_in_one_way(written: str, kept: str) -> None:
    """The journal's rows belong to a platform by its address, so it has one spelling."""
    assert read(PLW_API__BASE_URL=written).api.base_url == kept


@pytest.mark.parametrize(
    "url",
    [
        "http://api.product-live.com",
        "http://127.0.0.1.example.com",
        "http://localhost@example.com",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "https://user:password@api.product-live.com",
        "https://api.product-live.com?x=1",
        "https://api.product-live.com#x",
        "https://",
        "https://host:0",
        "https://host:99999",
        "https://[::1",
        "https://a b",
        "https://a\\b",
        "api.product-live.com",
        "ftp://api.product-live.com",
    ],
)
def test_the_key_goes_nowhere_but_through_tls_to_a_plain_address(url: str) -> None:
    """No TLS, no key, except to this machine itself; no user, no query."""
    assert problem(PLW_API__BASE_URL=url).startswith("PLW_API__BASE_URL: found ")


def test_ca_certificates_are_tried_when_they_are_named() -> None:
    """A file that holds none is told at the start, not at the first request."""
    assert read(PLW_API__CA_FILE=certifi.where()).api.ca_file == Path(certifi.where())
    Path("ca.pem").write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n", encoding="utf-8")
    assert problem(PLW_API__CA_FILE="ca.pem").startswith('PLW_API__CA_FILE: found "ca.pem"; allowed is ')


# ── Values ──


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("7d", 604800),
        ("1.5 h", 5400),
        (" 20 ", 20),
        (0.25, 0.25),
    ],
)
def test_durations_have_units(written: object, read_as: float) -> None:
    """A number without unit is seconds."""
    assert seconds(written) == read_as


@given(st.integers(0, 10**9), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400), ("", 1)]))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: tuple[str, float]) -> None:
    """Whatever the number and the unit."""
    name, factor = unit
    assert seconds(f"{number}{name}") == number * factor


@given(st.floats(min_value=0, max_value=1e15, allow_subnormal=False))
def test_a_number_of_seconds_is_itself(number: float) -> None:
    """Numbers are taken as they are, and so are their texts in plain notation."""
    assert seconds(number) == number
    assert seconds(f"{number:f}") == pytest.approx(number, abs=1e-6)


@given(st.text() | st.none() | st.booleans() | st.lists(st.integers()))
def test_what_is_no_duration_is_a_value_error(value: object) -> None:
    """Nothing but a ValueError comes of it: pydantic turns that into a line."""
    with contextlib.suppress(ValueError):
        assert seconds(value) >= 0


@pytest.mark.parametrize(
    ("written", "read_as"), [(1, 1), ("1", 1), ("12B", 12), ("500kB", 500_000), ("1MB", 10**6), ("2 mb", 2 * 10**6)]
)
def test_sizes_have_units(written: object, read_as: float) -> None:
    """A number without unit is bytes."""
    assert size(written) == read_as


@given(st.text() | st.none() | st.booleans() | st.floats())
def test_what_is_no_size_is_a_value_error(value: object) -> None:
    """Nothing but a ValueError comes of it."""
    with contextlib.suppress(ValueError):
        assert size(value) >= 0


@pytest.mark.parametrize("word", ["WARNING", " warning "])
def test_words_may_be_written_in_capitals(word: str) -> None:
    """As log levels often are."""
    assert read(PLW_LOG__LEVEL=word).log.level == "warning"


# ── Warnings ──


def test_usual_settings_give_no_warning() -> None:
    """Silence means that all is well."""
    assert read().warnings() == ()


@posix
def test_a_key_file_that_others_can_read_is_warned_of() -> None:
    """It is used all the same: a container's secrets are often mounted so."""
    Path("key").write_text(KEY, encoding="utf-8")
    settings = load(None, {"PLW_API__KEY_FILE": "key"})
    for mode, warned in ((0o644, True), (0o600, False), (0o640, False)):
        Path("key").chmod(mode)
        assert any(line.startswith("api.key_file: ") for line in settings.warnings()) is warned


@posix
def test_a_token_that_others_could_read_is_warned_of() -> None:
    """On the disk, and on the wire."""
    Path("token").write_text("a token that is long enough", encoding="utf-8")
    here, everywhere = (
        load(None, {"PLW_API__KEY": KEY, "PLW_HTTP__ADMIN_TOKEN_FILE": "token", "PLW_HTTP__HOST": host})
        for host in ("127.0.0.1", "0.0.0.0")  # noqa: S104 (what is warned of)
    )
    Path("token").chmod(0o600)
    assert here.warnings() == ()
    assert ["unencrypted" in line for line in everywhere.warnings()] == [True]
    Path("token").chmod(0o644)
    assert [line.startswith("http.admin_token_file: every user") for line in here.warnings()] == [True]


@pytest.mark.parametrize(
    ("variable", "value", "name"),
    [
        ("PLW_DRAIN__TIMEOUT", "20s", "drain.timeout"),
        ("PLW_API__CONNECT_TIMEOUT", "21s", "api.connect_timeout"),
        ("PLW_BUDGET__WINDOW", "30s", "budget.window"),
    ],
)
def test_a_setting_that_may_not_do_what_was_meant_is_warned_of(variable: str, value: str, name: str) -> None:
    """Warnings are apart from errors: the settings are used."""
    (line,) = read(**{variable: value}).warnings()
    assert line.startswith(f"{name}: ")


def test_no_limit_needs_no_warning_about_its_window() -> None:
    """Without a limit the window has no meaning."""
    assert read(PLW_BUDGET__WINDOW="1s", PLW_BUDGET__REQUESTS_PER_MINUTE="0").warnings() == ()

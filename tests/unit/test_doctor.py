"""The doctor: each thing that can be wrong with a worker is a line that says what to do, and one request is enough."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from product_live_worker import Handler, handler, sandbox
from product_live_worker.doctor import Finding, examine
from product_live_worker.doctor.network import EXPIRY, connection, proxy_for, trouble
from product_live_worker.model.errors import (
    AnswerUnreadable,
    KeyRefused,
    PlatformError,
    PlatformFailing,
    PlatformUnreachable,
    RateLimited,
    RequestRefused,
)
from product_live_worker.parts import open_account
from product_live_worker.product_live.budget import Purpose
from product_live_worker.product_live.connected import Connected
from product_live_worker.settings import Settings
from support.raw_server import CA_FILE, answer, connect_proxy, raw_server, saying
from support.workers import add_task, new_world, settings_for

pytestmark = pytest.mark.anyio

PAGE = json.dumps({"data": [{"id": "t1", "key": "power", "responseTimeoutSeconds": 900}]}).encode()


@handler("power", timeout=30)
async def power(_: dict[str, Any]) -> None:
    """Do nothing."""


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def found(settings: Settings, *handlers: Handler) -> dict[str, list[Finding]]:
    """Give the findings by their subjects."""
    by_subject: dict[str, list[Finding]] = {}
    async for finding in examine(settings, {made.name: made for made in handlers or (power,)}):
        by_subject.setdefault(finding.subject, []).append(finding)
    return by_subject


def levels(findings: Mapping[str, list[Finding]]) -> dict[str, list[str]]:
    """Give how serious each is."""
    return {subject: [finding.level for finding in several] for subject, several in findings.items()}


async def test_a_good_account_is_all_well_for_one_request(tmp_path: Path) -> None:
    """Name, certificate, clock, key, task, budget, disk and port; what has a cure would say it."""
    date = f"Date: {format_datetime(datetime.now(UTC), usegmt=True)}"
    async with raw_server(saying(answer("200 OK", PAGE, date)), tls=True) as platform:
        settings = settings_for(
            platform.url("https", "localhost"), tmp_path, api={"ca_file": CA_FILE}, drain={"timeout": 60}
        )
        findings = await found(settings)
    assert set(levels(findings)) == {
        *("settings", "handlers", "http", "dns", "journal", "workdir", "tls", "clock", "key", "task power", "budget"),
    }
    assert {finding.level for several in findings.values() for finding in several} == {"ok"}
    assert len(platform.requests) == 1
    assert "127.0.0.1" in findings["dns"][0].text
    assert "TLSv1.3" in findings["tls"][0].text
    assert "is trusted" in findings["tls"][0].text
    assert "900 s" in findings["task power"][0].text


async def test_clocks_that_differ_are_a_warning(tmp_path: Path) -> None:
    """By the date of the answer; without one nothing is said."""
    date = format_datetime(datetime.now(UTC) - timedelta(minutes=10), usegmt=True)
    async with raw_server(saying(answer("200 OK", PAGE, f"Date: {date}"))) as platform:
        slow = await found(settings_for(platform.url(), tmp_path))
    async with raw_server(saying(answer("200 OK", PAGE, "Date: yesterday"))) as platform:
        silent = await found(settings_for(platform.url(), tmp_path))
    (clock,) = slow["clock"]
    assert (clock.level, "ahead of" in clock.text, "NTP" in clock.cure) == ("warn", True, True)
    assert "clock" not in silent
    assert silent["key"][0].level == "ok"


def test_a_certificate_that_ends_soon_is_a_warning() -> None:
    """Two weeks before its end."""
    settings = Settings()
    for left, level in ((EXPIRY + 3600, "ok"), (EXPIRY - 3600, "warn")):
        (tls,) = connection(settings, Connected("TLSv1.3", time.time() + left))
        assert (tls.level, "api.product-live.com" in tls.text) == (level, True)
    assert list(connection(settings, Connected())) == []


async def test_a_certificate_that_is_not_trusted_has_its_own_cure(tmp_path: Path) -> None:
    """A proxy that opens TLS is what it usually is."""
    async with raw_server(saying(answer("200 OK", PAGE)), tls=True) as platform:
        findings = await found(settings_for(platform.url("https"), tmp_path))
    (tls,) = findings["tls"]
    assert (tls.level, "api.ca_file" in tls.cure, "key" in findings) == ("fail", True, False)
    assert platform.requests == []


async def test_a_name_that_nobody_knows_ends_the_look(tmp_path: Path) -> None:
    """What is on this machine is looked at all the same."""
    findings = await found(settings_for("https://platform.invalid", tmp_path))
    assert levels(findings)["dns"] == ["fail"]
    assert "getent hosts platform.invalid" in findings["dns"][0].cure
    assert levels(findings)["journal"] == ["ok"]
    assert "network" not in findings


async def test_the_proxy_of_the_environment_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the certificate behind it is looked at all the same."""
    async with (
        raw_server(saying(answer("200 OK", PAGE)), tls=True) as platform,
        connect_proxy(platform.port) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:topsecret@127.0.0.1:{proxy.port}")
        settings = settings_for("https://platform.test", tmp_path, api={"ca_file": CA_FILE})
        findings = await found(settings)
    assert f"http://127.0.0.1:{proxy.port}" in findings["proxy"][0].text
    assert levels(findings)["tls"] == ["ok"]
    assert "topsecret" not in str(findings)


def test_a_proxy_counts_as_it_does_for_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for what NO_PROXY names, and never for this machine itself."""
    monkeypatch.setenv("ALL_PROXY", "proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "inside.test")
    assert proxy_for("https", "outside.test") == "http://proxy.test:3128"
    assert proxy_for("https", "inside.test") == ""
    assert proxy_for("http", "127.0.0.1") == ""


@pytest.mark.parametrize(
    ("error", "subject", "cure"),
    [
        (PlatformUnreachable("ConnectTimeout", perhaps_done=False), "network", "HTTPS_PROXY"),
        (KeyRefused("401 Unauthorized", status=401), "key", "api.key_file"),
        (RateLimited("429", status=429), "budget", "requests_per_minute"),
        (PlatformFailing("503", status=503), "platform", "Try again"),
        (AnswerUnreadable("200 with text/html"), "platform", "login page"),
        (RequestRefused("404", status=404), "platform", "api.base_url"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PlatformError) else "",
)
def test_each_kind_of_trouble_has_its_cure(error: PlatformError, subject: str, cure: str) -> None:
    """With the platform's own words beside it."""
    finding = trouble(Settings(), error)
    assert (finding.level, finding.subject, cure in finding.cure, str(error) in finding.text) == (
        "fail",
        subject,
        True,
        True,
    )


async def test_timeouts_that_do_not_fit_are_warnings(tmp_path: Path) -> None:
    """The platform's, the handler's, the drain's and the watch's."""
    world = new_world("power", responseTimeoutSeconds=20)
    add_task(world, "slow", responseTimeoutSeconds=0, timeoutSeconds=0)
    slow = replace(power, name="slow")
    async with sandbox.serve(world) as url:
        findings = await found(
            settings_for(url, tmp_path, drain={"timeout": 25}, tasks={"power": {"watch": 40}, "slow": {}}), power, slow
        )
    assert levels(findings)["task power"] == ["ok", "warn", "warn"]
    shortened, watch = findings["task power"][1:]
    assert ("gets 16 s" in shortened.text, "tasks apply power" in shortened.cure) == (True, True)
    assert watch.text.startswith("watch")
    (_, never_back) = findings["task slow"]
    assert (never_back.level, "for ever" in never_back.text) == ("warn", True)
    assert levels(findings)["drain"] == ["warn"]
    assert "Set drain.timeout to 30s" in findings["drain"][0].cure


async def test_a_task_that_the_account_does_not_have_is_a_failure(tmp_path: Path) -> None:
    """By its key or its id; the others are served."""
    async with sandbox.serve(new_world("power")) as url:
        findings = await found(
            settings_for(url, tmp_path, tasks={"power": {}, "0123456789abcdef01234567": {"handler": "power"}})
        )
    assert levels(findings)["tasks"] == ["fail"]
    assert "0123456789abcdef01234567" in findings["tasks"][0].text
    assert levels(findings)["task power"][0] == "ok"


async def test_a_budget_that_is_too_small_for_the_tasks_is_a_warning(tmp_path: Path) -> None:
    """The worst wait by plan is told in any case."""
    names = [f"t{number}" for number in range(12)]
    async with sandbox.serve(new_world(*names)) as url:
        settings = settings_for(url, tmp_path, budget={"requests_per_minute": 10, "max_staleness": 60.0})
        findings = await found(settings, *(replace(power, name=name) for name in names))
    assert levels(findings)["budget"] == ["ok", "warn"]
    plan, small = findings["budget"]
    assert "144 s" in plan.text or "151 s" in plan.text
    assert ("144 s" in small.text, "max_staleness" in small.cure) == (True, True)


async def test_a_window_that_is_full_is_told_instead_of_waited_for(tmp_path: Path) -> None:
    """Not longer than a window and a request: a worker on this journal may spend it all."""
    async with sandbox.serve(world := new_world("power")) as url:
        settings = settings_for(
            url, tmp_path, budget={"requests_per_minute": 4, "window": 0.4}, api={"total_timeout": 0.3}
        )
        async with open_account(settings, emit=lambda _: None) as (_, budget, _):
            # Taken and not used: they are held for as long as their requests could still arrive.
            for _ in range(4):
                await budget.take("", Purpose.REPORT)
            findings = await found(settings)
    assert levels(findings)["budget"] == ["fail"]
    assert "4 of 4 are taken" in findings["budget"][0].text
    assert world.arrivals == []


async def test_nothing_installed_is_a_failure(tmp_path: Path) -> None:
    """A worker without handlers does nothing."""
    async with sandbox.serve(new_world("power")) as url:
        findings = [finding async for finding in examine(settings_for(url, tmp_path), {})]
    (handlers,) = [finding for finding in findings if finding.subject == "handlers"]
    assert (handlers.level, "plugin" in handlers.cure) == ("fail", True)
    assert [finding.level for finding in findings if finding.subject == "tasks"] == ["fail"]


async def test_a_port_that_is_taken_is_a_warning(tmp_path: Path) -> None:
    """A worker that runs already has it, most often."""
    async with sandbox.serve(new_world("power")) as url:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            settings = settings_for(url, tmp_path, http={"port": taken.getsockname()[1]})
            findings = await found(settings)
    assert levels(findings)["http"] == ["warn"]
    assert "running already" in findings["http"][0].cure


async def test_a_journal_that_cannot_be_used_ends_the_look_before_anything_is_asked(tmp_path: Path) -> None:
    """The budget is in it."""
    (tmp_path / "worker.db").write_bytes(b"no database at all" * 100)
    async with sandbox.serve(world := new_world("power")) as url:
        findings = await found(settings_for(url, tmp_path))
    assert levels(findings)["journal"] == ["fail"]
    assert world.arrivals == []


async def test_a_place_for_directories_that_cannot_be_used_is_a_failure(tmp_path: Path) -> None:
    """A worker would not start."""
    (tmp_path / "file").touch()
    async with sandbox.serve(new_world("power")) as url:
        findings = await found(settings_for(url, tmp_path, execution={"workdir": tmp_path / "file"}))
    assert levels(findings)["workdir"] == ["fail"]
    assert "execution.workdir" in findings["workdir"][0].cure

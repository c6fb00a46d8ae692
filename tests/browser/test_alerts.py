"""Each alert of deploy/prometheus, rehearsed: its condition for real, the page, two clicks at most to the cause.

What docs/operations.md says that the page shows is what was read here. With REHEARSALS=somewhere in the environment, a
picture of each step is left there.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.async_api import Browser, expect

from product_live_worker import handler, sandbox
from support.browser import Looking, looking
from support.journals import fill_up
from support.operators import SOON, faults, told, watched
from support.plugins import install
from support.processes import Running, running
from support.workers import RunningWorker, new_world, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
ALERTS = [rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
CLICKS = 2
"""At most, from the page to the cause."""


@dataclass
class Night:
    """An operator who was woken: what there is to look at, what they have read, and how often they have clicked."""

    alert: str
    browser: Browser
    home: Path
    pictures: Path
    opened: AsyncExitStack
    read: list[str] = field(default_factory=list)
    clicks: int = 0

    async def at(self, *handlers: Any, **settings: Any) -> tuple[RunningWorker, Looking]:
        """Run a worker, and open its page."""
        opened = await self.opened.enter_async_context(watched(self.browser, [*handlers], self.home, **settings))
        if "faults" in settings:
            # Else its drain would wait for reports that nobody takes.
            self.opened.callback(settings["faults"].clear)
        return opened

    async def look_at(self, url: str) -> Looking:
        """Open the page of a worker that runs elsewhere."""
        looks = await self.opened.enter_async_context(looking(self.browser))
        await looks.page.goto(url)
        return looks

    async def fires(self, worker: RunningWorker, *samples: str) -> None:
        """Wait until the worker's metrics have what the alert's expression asks for."""
        while True:
            text = (await worker.get("/metrics")).text
            if all(re.search(f"^product_live_worker_{sample}$", text, re.MULTILINE) for sample in samples):
                return

    async def reads(self, looks: Looking, *words: str) -> None:
        """See that these words stand on the page, and keep all that does."""
        for word in words:
            await expect(looks.page.locator("body")).to_contain_text(word, timeout=SOON, ignore_case=True)
        self.read.append(await looks.page.locator("body").inner_text())
        name = f"{self.alert.removeprefix('ProductLiveWorker')}-{len(self.read)}.png"
        await looks.page.screenshot(path=self.pictures / name, full_page=True)

    async def click(self, looks: Looking, section: str) -> None:
        """Open the first execution of a section."""
        await looks.page.locator(f"#{section} tbody tr").first.get_by_role("link").click()
        await expect(looks.page.get_by_role("heading", name="Its way")).to_be_visible()
        self.clicks += 1


Rehearsal = Callable[[Night], Awaitable[None]]
REHEARSALS: dict[str, Rehearsal] = {}


def rehearses(alert: str) -> Callable[[Rehearsal], Rehearsal]:
    """Say which alert a rehearsal is of."""

    def keep(rehearsal: Rehearsal) -> Rehearsal:
        REHEARSALS[f"ProductLiveWorker{alert}"] = rehearsal
        return rehearsal

    return keep


@pytest.mark.parametrize("alert", ALERTS)
async def test_the_page_leads_from_the_alert_to_the_cause(alert: str, tmp_path: Path, browser: Browser) -> None:
    """In two clicks, in the words that docs/operations.md quotes; an alert that nobody has rehearsed fails here."""
    async with AsyncExitStack() as opened:
        pictures = Path(os.environ.get("REHEARSALS", tmp_path))
        night = Night(alert, browser, tmp_path, pictures, opened)
        assert alert in REHEARSALS, "rehearse it: bring its condition about, and see that the page leads to the cause"
        await REHEARSALS[alert](night)
    assert night.clicks <= CLICKS
    everything = " ".join(" ".join(night.read).split())
    for quoted in quoted_of(alert):
        assert quoted in everything


def quoted_of(alert: str) -> list[str]:
    """Give what the table of docs/operations.md quotes from the page for this alert."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| {alert.removeprefix('ProductLiveWorker')} \|(.*)\|$", text, re.MULTILINE)
    assert found, f"docs/operations.md does not say what the page shows for {alert}"
    quoted = re.findall(r'"([^"]+)"', found[1])
    assert quoted, "quote the page's own words"
    return quoted


@handler("power")
async def power(input: dict[str, Any]) -> dict[str, int]:
    """Do something at once."""
    return {"result": 2 ** input["power"]}


@rehearses("Gone")
async def gone(night: Night) -> None:
    """The page of the one that is gone says so; that of another on the journal has whose lease ended."""
    it = await night.opened.enter_async_context(mortal(night))
    worker, url = await night.opened.enter_async_context(it.worker())
    _, other = await night.at(power, url=it.variables["PLW_API__BASE_URL"], world=it.world)
    looks = await night.look_at(url)
    await told(looks, "All is well")
    await looks.page.clock.install()
    worker.send(signal.SIGKILL)
    await worker.ended()
    with pytest.raises(httpx.ConnectError):
        await it.get(f"{url}/metrics")
    await looks.page.clock.fast_forward(7_000)
    await night.reads(looks, "no news for", "The worker does not answer.")
    await night.reads(other, "ended; its executions are taken over")


@rehearses("KeyRefused")
async def key_refused(night: Night) -> None:
    """The verdict alone."""
    worker, looks = await night.at(power, faults=faults(kind="status", status=401))
    await night.fires(worker, "key_refused 1.0")
    await night.reads(looks, "the API key is refused", "401", "Put a valid key into api.key_file")


@rehearses("NotPolling")
async def not_polling(night: Night) -> None:
    """The verdict alone: what the platform answers."""
    worker, looks = await night.at(power, faults=faults(kind="status", status=503, operations=["poll"]))
    await night.fires(worker, r'ready\{check="polling"\} 0.0', "key_refused 0.0")
    await night.reads(looks, "no poll has succeeded yet: 503", "The platform has trouble of its own")


@rehearses("ReportsStuck")
async def reports_stuck(night: Night) -> None:
    """The verdict has the reason; a click, each attempt."""
    worker, looks = await night.at(power, faults=faults(kind="status", status=503, operations=["update_execution"]))
    worker.submit("power", {"power": 1})
    await until(lambda: worker.daemon.journal.reports_waiting() == 1)
    # Its clock goes forward by the minute that nobody has.
    worker.daemon.journal.now = lambda: time.monotonic() + 61
    await night.fires(worker, r'ready\{check="reports"\} 0.0', r'ready\{check="polling"\} 1.0')
    await night.reads(looks, "1 result waits to be reported (503", "Nothing is lost", "Results to report")
    await night.click(looks, "reports")
    await night.reads(looks, "Report postponed", "503 Service Unavailable")


@rehearses("JournalUnwritable")
async def journal_unwritable(night: Night) -> None:
    """The verdict alone."""
    worker, looks = await night.at(power)
    await told(looks, "All is well")
    fill_up(night.home / "worker.db")
    await night.fires(worker, r'ready\{check="journal"\} 0.0')
    await night.reads(looks, "the journal cannot be written: disk is full", "Make room on the disk", "nothing can be")


@rehearses("Restarts")
async def restarts(night: Night) -> None:
    """The verdict says which task takes its worker along; a click, what it was doing."""
    it = await night.opened.enter_async_context(mortal(night))
    starts = set()
    for _ in range(3):
        async with it.worker() as (worker, url):
            starts.add(await it.started(url))
            it.world.submit("deadly", {}, time.monotonic())
            await worker.ended()
    _, url = await night.opened.enter_async_context(it.worker())
    starts.add(await it.started(url))
    assert len(starts) == 4
    looks = await night.look_at(url)
    await night.reads(looks, "3 executions of the last hour ended because their worker did: of deadly", "started")
    await night.click(looks, "failures")
    await night.reads(looks, "worker_restarted", "The worker was restarted while the handler ran", "Crashes")


@rehearses("Unready")
async def unready(night: Night) -> None:
    """The verdict alone: which section names what."""
    worker, looks = await night.at(power, tasks={"power": {}, "labels": {"handler": "power"}})
    await night.fires(worker, r'ready\{check="tasks"\} 0.0', r'ready\{check="polling"\} 1.0')
    await night.reads(looks, "labels", "Correct the [tasks] sections, or create the task on the platform.")


@rehearses("HandlerFailing")
async def handler_failing(night: Night) -> None:
    """The verdict names the task, the failures say why, and a click which execution it was."""

    @handler("prices")
    async def prices(input: dict[str, Any]) -> None:
        raise ValueError(f"no price for {input['ean']}")

    worker, looks = await night.at(prices)
    await worker.run("prices", *({"ean": str(n)} for n in range(3)))
    await night.fires(worker, r'failures_total\{code="handler_error",task="prices"\} 3.0')
    await night.reads(
        looks, "most executions of the last half hour failed: 3 of 3 of prices", "Last failures", "ValueError"
    )
    await night.click(looks, "failures")
    await night.reads(looks, "handler_error", "no price for", "Correlation id")


@rehearses("HandlerStuck")
async def handler_stuck(night: Night) -> None:
    """The verdict, and beside which task it says so."""
    release = threading.Event()
    night.opened.callback(release.set)

    @handler("stuck", timeout=0.2)
    def stuck(input: dict[str, Any]) -> None:  # noqa: ARG001
        release.wait()

    worker, looks = await night.at(stuck)
    night.opened.callback(release.set)
    worker.submit("stuck", {})
    await night.fires(worker, "stuck_threads 1.0")
    await night.reads(
        looks, "1 thread runs on after its deadline", "Mend the handler so that it ends in time", "1 stuck"
    )
    await expect(looks.page.locator("#failures tbody tr")).to_have_count(1, timeout=SOON)
    await night.click(looks, "failures")
    await night.reads(looks, "timeout")


@rehearses("ResultsUndeliverable")
async def results_undeliverable(night: Night) -> None:
    """The verdict, and the platform's words; a click, the attempts."""
    worker, looks = await night.at(power, faults=faults(kind="status", status=413, operations=["update_execution"]))
    worker.submit("power", {"power": 1})
    await night.fires(worker, "reports_undeliverable 1.0")
    await expect(looks.page.locator("#undeliverable tbody tr")).to_have_count(1, timeout=SOON)
    await night.reads(looks, "1 undeliverable result is kept", "413")
    await night.click(looks, "undeliverable")
    await night.reads(looks, "Refused by the platform", "413")


@rehearses("AmbiguousClaims")
async def ambiguous_claims(night: Night) -> None:
    """The verdict alone."""
    worker, looks = await night.at(power, faults=faults(kind="cut_after", operations=["poll"], count=1))
    await night.fires(worker, r"claims_ambiguous_total.* 1.0")
    await night.reads(looks, "1 poll of the last hour may have claimed what never arrived, the last of power")


@rehearses("BudgetStarved")
async def budget_starved(night: Night) -> None:
    """The verdict, and below it whose requests failed."""
    refusing = faults(kind="status", status=429, retry_after=1, operations=["poll"])
    worker, looks = await night.at(power, faults=refusing)
    await night.fires(worker, r"budget_limit ([1-7]?\d|0).0", "budget_limit_configured 100.0")
    await night.reads(looks, "requests are ours for now", "Somebody else uses the account's requests too", "429")


@dataclass
class Mortal:
    """A worker as a process of its own, which can be killed."""

    home: Path
    variables: dict[str, str]
    world: sandbox.World

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[tuple[Running, str]]:
        """Run it while the block runs; gives it, and its address."""
        async with running("run", cwd=self.home, variables=self.variables) as worker:
            yield worker, await worker.address()

    async def get(self, url: str) -> str:
        """Ask it."""
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(url)).text

    async def started(self, url: str) -> str:
        """Give when it was started, as its metrics say."""
        text = await self.get(f"{url}/metrics")
        found = re.search(r"^product_live_worker_start_timestamp_seconds (.*)$", text, re.MULTILINE)
        assert found
        return found[1]


@asynccontextmanager
async def mortal(night: Night) -> AsyncIterator[Mortal]:
    """Give the home of a worker, one of whose handlers takes it along."""
    world = new_world("deadly", limit=0)
    async with sandbox.serve(world) as url:
        variables = {"PLW_API__BASE_URL": url, "PLW_API__KEY": "sandbox-key", "PLW_HTTP__PORT": "0"}
        variables |= {"PLW_BUDGET__REQUESTS_PER_MINUTE": "0", "PLW_STATE__LEASE": "2s"}
        variables |= {"PLW_STATE__URL": f"sqlite:///{night.home / 'worker.db'}"}
        yield Mortal(
            night.home, variables | install(night.home / "plugins", "support.deadly_handlers", "deadly"), world
        )

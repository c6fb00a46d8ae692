"""The operator's page as a woken operator sees it: in a real browser, against a real worker in trouble or not.

With SCREENSHOTS=docs/images in the environment, the pictures of the documentation are made anew.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from playwright.async_api import Browser, Page, expect

from product_live_worker import Context, TaskFailed, handler, sandbox
from product_live_worker.daemon import new_page
from product_live_worker.model.execution import State
from product_live_worker.ops.page.routes import WATCHERS
from product_live_worker.telemetry.events import ReportUndeliverable
from support.browser import looking
from support.journals import an_execution, fill_up
from support.operators import SOON, address, faults, told, watched, when
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio

TOKEN = "a token for the operators"  # noqa: S105 (of the tests)
REFRESH = 0.020
"""Seconds of CPU at most for a refresh."""
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b>bold</b>'\"&"


@pytest.fixture
def token(tmp_path: Path) -> dict[str, str]:
    """Give the section of settings that lets operators act."""
    (tmp_path / "token").write_text(TOKEN)
    return {"admin_token_file": str(tmp_path / "token"), "port": 0}


@handler("power")
async def power(input: dict[str, Any]) -> dict[str, int]:
    """Do something at once."""
    return {"result": 2 ** input["power"]}


@handler("wait", concurrency=2, timeout=300)
async def wait(input: dict[str, Any], context: Context) -> None:  # noqa: ARG001
    """Run until it is cancelled."""
    context.log.info("waiting for the supplier", page=4)
    await anyio.sleep_forever()


@handler("refuse", concurrency=2)
async def refuse(input: dict[str, Any]) -> None:
    """Fail with what it is told to say."""
    raise TaskFailed(input["say"], code="no_ean")


async def sign_in(page: Page, worker: RunningWorker) -> None:
    """Sign in as Anna."""
    await page.goto(address(worker, "sign-in"))
    await page.get_by_label("Your name").fill("Anna")
    await page.get_by_label("Token").fill(TOKEN)
    await page.get_by_role("main").get_by_role("button", name="Sign in").click()
    await page.wait_for_url(address(worker))


async def test_idle_and_busy_are_told_as_they_are(tmp_path: Path, browser: Browser) -> None:
    """The page follows by itself from the first poll to full slots, with what runs and its last line."""
    async with watched(browser, [power, wait], tmp_path) as (worker, window):
        page = window.page
        polled = await when(lambda: worker.daemon.poller.succeeded_at is not None)
        await told(window, "All is well", "Polls are answered, nothing waits.", since=polled)
        await expect(page.locator("#live")).to_have_text("live", timeout=SOON)
        worker.submit("wait", {}, {})
        busy = await when(lambda: worker.daemon.journal.count(State.RUNNING) == 2)
        await told(window, "All is well", "2 executions run.", since=busy)
        await expect(page.locator("#tasks")).to_contain_text("all its slots are taken", timeout=SOON)
        running = page.locator("#in_hand tbody tr")
        await expect(running).to_have_count(2, timeout=SOON)
        await expect(running.first).to_contain_text("waiting for the supplier page=4")
        await expect(running.first).to_contain_text("in 5 min")
        await expect(page.locator("#budget")).to_contain_text("of 100 requests left")
        assert await window.serious_faults() == []


async def test_without_javascript_the_page_is_whole(tmp_path: Path, browser: Browser) -> None:
    """It says the same, and that it has to be reloaded."""
    async with watched(browser, [power], tmp_path, window={"java_script_enabled": False}) as (worker, window):
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        await window.page.reload()
        await expect(window.page.locator("#verdict")).to_contain_text("All is well")
        await expect(window.page.locator("#live")).to_have_text("reload to see changes")


async def test_a_429_is_told_with_what_it_means(tmp_path: Path, browser: Browser) -> None:
    """Somebody else uses the account: no fault of the worker's, and the operator learns how much is left."""
    refusing = faults(kind="status", status=429, retry_after=30, operations=["poll"])
    async with watched(browser, [power], tmp_path, faults=refusing) as (worker, window):
        refused = await when(lambda: worker.daemon.poller.outage.lasts)
        found = "Something is wrong", "429", "Somebody else uses the account's requests too"
        await told(window, *found, since=refused)
        await expect(window.page.locator("#budget")).to_contain_text("are ours for now", timeout=SOON)


async def test_a_refused_key_is_told_with_its_cure(tmp_path: Path, browser: Browser) -> None:
    """Also when it is revoked while the worker runs."""
    revoked = sandbox.Faults()
    async with watched(browser, [power], tmp_path, faults=revoked) as (worker, window):
        await told(window, "All is well")
        revoked.add("status", status=401)
        refused = await when(lambda: worker.daemon.poller.outage.lasts)
        found = "Something is wrong", "the API key is refused", "Put a valid key into api.key_file"
        await told(window, *found, since=refused)


async def test_a_platform_that_is_away_is_told_at_once(tmp_path: Path, browser: Browser) -> None:
    """At first as a short outage, in which work goes on; a worker that never reached it is not well."""
    away = sandbox.Faults()
    async with watched(browser, [power], tmp_path, faults=away) as (worker, window):
        await told(window, "All is well")
        away.add("cut_before")
        gone = await when(lambda: worker.daemon.poller.outage.lasts)
        found = "Working, but look at this", "polls are not answered", "they go on by themselves"
        await told(window, *found, since=gone)
        away.clear()
        await told(window, "Working, but look at this", "may have claimed what never arrived")
        await expect(window.page.locator("#verdict")).not_to_contain_text("they go on", timeout=SOON)
    async with watched(browser, [power], tmp_path / "2", api={"base_url": "http://127.0.0.1:9"}) as (_, window):
        await told(window, "wrong", "the account's tasks are not known", "product-live-worker check")


async def test_what_alerts_speak_of_is_told_in_the_verdict(tmp_path: Path, browser: Browser) -> None:
    """A task that mostly fails, with its messages below; a claim that may be lost, with what brings it back."""
    lost = sandbox.Faults()
    async with watched(browser, [refuse], tmp_path, faults=lost) as (worker, window):
        await worker.run("refuse", *[{"say": "The product has no EAN."}] * 3)
        await told(window, "Working, but look at this", "most executions of the last half hour failed: 3 of 3 of")
        await expect(window.page.locator("#failures")).to_contain_text("The product has no EAN.", timeout=SOON)
        lost.add("cut_after", operations=["poll"], count=1)
        await told(window, "Working, but look at this", "may have claimed what never arrived", "check names")


async def test_a_journal_that_cannot_be_written_is_told(tmp_path: Path, browser: Browser) -> None:
    """And that nothing is claimed meanwhile."""
    async with watched(browser, [power], tmp_path) as (worker, window):
        await told(window, "All is well")
        fill_up(tmp_path / "worker.db")
        full = await when(lambda: bool(worker.daemon.journal.trouble))
        found = "Something is wrong", "the journal cannot be written: disk is full", "Make room"
        await told(window, *found, since=full)
        await expect(window.page.locator("#tasks")).to_contain_text("nothing can be claimed", timeout=SOON)


async def test_a_page_too_many_says_that_it_is_not_kept_up_to_date(tmp_path: Path, browser: Browser) -> None:
    """More pages are open than are: that is no news of the worker, and the page does not call it dead."""
    async with running_worker([power], tmp_path) as worker, looking(browser) as looks:
        page = worker.daemon.page
        streams = [page._stream("") for _ in range(WATCHERS)]  # noqa: SLF001 (what the listener serves)
        for stream in streams:
            await anext(stream)
        # The clock of the page is set ahead, so that nobody has to wait for its patience to end.
        await looks.page.clock.install()
        await looks.page.goto(address(worker))
        await expect(looks.page.locator("#live")).to_have_text("reload to see changes", timeout=SOON)
        await looks.page.clock.run_for(60_000)
        await expect(looks.page.locator("#live")).to_have_text("reload to see changes")
        await expect(looks.page.locator("#lost")).to_be_hidden()
        for stream in streams:
            await stream.aclose()


async def test_a_stuck_thread_is_told(tmp_path: Path, browser: Browser) -> None:
    """It keeps its slot, and the operator learns of which task."""
    release = threading.Event()

    @handler("stuck", timeout=0.2)
    def stuck(input: dict[str, Any]) -> None:  # noqa: ARG001
        release.wait()

    async with watched(browser, [stuck], tmp_path) as (worker, window):
        worker.submit("stuck", {})
        late = await when(lambda: worker.daemon.threads.stuck() == 1)
        await told(window, "Working, but look at this", "1 thread runs on after its deadline", since=late)
        await expect(window.page.locator("#tasks")).to_contain_text("1 stuck", timeout=SOON)
        release.set()


async def test_ten_thousand_executions_of_five_hundred_tasks_stay_readable(tmp_path: Path, browser: Browser) -> None:
    """The page stays under 200 KB, says what it leaves out, and a refresh costs little more than before they came."""
    names = [f"task_{number:03}" for number in range(500)]

    @handler("many", concurrency=20_000)
    async def many(input: dict[str, Any]) -> None:
        """Never called: what is shown is what the journal has in memory."""

    tasks = {name: {"handler": "many"} for name in names}
    async with watched(browser, [many], tmp_path, world=new_world(*names), tasks=tasks, budget={}) as (worker, window):
        await until(worker.daemon.catalogue.loaded.is_set)
        small = await refresh_seconds(worker)
        journal, history, now = worker.daemon.journal, worker.daemon.history, time.time()
        for number in range(10_000):
            fields = {"task": names[number % 500], "state": State.RUNNING, "claimed_at": now, "started_at": now}
            journal._remember(an_execution(f"e{number}", **fields))  # noqa: SLF001 (ten thousand real ones take a minute)
            history.note(f"e{number}", "info", "x" * 5_000)
        many_run = time.time()
        await told(window, "All is well", "10,000 executions run", since=many_run)
        large = await refresh_seconds(worker)
        print(f"a refresh: {1000 * small:.1f} ms of CPU, with 10 000 executions {1000 * large:.1f} ms")  # noqa: T201 (see RESULTS.md)
        assert large < REFRESH
        assert large < 4 * small
        assert len((await worker.page()).encode()) < 200_000
        assert len((await worker.get("/status")).content) < 200_000
        await told(window, "All is well", "10,000 executions run")
        await expect(window.page.locator("#in_hand")).to_contain_text(
            "9,975 more executions are not shown", timeout=SOON
        )
        await expect(window.page.locator("#tasks")).to_contain_text("460 more tasks are not shown", timeout=SOON)
        await window.page.get_by_label("Find a task").fill("task_499")
        await window.page.get_by_role("button", name="Find").click()
        await expect(window.page.locator("#tasks tbody tr")).to_have_count(1, timeout=SOON)
        await expect(window.page.locator("#tasks")).to_contain_text("20 / 20000")


@contextmanager
def untraced() -> Iterator[None]:
    """Let no measuring of the tests' coverage, which costs three times what it looks at, count in the block."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


async def refresh_seconds(worker: RunningWorker) -> float:
    """Measure the CPU of the whole process for one message to an open page, all of it new; the best of ten."""
    page = new_page(worker.daemon)
    await page._prepare()  # noqa: SLF001 (what the listener does first)
    spent = []
    for _ in range(10):
        page._pages.forget()  # noqa: SLF001 (each anew)
        stream = page._stream("")  # noqa: SLF001 (what the listener serves)
        with untraced():
            before = time.process_time()
            message = await anext(stream)
            spent.append(time.process_time() - before)
        await stream.aclose()
        assert len(message) < 200_000
    return min(spent)


async def test_hostile_texts_are_shown_as_texts(tmp_path: Path, browser: Browser) -> None:
    """In keys, messages, ids and lines, of a megabyte too: nothing of it is run, and the page stays small."""

    @handler(HOSTILE, concurrency=2)
    async def hostile(input: dict[str, Any], context: Context) -> None:  # noqa: ARG001
        context.log.info(HOSTILE, more="y" * 1_000_000)
        await anyio.sleep_forever()

    kept = {"keep_payloads": True}
    async with watched(browser, [hostile, refuse], tmp_path, state=kept) as (worker, window):
        worker.submit(HOSTILE, {"eventCorrelationId": HOSTILE, "deep": HOSTILE})
        await worker.run("refuse", {"say": HOSTILE, "html": HOSTILE}, {"say": "z" * 1_000_000})
        page = window.page
        await expect(page.locator("#failures tbody tr")).to_have_count(2, timeout=SOON)
        await expect(page.locator("#failures")).to_contain_text(HOSTILE, timeout=SOON)
        await expect(page.locator("#tasks")).to_contain_text("<img src=x")
        await expect(page.locator("#in_hand")).to_contain_text("<script>", timeout=SOON)
        assert await page.locator("b", has_text="bold").count() == 0
        assert len(await page.content()) < 100_000
        await page.locator("#failures tbody tr", has_text="bold").get_by_role("link").click()
        await expect(page.get_by_role("heading", name="Its way")).to_be_visible()
        await expect(page.locator("pre").first).to_contain_text("<img src=x")
        assert await window.serious_faults() == []


async def test_an_operator_acts_by_one_click_and_it_is_kept(
    tmp_path: Path, browser: Browser, token: dict[str, str]
) -> None:
    """Pause and resume of all and of one task, cancel, redeliver, discard: done, and told with who and why."""
    refusing = faults(kind="status", status=422, operations=["update_execution"])
    async with watched(browser, [power, wait], tmp_path, http=token, faults=refusing) as (worker, window):
        page = window.page
        await expect(page.get_by_role("button", name="Pause all polling")).to_have_count(0)
        await sign_in(page, worker)
        page.on("dialog", lambda dialog: dialog.accept())
        await page.get_by_label("Why").fill("the ERP moves")
        await page.get_by_label("A pause lasts").select_option("1h")
        await page.get_by_role("button", name="Pause all polling").click()
        await told(window, "Paused until 20", "paused by Anna until 20", "the ERP moves", "Resume when")
        assert worker.daemon.poller.plan() is None
        await expect(page.locator("#actions")).to_contain_text("Anna paused all tasks: the ERP moves")
        await page.get_by_role("button", name="Resume all").click()
        await told(window, "All is well")
        await page.locator("#tasks tr", has_text="power").get_by_role("button", name="Pause").click()
        await told(window, "Working, but look at this", "power is paused by Anna")
        await page.locator("#tasks tr", has_text="power").get_by_role("button", name="Resume").click()
        await told(window, "All is well")
        (running,) = worker.submit("wait", {})
        await page.locator("#in_hand tbody tr").get_by_role("button", name="Cancel").click(timeout=SOON)
        await expect(page.locator("#failures")).to_contain_text("Cancelled by Anna.", timeout=SOON)
        await until(lambda: bool(worker.heard(ReportUndeliverable)))
        await told(window, "Working, but look at this", "1 undeliverable result is kept", "redeliver or discard")
        row = page.locator("#undeliverable tbody tr")
        await expect(row).to_contain_text("422", timeout=SOON)
        refusing.clear()
        await row.get_by_role("button", name="Redeliver").click()
        await until(lambda: running.status == "FAILED")
        await told(window, "All is well")
        await page.get_by_role("link", name=running.id).first.click()
        await expect(page.locator("main")).to_contain_text("Anna redelivered it")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("button", name="Pause all polling")).to_have_count(0)


async def test_the_page_cannot_be_framed(tmp_path: Path, browser: Browser) -> None:
    """A page of somebody else shows nothing where ours should be."""
    async with running_worker([power], tmp_path) as worker, looking(browser) as window:
        await window.page.goto(address(worker, "livez"))
        await window.page.evaluate(
            "url => { const f = document.createElement('iframe'); f.src = url; document.body.append(f); }",
            address(worker),
        )
        await until(lambda: any("frame-ancestors" in complaint for complaint in window.complaints))
        assert "All is well" not in await window.page.frames[1].content()


async def test_a_worker_that_has_died_is_not_shown_as_well(tmp_path: Path, browser: Browser) -> None:
    """What the page last knew is marked as old."""
    async with looking(browser) as window:
        async with running_worker([power], tmp_path) as worker:
            await window.page.goto(address(worker))
            await told(window, "All is well")
            await window.page.clock.install()
        await window.page.clock.fast_forward(7_000)
        await expect(window.page.locator("#live")).to_contain_text("no news for", timeout=SOON)
        await expect(window.page.locator("#lost")).to_contain_text("Below is what it last said.")
        assert (await window.page.title()).startswith("No news")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_used_by_everybody_and_photographed(
    tmp_path: Path, browser: Browser, token: dict[str, str], pictures: Path, scheme: str
) -> None:
    """Axe finds no serious fault with a page full of everything, in both schemes; the documents get their pictures."""
    refusing = faults(kind="status", status=422, operations=["update_execution"], count=1)
    window = {"color_scheme": scheme}
    handlers, state = [power, wait, refuse], {"keep_payloads": True}
    world = new_world("power", "wait", "refuse")
    ean = {"say": "The product has no EAN."}
    for task, given in (*(("power", {"power": n}) for n in range(6)), *[("wait", {}), ("refuse", ean)] * 2):
        world.submit(task, given, time.monotonic())
    more = {"http": token, "faults": refusing, "window": window, "state": state, "budget": {}, "world": world}
    async with watched(browser, handlers, tmp_path, **more) as (worker, looks):
        page = looks.page
        await until(lambda: bool(worker.heard(ReportUndeliverable)))
        await until(lambda: worker.daemon.journal.in_hand("wait") == worker.daemon.journal.unreported() == 2)
        await until(lambda: len(worker.daemon.history.failures) >= 2)
        await sign_in(page, worker)
        await page.get_by_label("Why").fill("the supplier's service is down until noon")
        await page.locator("#tasks tr", has_text="wait").get_by_role("button", name="Pause").click()
        await expect(page.locator("#undeliverable tbody tr")).to_have_count(1, timeout=SOON)
        await expect(page.locator("#live")).to_have_text("live", timeout=SOON)
        assert await looks.serious_faults() == []
        if scheme == "light":
            await page.screenshot(path=pictures / "page-light.png", full_page=True)
            await page.set_viewport_size({"width": 390, "height": 844})
            wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not await page.evaluate(wide)
            await page.screenshot(path=pictures / "page-phone.png", full_page=False)
        await page.set_viewport_size({"width": 1100, "height": 700})
        await page.locator("#failures tbody tr").first.get_by_role("link").click()
        await expect(page.get_by_role("heading", name="Its way")).to_be_visible()
        assert await looks.serious_faults() == []
        if scheme == "dark":
            await page.screenshot(path=pictures / "execution-dark.png", full_page=True)
        await page.goto(address(worker, "sign-in"))
        assert await looks.serious_faults() == []


async def test_the_keyboard_is_enough(tmp_path: Path, browser: Browser, token: dict[str, str]) -> None:
    """The focus stays where it was while the page renews itself, and Enter acts."""
    async with watched(browser, [power], tmp_path, http=token) as (worker, window):
        page = window.page
        await sign_in(page, worker)
        await told(window, "All is well")
        button = page.locator("#tasks").get_by_role("button", name="Pause")
        await button.focus()
        before = await page.locator("#tasks").inner_html()
        await worker.run("power", {"power": 1})
        await expect(page.locator("#tasks")).to_contain_text("1", timeout=SOON)
        await page.wait_for_function("html => document.getElementById('tasks').innerHTML !== html", arg=before)
        await expect(button).to_be_focused()
        await page.keyboard.press("Enter")
        await told(window, "Working, but look at this", "power is paused by Anna")

"""The page over HTTP: what it lets whom do, and what it never shows."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import TypeAdapter
from rich.console import Console

from product_live_handlers.power import power
from product_live_worker import Context, TaskFailed, handler, sandbox
from product_live_worker.cli.top import picture
from product_live_worker.model.action import Action
from product_live_worker.ops.document import StatusDocument
from support.workers import RunningWorker, new_world, running_worker, until

pytestmark = pytest.mark.anyio

TOKEN = "a token for 'operators' & others"  # noqa: S105 (of the tests)
KEY = "sandbox-key"
HTML = {"Accept": "text/html"}


@asynccontextmanager
async def with_token(path: Path, **more: Any) -> AsyncIterator[tuple[RunningWorker, httpx.AsyncClient]]:
    """Run a worker on whose page operators may act; gives it, and a browser that nobody has signed in with."""
    (path / "token").write_text(f"{TOKEN}\n")
    section = {"port": 0, "admin_token_file": str(path / "token")}
    async with running_worker([power], path, http=section, **more) as worker:
        base = f"http://127.0.0.1:{worker.daemon.port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False, headers=HTML) as browser:
            yield worker, browser


async def sign_in(browser: httpx.AsyncClient, token: str = TOKEN) -> str:
    """Sign in as Anna; gives the word that her forms carry."""
    await browser.post("/sign-in", data={"token": token, "who": "Anna"})
    page = (await browser.get("/")).text
    found = re.search(r'name="word" value="([0-9a-f]+)"', page)
    return found[1] if found else ""


async def test_who_asks_for_html_gets_the_page_and_a_terminal_gets_text(tmp_path: Path) -> None:
    """Both say the verdict; curl's is readable as it is."""
    async with running_worker([power], tmp_path) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        text, page = await worker.get("/"), await worker.get("/", **HTML)
    assert text.headers["Content-Type"].startswith("text/plain")
    assert text.text.splitlines()[1] == "ok"
    assert "of 50 requests used" in text.text
    assert page.headers["Content-Type"].startswith("text/html")
    assert "All is well" in page.text


async def test_every_answer_for_a_browser_has_a_strict_policy(tmp_path: Path) -> None:
    """Nothing inline, nothing from elsewhere, no frame around it; errors and assets too."""
    async with with_token(tmp_path) as (_, browser):
        for path in ("/", "/execution?id=x", "/sign-in", "/assets/page.js", "/assets/page.css", "/assets/icon.svg"):
            answer = await browser.get(path)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        page = (await browser.get("/")).text
        assert (await browser.get("/assets/../pages.py")).status_code == 404
    assert not re.search(r"<style|<script>| style=| on[a-z]+=|https?://(?!127\.0\.0\.1)", page)


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        ({}, {}),
        ({"word": "0" * 64}, {}),
        ({"word": "WORD"}, {"Origin": "https://elsewhere.example.com"}),
        ({"word": "WORD"}, {"Sec-Fetch-Site": "cross-site"}),
        ({"word": "WORD"}, {"Sec-Fetch-Site": "same-site"}),
        ({"word": "WORD"}, {"Cookie": "product_live_worker_operator=e30=.00"}),
        ({"word": "WORD"}, {"Cookie": ""}),
        ({}, {"Authorization": "Bearer wrong"}),
        ({"word": "WORD"}, {"Authorization": "Bearer wrong"}),
        ({}, {"Authorization": "Bearer"}),
    ],
)
async def test_a_forged_or_missing_proof_changes_nothing(
    tmp_path: Path, data: dict[str, str], headers: Mapping[str, str]
) -> None:
    """Not even beside a true session: each request has to bring what only the page of that session knows."""
    async with with_token(tmp_path) as (worker, browser):
        word = await sign_in(browser)
        assert word
        form = {"do": "pause", **{name: value.replace("WORD", word) for name, value in data.items()}}
        answer = await browser.post("/act", data=form, headers=headers)
        assert answer.status_code == 403
        assert "Nothing was done" in answer.text
        assert worker.daemon.journal.board.pauses() == ()
        assert worker.daemon.journal.board.actions == ()
        assert (await browser.get("/act")).status_code == 405


async def test_a_true_form_and_a_bearer_token_act(tmp_path: Path) -> None:
    """By a browser and by a script; who it was is kept."""
    async with with_token(tmp_path) as (worker, browser):
        word = await sign_in(browser)
        same = {"Origin": str(browser.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
        done = await browser.post("/act", data={"do": "pause", "word": word, "why": "why\nnot"}, headers=same)
        assert (done.status_code, done.headers["Location"]) == (303, "./")
        assert worker.daemon.poller.paused() == "paused by Anna until it is resumed: why not"
        browser.cookies.clear()
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        done = await browser.post("/act", data={"do": "resume", "who": "a script"}, headers=bearer)
        assert done.status_code == 303
        assert [action.who for action in worker.daemon.journal.board.actions] == ["Anna", "a script"]
        for form, code in (({"do": "explode"}, 400), ({"do": "cancel"}, 400), ({"do": "cancel nobody"}, 409)):
            answer = await browser.post("/act", data=form, headers=bearer)
            assert answer.status_code == code
        assert (await browser.post("/act", content=b"x" * 50_000, headers=bearer)).status_code == 400
        assert (await browser.post("/act", content=b"\xff\xfe=&&&;;", headers=bearer)).status_code == 400
        for many in (b"&" * 19_000, b"do=pause&" * 40):
            assert (await browser.post("/act", content=many, headers=bearer)).status_code == 400
            assert (await browser.post("/act", content=many)).status_code == 403
            assert (await browser.post("/sign-in", content=many)).status_code == 403


async def test_a_wrong_token_signs_nobody_in_and_a_new_one_ends_all_sessions(tmp_path: Path) -> None:
    """The token is read at each use: whoever left has no cookie that lasts."""
    async with with_token(tmp_path) as (worker, browser):
        assert await sign_in(browser, "wrong") == ""
        assert await sign_in(browser, "") == ""
        wrong = await browser.post("/sign-in", data={"token": "wrong", "who": "x"})
        assert (wrong.status_code, "Set-Cookie" in wrong.headers) == (403, False)
        foreign = await browser.post("/sign-in", data={"token": TOKEN}, headers={"Sec-Fetch-Site": "cross-site"})
        assert foreign.status_code == 403
        word = await sign_in(browser)
        (tmp_path / "token").write_text("another token, as long as that one")
        assert (await browser.post("/act", data={"do": "pause", "word": word})).status_code == 403
        (tmp_path / "token").write_text("short")
        assert (await browser.get("/sign-in")).status_code == 404
        (tmp_path / "token").unlink()
        assert (await browser.post("/act", data={"do": "pause", "word": word})).status_code == 403
        assert "Read-only" in (await browser.get("/")).text
        assert worker.daemon.journal.board.pauses() == ()


async def test_without_a_token_the_page_is_read_only(tmp_path: Path) -> None:
    """There is nothing to sign in with, and nothing acts."""
    async with running_worker([power], tmp_path) as worker:
        base = f"http://127.0.0.1:{worker.daemon.port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False, headers=HTML) as browser:
            assert (await browser.get("/sign-in")).status_code == 404
            assert (await browser.post("/sign-in", data={"token": ""})).status_code == 404
            for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer None"}):
                answer = await browser.post("/act", data={"do": "pause"}, headers=headers)
                assert answer.status_code == 403
        assert worker.daemon.journal.board.pauses() == ()


@pytest.mark.tells_secrets(why="its handler does, so that the page has something to hide")
async def test_no_secret_is_shown_wherever_it_was_written(tmp_path: Path) -> None:
    """The API key and the token in a handler's line, failure and input: hidden on every page and in every document."""

    @handler("leaky")
    async def leaky(input: dict[str, Any], context: Context) -> None:
        context.log.info("the key", key=KEY, token=TOKEN)
        if input["fail"]:
            raise TaskFailed(f"no luck with {KEY} and {TOKEN}")
        await anyio.sleep_forever()

    (tmp_path / "token").write_text(TOKEN)
    section, kept = {"port": 0, "admin_token_file": str(tmp_path / "token")}, {"keep_payloads": True}
    more = {"http": section, "state": kept, "drain": {"timeout": 0.1}, "budget": {"requests_per_minute": 0}}
    async with running_worker([leaky], tmp_path, **more) as worker:
        (failed,) = await worker.run("leaky", {"fail": True, "secret": KEY, "other": TOKEN})
        (runs,) = worker.submit("leaky", {"fail": False, "secret": f"{KEY} {TOKEN}"})
        await until(lambda: runs.id in worker.daemon.history.lines)
        said = [await worker.get(path) for path in ("/", "/status", "/readyz", "/metrics", "/livez")]
        pages = ("/", f"/?task={KEY}", f"/execution?id={failed.id}", f"/execution?id={runs.id}")
        said += [await worker.get(path, **HTML) for path in pages]
        said += [await worker.get(f"/status?task={KEY}")]
        events = await first_events(worker)
    shown = "\n".join(answer.text for answer in said) + events
    assert "no luck with *** and ***" in shown
    assert KEY not in shown
    for written in (TOKEN, "a token for &#39;operators&#39;", "a token for &#x27;operators"):
        assert written not in shown


async def first_events(worker: RunningWorker) -> str:
    """Read two messages of the page's events."""
    found = ""
    async with events_of(worker) as answer:
        async for line in answer.aiter_lines():
            found += line
            if found.count("data: ") == 2:
                break
    return found


@asynccontextmanager
async def events_of(worker: RunningWorker) -> AsyncIterator[httpx.Response]:
    """Watch as a page does."""
    url = f"http://127.0.0.1:{worker.daemon.port}/events"
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http, http.stream("GET", url) as answer:
        yield answer


async def test_the_document_is_what_its_schema_says(tmp_path: Path) -> None:
    """In each state of the work; and its version is the first thing it says."""
    faults = sandbox.Faults()
    faults.add("status", status=503, operations=["update_execution"], after=1)
    schema = TypeAdapter(StatusDocument)
    async with running_worker([power], tmp_path, faults=faults, drain={"timeout": 0.1}) as worker:
        schema.validate_json((await worker.get("/status")).content, strict=True)
        worker.submit("power", {"power": 1}, {"power": "x"})
        await until(lambda: any(one.attempts for one in worker.daemon.journal.open_executions()))
        document = (await worker.get("/status")).json()
        schema.validate_json(json.dumps(document), strict=True)
        assert next(iter(document)) == "schema"
        assert "503" in document["reports"]["shown"][0]["trouble"]
        assert {one["purpose"] for one in document["budget"]["requests"]} == {"define", "poll", "report"}
        assert document["tasks"][0]["handler_seconds"]["calls"] == 2
        assert document["workers"][0]["this"]
        faults.clear()


async def test_top_shows_what_somebody_has_to_decide_on(tmp_path: Path) -> None:
    """A result that the platform refuses, with its words; what mends two troubles is said once."""
    faults = sandbox.Faults()
    faults.add("status", status=422, operations=["update_execution"])
    async with running_worker([power], tmp_path, faults=faults) as worker:
        (refused,) = worker.submit("power", {"power": 1})
        await until(lambda: bool(worker.daemon.journal.board.undeliverable))
        faults.add("status", status=429, retry_after=60, operations=["poll"])
        await until(lambda: worker.daemon.poller.outage.lasts)
        document = (await worker.get("/status")).json()
        faults.clear()
    said = io.StringIO()
    Console(file=said, width=160).print(picture(document, "here", width=160, height=0))
    assert re.search(rf"Undeliverable results *\n.*\n *{refused.id} .*422 Unprocessable Entity", said.getvalue())
    assert said.getvalue().count("Somebody else uses the account's requests too") == 1


async def test_events_end_with_the_worker(tmp_path: Path) -> None:
    """Who watches does not hold up the end, and is told what has changed before it."""
    async with running_worker([power], tmp_path) as worker:
        await until(lambda: worker.daemon.poller.succeeded_at is not None)
        first = json.loads((await first_events(worker)).split("data: ")[1])
        assert first["condition"] == "well"
        async with events_of(worker) as answer:
            await worker.drain()
            worker.daemon.page.close()
            said = (await answer.aread()).decode()
    assert "data: " in said


async def test_only_so_many_are_kept_up_to_date(tmp_path: Path) -> None:
    """What comes beyond gets the page, and is told not to ask for events again."""
    async with running_worker([power], tmp_path) as worker:
        worker.daemon.page._watchers = 32  # noqa: SLF001 (as many as there may be)
        assert (await worker.get("/events")).status_code == 204
        assert (await worker.get("/", **HTML)).status_code == 200


async def test_an_execution_that_nobody_knows_is_told_so(tmp_path: Path) -> None:
    """With 404, in words, whatever stands in its place."""
    async with running_worker([power], tmp_path) as worker:
        for name in ("nobody", "%3Cscript%3E", "%00", ""):
            answer = await worker.get(f"/execution?id={name}", **HTML)
            assert answer.status_code == 404
            assert "<script>" not in answer.text


async def test_many_pauses_are_told_by_their_number(tmp_path: Path) -> None:
    """Of tasks that were paused one by one the page lists some, says how many more there are, and stays small."""
    names = [f"task_{number:02}" for number in range(30)]

    @handler("many")
    async def many(input: dict[str, Any]) -> None:
        """Never called."""

    tasks = {name: {"handler": "many"} for name in names}
    async with running_worker([many], tmp_path, world=new_world(*names), tasks=tasks) as worker:
        for name in names:
            await worker.daemon.act(Action(verb="pause", subject=name, who="Anna", at=time.time()))
        await until(lambda: len(worker.daemon.journal.board.pauses()) == len(names))
        page = await worker.page()
    assert "10 more pauses are not shown" in page
    assert page.count("paused by Anna") < 3 * len(names)

"""The routes of the page: it is read by everybody who reaches the listener, and acted on with the token alone."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import anyio
import anyio.to_thread
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from product_live_worker.journal.board import Board
from product_live_worker.model.action import ALL, OF_POLLING, VERBS, Action, Verb, one_line
from product_live_worker.model.errors import IllegalTransition, JournalError
from product_live_worker.ops.access import COOKIE, LASTS, Access, is_foreign
from product_live_worker.ops.page.pages import ASSETS, Pages, asset, title, unchanged
from product_live_worker.telemetry.redaction import Secrets, redacted

if TYPE_CHECKING:
    from starlette.requests import Request

BEAT = 1.0
"""Seconds between two looks at what has changed."""
PULSE = 3.0
"""Seconds after which a page that is up to date is told that it still is."""
WATCHERS = 32
"""Pages at most that are kept up to date; what comes beyond is shown, and has to be reloaded."""
LARGEST_FORM = 20_000
MOST_FIELDS = 20
"""What is larger, or has more of them, is read as an empty form."""
PAUSES = {"": None, "15m": 900.0, "1h": 3600.0, "8h": 8 * 3600.0, "1d": 86400.0}
"""How long a pause may last; nothing: until it is resumed."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Act = Callable[[Action], Awaitable[None]]


class Page:
    """What answers the routes of the page."""

    def __init__(self, pages: Pages, access: Access, board: Board, act: Act, secrets: Secrets) -> None:
        """`act` has an action done and kept; `secrets` gives what no page may hold."""
        self._pages = pages
        self._access = access
        self._board = board
        self._act = act
        self._secrets = secrets
        self._closed = anyio.Event()
        self._watchers = 0
        self._prepared = anyio.Lock()
        self._is_prepared = False

    def routes(self) -> list[Route]:
        """Give all but the front page, whose reader may want text."""
        return [
            Route("/events", self._events),
            Route("/execution", self._execution),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/act", self._acted, methods=["POST"]),
            Route("/assets/{name}", self._asset),
        ]

    def close(self) -> None:
        """Let go of all who watch: the listener's own end waits for them."""
        self._closed.set()

    async def front(self, request: Request) -> Response:
        """Give the front page."""
        await self._prepare()
        task = request.query_params.get("task", "")
        return self._html(self._pages.board(task=task, **self._reader(request)))

    async def _events(self, request: Request) -> Response:
        if self._watchers >= WATCHERS:
            # 204 tells an EventSource not to come again.
            return Response(status_code=204)
        await self._prepare()
        stream = self._stream(request.query_params.get("task", ""))
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    async def _stream(self, task: str) -> AsyncGenerator[bytes, None]:
        self._watchers += 1
        try:
            known: dict[str, str] = {}
            told_at = 0.0
            while not self._closed.is_set():
                document, sections = self._pages.sections(task)
                now = time.monotonic()
                plain = {name: unchanged(html) for name, html in sections.items()}
                # At first all of it: what the page was made of may have changed before it began to watch.
                new = {name: html for name, html in sections.items() if plain[name] != known.get(name)}
                if new or now - told_at >= PULSE:
                    said = {"condition": document["condition"], "title": title(document), "now": document["now"]}
                    yield b"data: %s\n\n" % self._json({**said, "sections": new})
                    told_at = now
                known = plain
                with anyio.move_on_after(BEAT):
                    await self._closed.wait()
        finally:
            self._watchers -= 1

    async def _execution(self, request: Request) -> Response:
        await self._prepare()
        execution_id = request.query_params.get("id", "")
        try:
            row = await self._board.record(execution_id)
        except JournalError as error:
            return self._told("The journal cannot be read", f"{error}. Try again in a moment.", 503)
        if row is None:
            text = f"The journal has no execution {execution_id[:200]!r}: it was never claimed here, or is forgotten."
            return self._told("No such execution", text, 404)
        acted = [one for one in self._board.actions if one.subject == execution_id and one.verb not in OF_POLLING]
        return self._html(self._pages.execution(row, acted, **self._reader(request)))

    async def _sign_in(self, request: Request) -> Response:
        await self._prepare()
        if not self._access.possible():
            return self._told("Read-only", "No http.admin_token_file is set: nobody can act on this page.", 404)
        if request.method != "POST":
            return self._html(self._pages.sign_in())
        form = await _form(request)
        cookie = None if is_foreign(request) else self._access.sign_in(form.get("token", ""), form.get("who", ""))
        if cookie is None:
            return self._html(self._pages.sign_in(wrong="This is not the token of http.admin_token_file."), 403)
        answer = RedirectResponse("./", 303, headers=HEADERS)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, cookie, max_age=LASTS, httponly=True, samesite="lax", secure=secure)
        return answer

    async def _sign_out(self, request: Request) -> Response:
        answer = RedirectResponse("./", 303, headers=HEADERS)
        if self._access.admits(request, await _form(request)) is not None:
            answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
        return answer

    async def _acted(self, request: Request) -> Response:
        await self._prepare()
        form = await _form(request)
        operator = self._access.admits(request, form)
        if operator is None:
            text = "Nothing was done: sign in with the token of http.admin_token_file, on this very page."
            return self._told("Not allowed", text, 403)
        verb, _, subject = form.get("do", "").partition(" ")
        lasts = form.get("for", "")
        if verb not in VERBS or lasts not in PAUSES or (verb not in OF_POLLING and not subject):
            allowed = (
                f"do is one of {', '.join(VERBS)}, and its subject; for is one of {', '.join(filter(None, PAUSES))}"
            )
            return self._told("Not understood", f"Nothing was done. Allowed is: {allowed}.", 400)
        try:
            await self._act(_action(verb, subject, operator.who, form.get("why", ""), PAUSES[lasts]))
        except IllegalTransition as error:
            return self._told("Not done", f"{error}.", 409)
        except JournalError as error:
            return self._told("Not done", f"{error}. What is not written down is not done: try again.", 503)
        self._pages.forget()
        back = form.get("back", "")
        return RedirectResponse(f"execution?{urlencode({'id': back})}" if back else "./", 303, headers=HEADERS)

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            return Response(status_code=404)
        # Its address changes with it.
        return Response(asset(name), media_type=ASSETS[name], headers={**HEADERS, "Cache-Control": "max-age=86400"})

    async def _prepare(self) -> None:
        if not self._is_prepared:
            async with self._prepared:
                await anyio.to_thread.run_sync(self._pages.prepare)
                self._is_prepared = True

    def _reader(self, request: Request) -> dict[str, Any]:
        return {"operator": self._access.operator(request), "can_act": self._access.possible()}

    def _told(self, heading: str, text: str, status: int) -> Response:
        return self._html(self._pages.message(heading, text), status)

    def _html(self, text: str, status: int = 200) -> Response:
        # Half a character, as the platform may send it, is shown as its number.
        body = redacted(text, self._secrets()).encode("utf-8", "backslashreplace")
        return Response(body, status, media_type="text/html", headers=HEADERS)

    def _json(self, value: Any) -> bytes:
        return redacted(json.dumps(value), self._secrets()).encode()


async def _form(request: Request) -> Mapping[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            return {}
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=MOST_FIELDS))
    except ValueError:
        return {}


def _action(verb: Verb, subject: str, who: str, why: str, lasts: float | None) -> Action:
    now = time.time()
    until = now + lasts if verb == "pause" and lasts is not None else None
    return Action(verb=verb, subject=subject or ALL, who=who, why=one_line(why), at=now, until=until)

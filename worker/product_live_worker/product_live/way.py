"""How requests for files go: to whom they may, with the key to our own host alone, there in a slot of the budget.

Where a file lies is the word of an input. So it is asked for by https only, whose certificates an address inside of
the network seldom has, unless its host is named in the settings; and whoever redirects, the key goes to Product-Live
and nobody else.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import anyio
import httpx

from product_live_worker.model.context import Log
from product_live_worker.model.errors import PlatformError, RequestRefused
from product_live_worker.product_live.budget import Budget, Purpose, Slot
from product_live_worker.product_live.client import FILES, NEVER_SENT, Client, is_loopback, new_http, retry_after, why
from product_live_worker.telemetry.events import Emit, RequestAnswered

SILENCE = 60.0
"""Seconds without a byte after which a transfer is broken; how long it may take in all is for the deadline to say."""
CONNECTIONS = 20
REDIRECTS = 5
PROGRESS = 10.0
"""Seconds between two lines about a transfer; so often its slot of the budget is prolonged too."""
AGAIN = frozenset({408, 425, 429})
"""Refusals that pass by themselves, beside those of a server that fails."""

Content = Callable[[Slot | None], AsyncIterator[bytes]]
"""What is sent, piece by piece, beside the slot that it is sent in."""


class Trouble(Exception):
    """Why an attempt was in vain, in words that do not repeat an address: its query may be a secret."""

    def __init__(self, text: str, *, again: bool = False, pause: float | None = None, code: str = "") -> None:
        super().__init__(text)
        self.again = again
        self.pause = pause
        self.code = code


class Way:
    """The way to the files, of one account."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        client: Client,
        budget: Budget,
        *,
        base_url: str,
        hosts: Collection[str],
        emit: Emit,
    ) -> None:
        """`hosts`: those beside Product-Live's that files may come from, by http too; none is any, by https."""
        self._http = http
        self._client = client
        self._budget = budget
        self._base = httpx.URL(base_url)
        self._hosts = hosts
        self._emit = emit

    async def link(self, file_id: str) -> tuple[str, str | None]:
        """Ask the platform where the file can be downloaded now, and what it is called."""
        try:
            record = await self._client.read_file(file_id)
        except RequestRefused as refusal:
            raise Trouble(f"Product-Live does not have it (any more): {refusal}") from refusal
        except PlatformError as error:
            raise Trouble(str(error), again=True, pause=error.retry_after) from error
        return record.url or f"{self._base}{FILES}/{file_id}/content", record.filename

    @asynccontextmanager
    async def got(self, address: str) -> AsyncIterator[httpx.Response]:
        """GET an address, and where it leads to; the key goes to our own host alone."""
        url = self._allowed(address)
        for _ in range(REDIRECTS + 1):
            async with self._sent("download_file", "GET", url, {"Accept": "*/*"}) as answer:
                if answer.next_request is None:
                    yield answer
                    return
                url = self._allowed(str(answer.next_request.url), after=url)
        raise Trouble(f"it is redirected more than {REDIRECTS} times")

    @asynccontextmanager
    async def posted(self, headers: Mapping[str, str], content: Content) -> AsyncIterator[httpx.Response]:
        """POST a file to the platform."""
        url = self._base.copy_with(path=self._base.path.rstrip("/") + FILES)
        async with self._sent("upload_file", "POST", url, headers, content) as answer:
            yield answer

    def trouble(self, answer: httpx.Response) -> Trouble:
        """Say what an answer that is no success means for the next attempt."""
        status = answer.status_code
        text = f"{status} {httpx.codes.get_reason_phrase(status)}".strip()
        if status == 401 and self._is_ours(answer.url):
            return Trouble(text, again=self._client.reread_key())
        pause = retry_after(answer.headers.get("Retry-After"))
        return Trouble(text, again=status in AGAIN or status >= 500, pause=pause)

    def _allowed(self, address: str, *, after: httpx.URL | None = None) -> httpx.URL:
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, ValueError):
            raise Trouble("its address is none", code="file_refused") from None
        if url.host == self._base.host and url.scheme == "http" and url.port in (None, 80):
            # Job definitions show addresses of Product-Live's with http; the key must not leave in clear.
            url = url.copy_with(scheme=self._base.scheme, port=self._base.port)
        if self._is_ours(url):
            return url
        host, named = url.host, any(_matches(url.host, pattern) for pattern in self._hosts)
        if self._hosts and not named:
            raise Trouble(f"the host {host} is not one of files.hosts in the settings", code="file_refused")
        if url.scheme != "https" and not (named and url.scheme == "http"):
            text = f"the host {host} is asked by https only, unless it is named in files.hosts of the settings"
            raise Trouble(text, code="file_refused")
        if after is not None and after.scheme == "https" and url.scheme != "https":
            raise Trouble(f"it is redirected from https to {url.scheme}", code="file_refused")
        return url

    def _is_ours(self, url: httpx.URL) -> bool:
        return (url.scheme, url.host, url.port) == (self._base.scheme, self._base.host, self._base.port)

    @asynccontextmanager
    async def _sent(
        self,
        operation: str,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        content: Content | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send one request, in a slot and with the key if it goes to our own host; of the status, only 429 counts."""
        ours = self._is_ours(url)
        slot = await self._budget.slot(Purpose.FILES, resource="files") if ours else None
        with slot or nullcontext():
            if slot is not None:
                await slot.use()
            key = {"X-Api-Key": self._client.key} if ours else {}
            request = self._http.build_request(
                method, url, headers={**headers, **key}, content=content(slot) if content else None
            )
            code, started = "cancelled", time.monotonic()
            try:
                answer = await self._http.send(request, stream=True)
                code = str(answer.status_code)
            except NEVER_SENT as error:
                code = "unreachable"
                # What a defect of ours breaks off in the middle has been sent in part.
                if slot is not None and not isinstance(error, httpx.LocalProtocolError):
                    slot.unsent()
                raise Trouble(why(error), again=True) from error
            except (httpx.HTTPError, ssl.SSLError) as error:
                code = "unreachable"
                raise Trouble(why(error), again=True) from error
            finally:
                if ours:
                    self._emit(RequestAnswered(operation=operation, code=code, seconds=time.monotonic() - started))
            if slot is not None:
                slot.answered()
            if ours and answer.status_code == 429:
                self._budget.refused(retry_after(answer.headers.get("Retry-After")))
            try:
                yield answer
            except (httpx.HTTPError, ssl.SSLError) as error:
                raise Trouble(why(error), again=True) from error
            finally:
                with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 1):
                    await answer.aclose()


class Progress:
    """Lines about a transfer that takes its time."""

    def __init__(self, log: Log, words: str, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._words = words
        self._now = now
        self._started = self._told = now()

    def made(self, done: int, whole: int | None = None) -> bool:
        """Note how far it is; gives whether it was time to say so."""
        if self._now() - self._told < PROGRESS:
            return False
        self._told = self._now()
        self._log.info(self._words, bytes=done, **({"of": whole} if whole else {}), seconds=self.seconds())
        return True

    def seconds(self) -> float:
        """Give how long it has taken so far."""
        return round(self._now() - self._started, 3)


@asynccontextmanager
async def open_transfers_http(
    base_url: str, *, connect_timeout: float, ca_file: Path | None, user_agent: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Open an HTTP client of its own: a report never waits for a connection that a file occupies."""
    host = httpx.URL(base_url).host
    async with new_http(
        ca_file=ca_file,
        user_agent=user_agent,
        # A proxy could not reach our own loopback.
        mounts={f"all://{host}": None} if is_loopback(host) else None,
        timeout=httpx.Timeout(SILENCE, connect=connect_timeout, pool=None),
        limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=3.0),
    ) as http:
        yield http


def _matches(host: str, pattern: str) -> bool:
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))

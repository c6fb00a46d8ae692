"""How connectors speak HTTP: one login for all, a few requests at a time, and errors that say what may have happened.

RemoteError
├── NotSent       the connection did not come about: the request never left
├── NoAnswer      sent, without a usable answer: it may have been done
├── Busy          429: not done, later perhaps
└── Refused       4xx: not done, and asking the same again is of no use
    └── LoginRefused
"""

from __future__ import annotations

import json
import math
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import quote, urlencode

import anyio
import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from product_live_handlers.bounds import DEEPEST, LONGEST_NAME, cut, shorten

Model = TypeVar("Model", bound=BaseModel)

LARGEST = 20_000_000
"""Bytes of an answer."""
SIGNING = frozenset({"authorization", "icsessionid", "infa-session-id", "ids-session-id"})
"""Headers that sign a request: what they hold is as secret as what it was had for."""
MOST_ISSUED = 50
"""Tokens that are remembered, to be taken out of what another system says."""
SHORTEST_TOKEN = 8
"""Characters; what is shorter is no token, and would tear words and codes apart."""
COOL_DOWN = 30.0
"""Seconds in which a refused login is not tried again: repeated bad passwords lock accounts."""
STALE = 5.0
"""Seconds after which an idle connection is not used again."""


class RemoteError(Exception):
    """Another system did not do what it was asked; the text is a sentence without secrets."""

    retry_after: float | None = None


class NotSent(RemoteError):
    """The request never left."""


class NoAnswer(RemoteError):
    """The request was sent and may have been done."""


class Busy(RemoteError):
    """Too many requests; this one was not done."""

    def __init__(self, text: str, retry_after: float | None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Refused(RemoteError):
    """Not done, for a reason that stays."""

    def __init__(self, text: str, *, status: int, code: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.details = dict(details or {})


class LoginRefused(Refused):
    """The connection's own secrets are not, or no longer, accepted."""


def a_host_url(text: str) -> str:
    """Check the address of a system: https, or http to this machine itself, without user, query or fragment."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    local = url.host in ("localhost", "127.0.0.1", "::1")
    if not url.host or url.scheme not in (("https", "http") if local else ("https",)):
        raise ValueError("must be an address such as https://host.example.com")
    if url.userinfo or url.query or url.fragment:
        raise ValueError("must hold no user, query or fragment")
    return text.rstrip("/")


HostUrl = Annotated[str, AfterValidator(a_host_url)]


def segment(text: str) -> str:
    """Write a text as one part of a path; raises ValueError for what would be another path."""
    if text in ("", ".", ".."):
        raise ValueError(f"{text!r} cannot be a part of an address")
    return quote(text, safe="")


def an_id(text: str) -> str:
    """Check what names a thing of another system: it becomes a part of a path."""
    segment(text)
    if len(text) > LONGEST_NAME:
        raise ValueError(f"must have at most {LONGEST_NAME} characters")
    return text


Id = Annotated[str, AfterValidator(an_id)]


class Connection(BaseModel):
    """What every section `[connections.<name>]` may say."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    connect_timeout: float = Field(default=10.0, gt=0)
    """Seconds in which a connection must come about."""
    read_timeout: float = Field(default=60.0, gt=0)
    """Seconds of silence after which an answer is given up."""
    max_in_flight: int = Field(default=8, ge=1)
    """Requests at once, of all executions together."""
    ca_file: Path | None = None
    """Certificates of a CA beside the system's own."""
    client_cert: Path | None = None
    """What a system is shown that asks for a certificate: PEM, with its chain, and its key unless that is apart."""
    client_key: Path | None = None
    client_key_passphrase: SecretStr | None = None

    @model_validator(mode="after")
    def _has_certificates(self) -> Self:
        if self.client_cert is None and (self.client_key or self.client_key_passphrase):
            raise ValueError("client_key and client_key_passphrase need client_cert")
        # Tried now, and not at the first request; with no other certificates, which take longer to load.
        self.add_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return self

    def add_certificates(self, trust: ssl.SSLContext) -> None:
        """Load what the files hold; raises ValueError, which names the file."""
        phrase = self.client_key_passphrase
        try:
            named = self.ca_file
            if self.ca_file is not None:
                trust.load_verify_locations(cafile=self.ca_file)
            named = self.client_cert
            if self.client_cert is not None:
                # Without a passphrase OpenSSL would ask the terminal for one.
                trust.load_cert_chain(self.client_cert, self.client_key, phrase.get_secret_value() if phrase else "")
        except OSError as error:
            why = "its key, or passphrase, is another one" if named == self.client_cert else "there are none in it"
            told = error.strerror if not isinstance(error, ssl.SSLError) else f"no PEM, or {why}"
            raise ValueError(f"the certificates of {named} cannot be read: {told}") from None

    def secrets(self) -> list[str]:
        """Give the texts that no message may hold."""
        values = [getattr(self, name) for name in type(self).model_fields]
        return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that says success."""

    status: int
    body: Any
    """Its JSON; None where it has none."""
    headers: Mapping[str, str]

    @property
    def date(self) -> float:
        """The server's own clock, as Unix seconds; 0 where it does not say."""
        return _date(self.headers.get("date", ""))


Explain = Callable[[int, Any], tuple[str, str, dict[str, Any]]]
"""What an error's status and JSON say: a code, a text, and what else belongs to it."""


@dataclass
class Wire:
    """A way to one system: no redirects, no cookies, no proxies of the environment, no secrets in errors."""

    system: str
    http: httpx.AsyncClient
    fresh: httpx.AsyncClient
    """For what must not be lost on a connection that the other side has closed meanwhile."""
    turns: anyio.CapacityLimiter
    secrets: list[str]
    """Of the connection."""
    explain: Explain
    issued: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_ISSUED))
    """What requests were signed with lately."""

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, Any] | None = None,
        content: Any = None,
        form: Mapping[str, str] | None = None,
        fresh: bool = False,
        raw: bool = False,
    ) -> Answer:
        """Send one request and give the answer if it says success (any 2xx); raises a RemoteError.

        `raw`: the body is bytes, whatever they are.
        """
        query = {name: _written(value) for name, value in (params or {}).items() if value is not None}
        sent = {"Accept": "application/json", "User-Agent": "product-live-worker", **headers}
        body = None if content is None else json.dumps(content).encode()
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        if form is not None:
            body, sent["Content-Type"] = urlencode(form).encode(), "application/x-www-form-urlencoded"
        self._remember(headers)
        client = self.fresh if fresh else self.http
        async with self.turns:
            request = client.build_request(method, url, headers=sent, params=query or None, content=body)
            # The answer to what must not be lost is worth the wait: without it nobody knows what was started.
            with anyio.CancelScope(shield=fresh):
                status, answered, text = await self._exchange(client, request)
        if raw and 200 <= status < 300:
            return Answer(status, text, answered)
        return self._read(status, answered, text)

    async def _exchange(
        self, client: httpx.AsyncClient, request: httpx.Request
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            answer = await client.send(request, stream=True)
            try:
                read = bytearray()
                async for chunk in answer.aiter_bytes():
                    read += chunk
                    if len(read) > LARGEST:
                        raise NoAnswer(f"{self.system} answered more than {LARGEST} bytes")
                return answer.status_code, answer.headers, bytes(read)
            finally:
                await answer.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(f"{self.system} cannot be reached: {_why(error)}") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise NoAnswer(f"{self.system} gave no answer: {_why(error)}") from None

    def _read(self, status: int, headers: Mapping[str, str], text: bytes) -> Answer:
        body, problem = _json(headers, text)
        if 200 <= status < 300:
            if problem:
                raise NoAnswer(f"{self.system} answered {status} {problem}")
            return Answer(status, body, headers)
        code, said, details = self.explain(status, body) if body is not None else ("", problem, {})
        told = self.clean(": ".join(part for part in (f"{self.system} answered {status}", code, said) if part))
        if status == 429:
            raise Busy(told, _retry_after(headers))
        if status == 408 or status >= 500:
            raise NoAnswer(told)
        if 300 <= status < 400:
            told = f"{self.system} answered with a redirect ({status}), which is not followed"
        raise self.refused(told, status=status, code=code, details=details)

    def refused(self, text: str, *, status: int, code: str, details: Mapping[str, Any]) -> Refused:
        """Make a refusal of another system's words: without secrets, and of a size."""
        return Refused(self.clean(text), status=status, code=self.clean(code), details=cut(self.cleaned(dict(details))))

    def _remember(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            token = value.rpartition(" ")[2]
            if name.lower() in SIGNING and len(token) >= SHORTEST_TOKEN and token not in self.issued:
                self.issued.append(token)

    def clean(self, text: str) -> str:
        """Take secrets out of another system's words, and cut them."""
        # The longest first: one may hold another.
        for secret in sorted({*self.secrets, *self.issued}, key=len, reverse=True):
            if secret:
                text = text.replace(secret, "***")
        return shorten(text, LONGEST_NAME)

    def cleaned(self, said: Any, levels: int = DEEPEST) -> Any:
        """Give JSON of another system with all its texts cleaned."""
        if isinstance(said, str):
            return self.clean(said)
        if isinstance(said, dict | list) and not levels:
            return "…"
        if isinstance(said, dict):
            return {self.clean(str(name)): self.cleaned(value, levels - 1) for name, value in said.items()}
        return [self.cleaned(one, levels - 1) for one in said] if isinstance(said, list) else said


@asynccontextmanager
async def open_wire(system: str, connection: Connection, explain: Explain) -> AsyncIterator[Wire]:
    """Open the way to a system, as its connection says."""
    trust = ssl.create_default_context()
    connection.add_certificates(trust)
    read, most = connection.read_timeout, connection.max_in_flight
    timeout = httpx.Timeout(read, connect=connection.connect_timeout)

    def client(keep: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            verify=trust,
            trust_env=False,
            follow_redirects=False,
            timeout=timeout,
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=keep, keepalive_expiry=STALE),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    async with client(most) as http, client(0) as fresh:
        yield Wire(system, http, fresh, anyio.CapacityLimiter(most), connection.secrets(), explain)


@dataclass
class Session:
    """What a login gives, shared by all: fetched when it is needed, once, however many ask."""

    login: Callable[[], Awaitable[tuple[Any, float]]]
    """Gives it, and the seconds for which it can be used."""
    now: Callable[[], float]
    logins: int = 0
    _value: Any = None
    _until: float = 0.0
    _failed: RemoteError | None = None
    _not_before: float = 0.0
    _tried: int = 0
    _turn: anyio.Lock = field(default_factory=anyio.Lock)

    async def get(self) -> Any:
        """Give what is there, or log in; raises what the login raises, to all that wait for it."""
        tried = self._tried
        async with self._turn:
            if self._value is not None and self.now() < self._until:
                return self._value
            if self._failed is not None and (self._tried != tried or self.now() < self._not_before):
                raise self._failed
            try:
                self._value, lasts = await self.login()
            except RemoteError as error:
                # What was to be sent after it was not sent, whether the login was heard or not.
                self._failed = NotSent(str(error)) if isinstance(error, NoAnswer) else error
                self._not_before = self.now() + (COOL_DOWN if isinstance(error, Refused) else 0.0)
                self._tried += 1
                raise self._failed from None
            self._failed, self._until = None, self.now() + lasts
            self.logins += 1
            return self._value

    def peek(self) -> Any:
        """Give what is there, or None."""
        return self._value

    def prolong(self, lasts: float) -> None:
        """Say that it can be used for so long from now on."""
        self._until = max(self._until, self.now() + lasts)

    def refused(self, value: Any) -> None:
        """Forget it, unless somebody has fetched another one meanwhile."""
        if self._value is value:
            self._value = None


async def signed(
    session: Session, send: Callable[[Any], Awaitable[Answer]], stale: Callable[[Refused], bool]
) -> Answer:
    """Send with what the session gives; where that is refused as stale, log in again and send once more."""
    value = await session.get()
    try:
        return await send(value)
    except Refused as refused:
        if not stale(refused):
            raise
    session.refused(value)
    return await send(await session.get())


def read_as(model: type[Model], said: Any, system: str) -> Model:
    """Read what a system said; raises NoAnswer for what is not as its documents say."""
    try:
        return model.model_validate(said)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
        raise NoAnswer(f"{system} answered with a {model.__name__} whose {where} cannot be read") from None


def seconds_of(answer: Answer, name: str, default: float) -> float:
    """Give the seconds for which a login counts; raises LoginRefused for what is no number."""
    said = answer.body.get(name) if isinstance(answer.body, dict) else None
    if said is None or said == "":
        return default
    try:
        seconds = float(said) if isinstance(said, str | int | float) and not isinstance(said, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise LoginRefused(f"the login gave an {name} that is no number of seconds", status=answer.status)
    return seconds


def whole(found: BaseModel, system: str) -> dict[str, Any]:
    """Give all that a system said of something as JSON; raises NoAnswer for what no JSON can be made of."""
    try:
        return found.model_dump(mode="json", exclude_none=True)
    except ValueError:
        raise NoAnswer(f"{system} answered with a {type(found).__name__} that is nested too deep") from None


def moment(text: str | None) -> datetime | None:
    """Read a timestamp, which is UTC where it names no zone; None for what is none."""
    try:
        read = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read


def same_host(base: str, location: str) -> str | None:
    """Give the address of a path on the same host, or None for what leads elsewhere: a token would go with it."""
    if not location.startswith("/") or location.startswith("//") or "\\" in location:
        return None
    url = httpx.URL(base)
    try:
        there = url.join(location)
    except httpx.InvalidURL:
        return None
    return str(there) if (there.scheme, there.host, there.port) == (url.scheme, url.host, url.port) else None


def first_text(body: Any, names: Iterable[str]) -> str:
    """Give the first of these values of an object that is a text or a number."""
    found = (body.get(name) for name in names) if isinstance(body, dict) else ()
    return next((str(value) for value in found if isinstance(value, str | int) and value != ""), "")


def _json(headers: Mapping[str, str], text: bytes) -> tuple[Any, str]:
    if not text.strip():
        return None, ""
    if "xml" in headers.get("content-type", "") or text.lstrip().startswith(b"<"):
        return None, "in XML or HTML where JSON was asked for"
    try:
        return json.loads(text, parse_constant=_no_constant), ""
    except (ValueError, RecursionError):
        return None, "with what is no JSON"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _date(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    if text.strip().isdecimal():
        return float(text)
    wanted = _date(text)
    return max(0.0, wanted - (_date(headers.get("date", "")) or datetime.now(UTC).timestamp())) if wanted else None

"""Calls an HTTP endpoint that Product-Live cannot reach: the input as JSON, the answer as the output."""

from __future__ import annotations

import json
import re
import ssl
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import httpx
from pydantic import AfterValidator, Field, SecretStr, model_validator

from product_live_handlers.settings import HandlerSettings
from product_live_worker import Context, TaskFailed, handler

MOST_REDIRECTS = 5
LARGEST_REASON = 10_000
"""Bytes of a refusal's JSON that are reported with it."""
PLATFORM_KEYS = ("eventCorrelationId", "context")
OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})
"""Headers that belong to the exchange itself."""


def _an_address(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or set("{}<>$") & set(text):
        raise ValueError("must be an address as it is called, such as https://stock.internal/prices")
    if url.userinfo:
        raise ValueError("must hold no user and password; send them by `headers`")
    return text


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or name.lower() in OURS:
            raise ValueError(f"{name!r} is no header that can be set here")
        if not re.fullmatch(r"([!-~]([\t -~]*[!-~])?)?", value.get_secret_value()):
            raise ValueError(f"the value of {name} must be printable ASCII in one line, without spaces around it")
    return headers


class HttpSettings(HandlerSettings):
    """The section `[tasks.<key>.settings]` of a task that `http` serves."""

    url: Annotated[str, AfterValidator(_an_address)]
    """What is called; nothing of the input becomes a part of its host or path."""
    method: Literal["POST", "PUT", "PATCH", "GET", "DELETE"] = "POST"
    """GET and DELETE send the input's values as query parameters, the others send it as a JSON body."""
    headers: Annotated[dict[str, SecretStr], AfterValidator(_headers)] = Field(default_factory=dict)
    """Sent to the origin of `url` alone."""
    allowed_hosts: frozenset[str] = frozenset()
    """Hosts to which the endpoint may redirect, beside its own; all other redirects are failures."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds for the whole exchange."""
    max_response: int = Field(default=1_000_000, ge=2)
    """Bytes of the answer at most."""
    ca_file: Path | None = None
    """Certificates of a CA beside the system's own."""

    @model_validator(mode="after")
    def _check_ca_file(self) -> HttpSettings:
        if self.ca_file is not None:
            try:
                _trust(self.ca_file)
            except (OSError, ssl.SSLError):
                raise ValueError("ca_file: there is no readable file of PEM certificates") from None
        return self

    def may_go_to(self, url: httpx.URL) -> bool:
        """Whether a redirect may lead there: an allowed host, and never from TLS to none."""
        own = httpx.URL(self.url)
        hosts = {own.host.lower(), *(host.lower() for host in self.allowed_hosts)}
        return url.host.lower() in hosts and (url.scheme == "https" or (url.scheme, own.scheme) == ("http", "http"))


@handler("http", explicit=True, settings=HttpSettings)
async def http(input: dict[str, Any], context: Context) -> dict[str, Any]:
    """Call the endpoint of the task's settings; its JSON answer is the output.

    Any 2xx with a JSON object, or without a body, is COMPLETED. FAILED are, by code: `http_refused` (4xx),
    `http_failed` (5xx, 408, 429), `http_redirect` (to where the settings do not allow), `http_unreachable`,
    `http_timeout`, `http_response_too_large`, `invalid_output` (no JSON object); with the status as `status_code` and,
    if the endpoint gave a reason as a JSON object, with it as `answer`. The endpoint finds the same Idempotency-Key on
    a retry by the platform. Proxies of the worker's environment are not used.
    """
    settings: HttpSettings = context.settings
    host = httpx.URL(settings.url).host
    async with httpx.AsyncClient(
        verify=_trust(settings.ca_file),
        trust_env=False,
        timeout=settings.timeout,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    ) as client:
        try:
            with anyio.fail_after(settings.timeout):
                status, body = await _exchange(client, _request(client, settings, input, context), settings)
        except (TimeoutError, httpx.TimeoutException):
            text = f"{host} did not answer within {settings.timeout:g} s (the setting timeout)."
            raise TaskFailed(text, code="http_timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise TaskFailed(f"{host} cannot be reached: {_why(error)}", code="http_unreachable") from error
    context.log.info("endpoint answered", host=host, method=settings.method, status=status)
    if not httpx.codes.is_success(status):
        raise _refusal(host, status, body, settings)
    return _output(host, body)


def _request(
    client: httpx.AsyncClient, settings: HttpSettings, input: dict[str, Any], context: Context
) -> httpx.Request:
    url = httpx.URL(settings.url)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if context.idempotency_key:
        headers["Idempotency-Key"] = context.idempotency_key
    content: bytes | None = None
    if settings.method in ("GET", "DELETE"):
        url = url.copy_merge_params(_parameters(input))
    else:
        headers["Content-Type"] = "application/json"
        content = json.dumps(input).encode()
    headers |= {name: value.get_secret_value() for name, value in settings.headers.items()}
    return client.build_request(settings.method, url, headers=headers, content=content)


def _parameters(input: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in input.items() if name not in PLATFORM_KEYS and value is not None}
    if nested := sorted(name for name, value in given.items() if isinstance(value, dict | list)):
        text = f"{', '.join(nested)}: a query parameter is a text, a number, or true or false"
        raise TaskFailed(f"The input cannot be used: {text}", code="invalid_input")
    return given


async def _exchange(client: httpx.AsyncClient, request: httpx.Request, settings: HttpSettings) -> tuple[int, bytes]:
    """Send the request, follow the redirects that are allowed, and give the status and the body."""
    origin = _origin(request.url)
    for _ in range(MOST_REDIRECTS + 1):
        answer = await client.send(request, stream=True, follow_redirects=False)
        try:
            following = answer.next_request
            if following is None:
                return answer.status_code, await _bounded(answer, settings.max_response)
        finally:
            await answer.aclose()
        # A POST that becomes a GET on its way would look like a success.
        if following.method != request.method or not settings.may_go_to(following.url):
            there = f"{following.url.scheme}://{following.url.host}"
            text = (
                f"{request.url.host} redirects ({answer.status_code}) to {there}, which is not followed; "
                f"set `url` to where it leads, or name the host in `allowed_hosts`"
            )
            raise TaskFailed(text, code="http_redirect", output={"status_code": answer.status_code})
        if _origin(following.url) != origin:
            for name in settings.headers:
                following.headers.pop(name, None)
        request = following
    raise TaskFailed(f"{request.url.host} redirects more than {MOST_REDIRECTS} times", code="http_redirect")


async def _bounded(answer: httpx.Response, limit: int) -> bytes:
    read = bytearray()
    async for chunk in answer.aiter_bytes():
        read += chunk
        if len(read) > limit:
            raise TaskFailed(
                f"{answer.request.url.host} answered more than {limit} bytes (the setting max_response).",
                code="http_response_too_large",
                output={"status_code": answer.status_code},
            )
    return bytes(read)


def _refusal(host: str, status: int, body: bytes, settings: HttpSettings) -> TaskFailed:
    code = "http_failed" if status >= 500 or status in (408, 429) else "http_refused"
    output: dict[str, Any] = {"status_code": status}
    for value in settings.headers.values():
        # An endpoint that repeats what it was sent must not put a key into a job's output.
        body = body.replace(value.get_secret_value().encode(), b"***") if value.get_secret_value() else body
    reason = _json(body) if len(body) <= LARGEST_REASON else None
    if isinstance(reason, dict):
        output["answer"] = reason
    said = f"{status} {httpx.codes.get_reason_phrase(status)}".strip()
    return TaskFailed(f"{host} answered {said}", code=code, output=output)


def _output(host: str, body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    found = _json(body)
    if not isinstance(found, dict):
        what = "no JSON" if found is None else type(found).__name__
        text = f"{host} must answer with a JSON object, or with nothing; found {what}"
        raise TaskFailed(text, code="invalid_output")
    return found


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host.lower(), url.port


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@cache
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context

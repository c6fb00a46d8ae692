"""The way to the platform: its name, the certificate, the clocks, and what is wrong when it does not answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import anyio.to_thread

from product_live_worker.doctor.finding import Finding
from product_live_worker.model.errors import (
    AnswerUnreadable,
    KeyRefused,
    PlatformError,
    PlatformFailing,
    PlatformUnreachable,
    RateLimited,
)
from product_live_worker.product_live.client import is_loopback
from product_live_worker.product_live.connected import Connected
from product_live_worker.settings import Settings

LOOKUP = 10.0
"""Seconds that a name may take to be looked up."""
SKEW = 30.0
"""Seconds between two clocks that do no harm yet."""
EXPIRY = 14 * 86400.0
"""Seconds before the end of a certificate from which on somebody should look after it."""

TROUBLES: dict[type[PlatformError], tuple[str, str, str]] = {
    PlatformUnreachable: (
        "network",
        "the platform does not answer",
        "Allow connections from here to {host}, or set HTTPS_PROXY; look whether api.base_url is right.",
    ),
    KeyRefused: (
        "key",
        "it is refused",
        "Make one in Product-Live (Settings > API), and put it into api.key_file, PLW_API__KEY or the credential.",
    ),
    RateLimited: (
        "budget",
        "the platform has had enough requests",
        "Somebody else uses the account too: give them less to do, or lower budget.requests_per_minute.",
    ),
    PlatformFailing: ("platform", "it fails", "Try again in a while; a worker that runs does so by itself."),
    AnswerUnreadable: (
        "platform",
        "what answers is not Product-Live's API",
        "Something on the way answers in its place (a login page, a proxy), or api.base_url is not the API's.",
    ),
}
"""By the kind of error: what it is about, what is wrong, what to do."""

__all__ = ["Connected", "connection", "names", "trouble"]


async def names(settings: Settings) -> list[Finding]:
    """Look up the platform's name, or that of the proxy on the way to it."""
    url = urlsplit(settings.api.base_url)
    host, what = url.hostname or "", "the platform"
    found = []
    if proxy := proxy_for(url.scheme, host):
        found.append(Finding.ok("proxy", f"requests go through {proxy}, as the environment says"))
        host, what = urlsplit(proxy).hostname or "", "the proxy"
    if _is_address(host):
        return found
    started = time.monotonic()
    try:
        with anyio.fail_after(LOOKUP):
            addresses = await anyio.to_thread.run_sync(_look_up, host, abandon_on_cancel=True)
    except (OSError, UnicodeError, TimeoutError) as error:
        why = f"no answer within {LOOKUP:g} s" if isinstance(error, TimeoutError) else error
        cure = f"Look at this machine's name servers (getent hosts {host}); in a closed network set HTTPS_PROXY."
        return [*found, Finding.fail("dns", f"{what}'s name {host} cannot be looked up: {why}", cure)]
    seconds = time.monotonic() - started
    return [*found, Finding.ok("dns", f"{host} is {', '.join(addresses)} ({seconds * 1000:.0f} ms)")]


def proxy_for(scheme: str, host: str) -> str:
    """Give the proxy that the environment names for this host, without user and password, or nothing."""
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    if not proxy or is_loopback(host) or proxy_bypass(host):
        return ""
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def connection(settings: Settings, seen: Connected) -> Iterator[Finding]:
    """Say what an answer has shown of the connection, if one came."""
    if seen.certificate_ends is not None:
        yield _certificate(settings, seen.tls, seen.certificate_ends)
    if seen.clock_ahead is None:
        return
    ahead = seen.clock_ahead
    if abs(ahead) <= SKEW:
        # A date has whole seconds.
        yield Finding.ok("clock", f"this machine's clock and the platform's differ by {abs(ahead):.0f} s")
    else:
        text = f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the platform's"
        cure = "Nothing is lost by that, but logs tell a wrong time: switch on NTP (timedatectl set-ntp true)."
        yield Finding.warn("clock", text, cure)


def _certificate(settings: Settings, tls: str, ends: float) -> Finding:
    left = ends - time.time()
    date = datetime.fromtimestamp(ends, UTC).date().isoformat()
    host = urlsplit(settings.api.base_url).hostname
    text = f"{tls}; the certificate of {host} is trusted, and ends on {date}, in {left / 86400:.0f} days"
    if left < EXPIRY:
        return Finding.warn("tls", text, "Tell whoever looks after it: the platform, or your own proxy that opens TLS.")
    return Finding.ok("tls", text)


def trouble(settings: Settings, error: PlatformError) -> Finding:
    """Say what is wrong when the platform does not answer as it should, and what to do about it."""
    host = urlsplit(settings.api.base_url).netloc
    if isinstance(error, PlatformUnreachable) and "CERTIFICATE" in str(error).upper():
        cure = "If a proxy of yours opens TLS, set api.ca_file to its CA; else look at this machine's clock and CAs."
        return Finding.fail("tls", f"the certificate of {host} is not trusted: {error}", cure)
    subject, what, cure = next(
        (said for kind, said in TROUBLES.items() if isinstance(error, kind)),
        ("platform", "it refuses to list the tasks", "Look whether api.base_url is that of Product-Live's API."),
    )
    return Finding.fail(subject, f"{what}: {error}", cure.format(host=host))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})

"""What an answer shows of the connection that it came by: the certificate, and the platform's clock."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from product_live_worker.product_live.client import seconds_until

if TYPE_CHECKING:
    import httpx


@dataclass
class Connected:
    """Hears of each answer; keeps what the last one has shown."""

    tls: str = ""
    """The version of the protocol."""
    certificate_ends: float | None = None
    """Unix seconds; None without TLS."""
    clock_ahead: float | None = None
    """Seconds by which this machine's clock is ahead of the platform's; None where the answer has no date."""

    async def read(self, answer: httpx.Response) -> None:
        """Look at an answer, before its body is read."""
        stream = answer.extensions.get("network_stream")
        tls = stream.get_extra_info("ssl_object") if stream is not None else None
        if tls is not None:
            self.tls = tls.version() or "TLS"
            self.certificate_ends = float(ssl.cert_time_to_seconds(tls.getpeercert()["notAfter"]))
        try:
            # Half a second is what a date without fractions lacks on average.
            self.clock_ahead = -seconds_until(answer.headers.get("Date", "")) - 0.5
        except (ValueError, TypeError, OverflowError):
            self.clock_ahead = None

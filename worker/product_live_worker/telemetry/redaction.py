"""Hides the secrets in a text that leaves the process, in every way in which they may be written there."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable

Secrets = Callable[[], Iterable[str]]
"""Gives the texts that no line, page or answer may hold, whoever wrote it."""
HIDDEN = "***"


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Hide the secrets, also as JSON, Python or HTML write them."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        escaped = html.escape(secret, quote=False)
        in_html = escaped.replace('"', "&#34;").replace("'", "&#39;")
        for written in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], in_html}:
            text = text.replace(written, HIDDEN)
    return text

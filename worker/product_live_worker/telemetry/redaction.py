"""Hides the secrets in a text that leaves the process, in every way in which they may be written there."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable

Secrets = Callable[[], Iterable[str]]
"""Gives the texts that no line, page or answer may hold, whoever wrote it."""
HIDDEN = "***"
CUT = "…"
"""Where a text was cut; a secret that is cut there is hidden, too."""
IN_JSON = "\\u2026"
LEAST = 3
"""Characters at the beginning of a secret that are none yet."""


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Hide the secrets, also as JSON, Python or HTML write them."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        escaped = html.escape(secret, quote=False)
        in_html = escaped.replace('"', "&#34;").replace("'", "&#39;")
        for written in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], in_html}:
            text = _without_beginnings(text.replace(written, HIDDEN), written)
    return text


def cut(text: str, most: int) -> str:
    """Cut a text that somebody else has written to so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}{CUT}"


def _without_beginnings(text: str, secret: str) -> str:
    # One look for what begins like it at all: a page is large, is redacted at each refresh, and hardly ever has it.
    if secret[:LEAST] not in text:
        return text
    for length in range(len(secret) - 1, LEAST - 1, -1):
        for mark in (CUT, IN_JSON):
            text = text.replace(secret[:length] + mark, HIDDEN + mark)
    return text

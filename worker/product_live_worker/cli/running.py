"""A worker that runs, as it says itself: its `/status`."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from product_live_worker.model.errors import WorkerError
from product_live_worker.ops.document import SCHEMA, StatusDocument
from product_live_worker.settings import load

PATIENCE = 5.0
"""Seconds that an answer may take."""
LARGEST = 5_000_000


class NoAnswer(WorkerError):
    """The worker's `/status` cannot be read."""


def address_of(url: str, config: Path | None) -> str:
    """Give the worker's address, by default that of the settings; raises NoAnswer where there is none."""
    if not url:
        host, port = (http := load(config, os.environ, require_key=False).http).host, http.port
        if not port:
            raise NoAnswer("http.port is 0: name the address that the worker's first log line has, as an argument")
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (asked, not listened on)
        url = f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"
    if not _is_address(url):
        raise NoAnswer(f"found {url!r}; allowed is the worker's address, as in http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/status")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def read_status(address: str) -> StatusDocument:
    """Ask the worker; raises NoAnswer."""
    # Not httpx, which only product_live speaks: one GET of our own listener needs none of what it can do.
    try:
        with urllib.request.urlopen(f"{address}/status", timeout=PATIENCE) as answer:  # noqa: S310 (see address_of)
            document = json.loads(answer.read(LARGEST))
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise NoAnswer(f"{address}/status cannot be read: {why}; does the worker run, and listen there?") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise NoAnswer(f"{address}/status is of another version than this command: use that of the worker")
    return cast("StatusDocument", document)

"""A browser for all the tests of a file: each looks through a window of its own, as somebody who was never here."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from support.browser import open_browser


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run them all in one event loop, which is the browser's too."""
    return "asyncio"


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Run a Chromium; skip where there is none."""
    async with open_browser() as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Say where pictures go."""
    return Path(os.environ.get("SCREENSHOTS", tmp_path))

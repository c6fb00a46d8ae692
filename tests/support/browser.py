"""A real Chromium, driven by Playwright, and how it comes to a machine that has none.

`python -m support.browser` installs it where it can: as root, where apt-get is. Elsewhere the tests of the page are
skipped, but for CI, where a skip would pass for a proof.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import axe_playwright_python  # type: ignore[import-untyped]  # it has no types
import pytest
from playwright.async_api import Browser, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("chromium", "fonts-dejavu-core")
ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")


def found() -> str | None:
    """Find a Chromium on this machine; $CHROMIUM names another one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def install() -> None:
    """Install Debian's, where this machine lets us."""
    if found() or not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    print("Installing Chromium for the tests of the operator's page; this takes about a minute, once.")  # noqa: T201 (it is a command)
    get = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]
    # Whoever installs something else just now is waited for.
    get += ["-o", "DPkg::Lock::Timeout=120", *PACKAGES]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "--quiet"], get):
        ended = subprocess.run(step, check=False, capture_output=True, text=True, env=environment)  # noqa: S603 (our own commands)
        if ended.returncode:
            print(f"{' '.join(step[:2])} failed: {(ended.stderr or ended.stdout).strip()[-500:]}")  # noqa: T201 (it is a command)


def needed() -> str:
    """Give the browser, or end the test with the reason why there is none."""
    browser = found()
    if browser is None:
        reason = "no Chromium: install it (on Debian: apt install chromium), or name it in $CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return browser


WITNESS = """
window.seen = [];
addEventListener("DOMContentLoaded", () => {
  const verdict = document.getElementById("verdict");
  if (!verdict) return;
  const note = () => seen.push([Date.now() / 1000, verdict.innerText]);
  note();
  new MutationObserver(note).observe(verdict, { childList: true });
});
"""
"""Notes in the page itself when it showed which verdict: what is timed is the page, not who asks it."""


@dataclass
class Looking:
    """A window on a page, and all that the browser complained of."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    async def showed(self, *words: str, after: float) -> float:
        """Wait until the verdict has all these words; gives when it first had them after that moment, as Unix times."""
        found = await self.page.wait_for_function(
            "([words, after]) => seen.find(([at, text], n) => (seen[n + 1]?.[0] ?? after) >= after"
            " && words.every((word) => text.includes(word)))?.[0]",
            arg=[words, after],
            polling=50,
        )
        return max(after, float(await found.json_value()))

    async def serious_faults(self) -> list[str]:
        """Give what axe finds that would keep somebody from using the page."""
        # By the protocol, not by a script tag, which the page's own policy forbids.
        await self.page.evaluate(AXE.read_text(encoding="utf-8"))
        result: dict[str, Any] = await self.page.evaluate("axe.run()")
        return [
            f"{one['id']}: {node['html'][:200]} ({node['failureSummary']})"
            for one in result["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Run a browser while the block runs; skips the test where there is none."""
    path = needed()
    sandbox = () if os.geteuid() else ("--no-sandbox",)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *sandbox])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def looking(browser: Browser, **options: Any) -> AsyncIterator[Looking]:
    """Open a window of its own, as somebody who was never here."""
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    await context.add_init_script(WITNESS)
    page = await context.new_page()
    window = Looking(page)
    page.on("console", lambda said: window.complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: window.complaints.append(str(error)))
    try:
        yield window
    finally:
        await context.close()


if __name__ == "__main__":
    install()
    sys.exit(0)

"""The secrets of the whole suite, and the look after each test whether it has told one: tests/conftest.py has the hook.

Looked through is what the test and the workers in its process have printed and logged, what processes that it started
have printed, what was reported to its sandboxes, and the outputs and messages in its journals.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from product_live_worker import sandbox

if TYPE_CHECKING:
    # At run time the benchmarks and the demonstrations do without it.
    import pytest

SECRETS = (
    "s3cret",  # a part of all that remote systems are signed in with, and of all tokens that they give
    "sandbox-key",
    "key-0123456789abcdef",
    "a-key-nobody-may-see",
    "a-very-secret-key",
    "plk-4711-secret",
    "very-secret",
    "topsecret",
    "the-next-key",
    "a-new-key",
    "a-password-nobody-may-see",
    "another-password",
)
"""A new one belongs here."""
ADDRESS = r"/callbacks/[0-9]+-[\w-]{20,}"
"""Who knows the address of a callback can send one."""
DERIVED = (r"Basic [\w+/]{12,}", r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}", "BEGIN [A-Z ]*PRIVATE KEY")
"""What is made of a secret, and is one: the header of a password, a signed token; and a key itself."""
PATTERN = re.compile("|".join([*map(re.escape, SECRETS), ADDRESS, *DERIVED]))
SAID = "SELECT output, code, message, trouble FROM executions"
LONGEST = 300

_told: list[tuple[str, str]] = []
_worlds: list[sandbox.World] = []


def tell(where: str, text: str) -> None:
    """Note a text that has left a worker, to be looked through at the test's end."""
    if "PYTEST_VERSION" in os.environ:
        _told.append((where, text))


def watch(world: sandbox.World) -> sandbox.World:
    """Note an account, whose reports and logs are to be looked through at the test's end."""
    if "PYTEST_VERSION" in os.environ:
        _worlds.append(world)
    return world


def leaks(printed: list[tuple[str, str]], directory: Path | None) -> list[str]:
    """Say where a secret was told since the last look."""
    said = [*printed, *_told, *_reported(), *(_journalled(directory) if directory else ())]
    _told.clear()
    _worlds.clear()
    return [f"{where}: {line}" for where, text in said for line in _lines(text)]


def _lines(text: str) -> Iterator[str]:
    if PATTERN.search(text):
        for line in text.splitlines():
            if found := PATTERN.search(line):
                yield line[max(0, found.start() - LONGEST // 2) : found.end() + LONGEST // 2]


def _reported() -> Iterator[tuple[str, str]]:
    for world in _worlds:
        for execution in world.executions.values():
            for patch in execution.patches:
                yield f"report of {execution.task_key}", json.dumps(patch.output, default=repr)
        for line in world.log:
            yield "log of a job", line.message


def _journalled(directory: Path) -> Iterator[tuple[str, str]]:
    for path in (*directory.glob("*.db"), *directory.glob("*/*.db")):
        # Some are damaged, foreign, or none: that is what their tests are about.
        with suppress(sqlite3.Error, UnicodeDecodeError), closing(_opened(path)) as journal:
            for row in journal.execute(SAID):
                yield f"journal {path.name}", " ".join(str(value) for value in row if value)


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)


def look(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    """Let a test fail that has told a secret; `report` is that of its teardown."""
    found = leaks(report.sections, getattr(item, "funcargs", {}).get("tmp_path"))
    if found and report.passed and item.get_closest_marker("tells_secrets") is None:
        report.outcome = "failed"
        report.longrepr = "\n".join(["A secret was told (tests/support/leaks.py has them):", *found])
    return report

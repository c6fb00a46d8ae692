"""The documentation as tests read it: its pages, and the blocks of code in them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code; `title` is the file that it is, where it is one."""

    language: str
    title: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """Give the blocks of a page in these languages, in order."""
    found = (Block(*match) for match in FENCE.findall(page.read_text(encoding="utf-8")))
    return [block for block in found if block.language in languages]


def links(page: Path) -> Iterator[str]:
    """Give the addresses of files that a page links to, without those of the web."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            yield target


def reference() -> ModuleType:
    """Load the hook that writes the reference."""
    spec = importlib.util.spec_from_file_location("reference_of_the_docs", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""RESULTS.md: what is missed, and a block for each command, which only a new measurement by that command replaces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from benchmarks import machine

_BEGINS = re.compile(r"^Command: `([^`]*)`", re.MULTILINE)
_NAME = re.compile(r"^## ([^:\n]*)", re.MULTILINE)
_MISSED = re.compile(r"^\| (.*?) +\| (.*?) +\| (.*?) \*\*missed\*\* +\|", re.MULTILINE)
_REASON = "Missed, {figure}: "


def block(command: str, beside: str, text: str) -> str:
    """Write a block: what was run, when and beside what, and what it has shown."""
    return f"Command: `{command}` ({beside})\n\n{text}"


def merged(document: str, measured: Iterable[str]) -> str:
    """Give the document with these blocks in place of those of the same commands; what is new comes last."""
    starts = [found.start() for found in _BEGINS.finditer(document)]
    kept = [document[begin:end].strip() for begin, end in zip(starts, [*starts[1:], None], strict=True)]
    blocks = {_BEGINS.findall(one)[0]: one for one in (*kept, *measured)}
    return "\n\n".join([*_head(blocks.values()), *blocks.values()]) + "\n"


def _head(blocks: Iterable[str]) -> Iterator[str]:
    yield "# Results"
    yield (
        f"Measured by [these scenarios](README.md) on {'; '.join(machine.described())}. Nothing here is estimated but the\n"
        "column `limit` and what is called reckoned. Each block says the command that shows it, the day, and how much else\n"
        "the machine had to do."
    )
    missed = [line for one in blocks for line in _missed(one)]
    yield "## What is missed"
    yield "\n".join(missed or ["Nothing."])


def _missed(block: str) -> Iterator[str]:
    for figure, measured, goal in _MISSED.findall(block):
        after = block.partition(_REASON.format(figure=figure))[2].partition("\n")[0]
        yield f"- `{_NAME.findall(block)[0]}`: {figure}: {measured}, goal {goal}" + (f"; {after}" if after else "")

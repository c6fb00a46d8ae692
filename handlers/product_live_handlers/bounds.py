"""How much of what another system says is repeated: an absurd answer must not make a good outcome too large."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

Part = TypeVar("Part")

LONGEST_TEXT = 2000
"""Characters of an error's text."""
LONGEST_NAME = 500
"""Characters of any other text: an id, a state, an address."""
MOST_BYTES = 20_000
"""Bytes of JSON of a list or an object in an output."""
LONGEST_WORDS = 20_000
"""Characters of a text in a list that was asked for, as the definition of a task."""
MOST_ROWS = 500_000
"""Bytes of JSON of such a list; an execution's output may have a million."""
DEEPEST = 8
"""Levels of lists and objects."""


def shorten(text: str, longest: int = LONGEST_TEXT) -> str:
    """Cut a text to so many characters; half a character, which JSON can hold and UTF-8 cannot, becomes a ?."""
    plain = text[:longest].encode("utf-8", "replace").decode()
    return plain if len(text) <= longest else plain[:-1] + "…"


def clipped(text: str, most: int) -> str:
    """Give the beginning of a text, as much of it as JSON writes in so many bytes."""
    while (size := len(json.dumps(text)) - 2) > most:
        text = text[: len(text) * most // size]
    return text


def fitting(values: Iterable[Part], most: int = MOST_BYTES) -> list[Part]:
    """Give the first of these JSON values, as many as are written in so many bytes together."""
    kept: list[Part] = []
    for value in values:
        most -= len(json.dumps(value)) + 2
        if most < 0:
            break
        kept.append(value)
    return kept


def cut(said: Any, longest: int = LONGEST_NAME, most: int = MOST_BYTES, levels: int = DEEPEST) -> Any:
    """Give JSON with its texts cut, and of each list and object as much as is written in so many bytes."""
    if isinstance(said, str):
        return shorten(said, longest)
    if not isinstance(said, dict | list):
        return said
    if not levels:
        return "…"
    if isinstance(said, list):
        return fitting((cut(one, longest, most, levels - 1) for one in said), most)
    pairs = ((shorten(name, longest), cut(one, longest, most, levels - 1)) for name, one in said.items())
    return dict(fitting(pairs, most))

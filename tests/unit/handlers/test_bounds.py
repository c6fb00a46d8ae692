"""What other systems say is repeated within bounds, whatever it is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from product_live_handlers.bounds import clipped, cut, fitting, shorten

TEXTS = st.text(st.characters(), max_size=40)
SAID = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXTS, inner, max_size=8),
    max_leaves=60,
)


def texts(said: Any) -> list[str]:
    """Give all texts of JSON, names too."""
    if isinstance(said, dict):
        return [*said, *(text for one in said.values() for text in texts(one))]
    if isinstance(said, list):
        return [text for one in said for text in texts(one)]
    return [said] if isinstance(said, str) else []


@given(said=SAID, longest=st.integers(1, 30), most=st.integers(2, 200))
def test_what_is_cut_is_of_a_size(said: Any, longest: int, most: int) -> None:
    """No text is longer, no list or object larger, and cutting it again changes nothing."""
    kept = cut(said, longest, most)
    assert all(len(text) <= longest for text in texts(kept))
    if isinstance(kept, list | dict):
        assert len(json.dumps(kept)) <= most + 2
    assert cut(kept, longest, most) == kept


@given(said=SAID)
def test_what_is_small_is_as_it_was(said: Any) -> None:
    """Nothing is cut that fits, but for halves of characters."""
    plain = json.loads(json.dumps(said, ensure_ascii=False).encode("utf-8", "replace"))
    assert cut(said, 1000, 1_000_000, levels=99) == plain


def test_depth_has_an_end() -> None:
    """What is nested without a bottom is told in a line."""
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    assert cut(deep) == [[[[[[[["…"]]]]]]]]


@given(text=TEXTS, most=st.integers(1, 100))
def test_a_text_is_clipped_by_what_json_writes(text: str, most: int) -> None:
    """It is a beginning, of at most so many bytes, and all of it where that fits."""
    kept = clipped(text, most)
    assert text.startswith(kept)
    assert len(json.dumps(kept)) - 2 <= most
    assert (kept == text) is (len(json.dumps(text)) - 2 <= most)


def test_what_fits_is_the_beginning() -> None:
    """What comes after the first that does not fit is left out, though it be smaller."""
    assert fitting(["a", "b" * 50, "c"], 20) == ["a"]
    assert shorten("abc\ud800", 4) == "abc?"
    assert shorten("abcdef", 4) == "abc…"

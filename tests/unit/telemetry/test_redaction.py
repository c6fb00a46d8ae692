"""No secret leaves, however it is written, and wherever the text around it was cut."""

from __future__ import annotations

import json

import pytest
from markupsafe import escape

from product_live_worker.telemetry.redaction import CUT, HIDDEN, LEAST, cut, redacted

SECRET = 'k\u00e9y-<4711>"-0815'  # noqa: S105 (of the tests)


@pytest.mark.parametrize("written", [str, json.dumps, repr, escape])
@pytest.mark.parametrize("most", range(10, 10 + len(SECRET) + 3))
def test_a_secret_that_is_cut_is_hidden(written: object, most: int) -> None:
    """Of a secret across the place where its text was cut, nothing is shown that tells more than a letter or two."""
    shown = redacted(written(cut(f"the key: {SECRET} it was", most)), [SECRET])  # type: ignore[operator]
    assert SECRET[:LEAST] not in shown
    assert HIDDEN in shown or most <= 9 + LEAST


def test_what_is_no_secret_stays() -> None:
    """A text that is not cut there, or begins otherwise, is as it was."""
    assert redacted(f"the key: kéy and kéz{CUT}", [SECRET]) == f"the key: kéy and kéz{CUT}"
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == f"ab{CUT}"

"""What a Retry may say."""

from __future__ import annotations

from typing import Any

import pytest

from product_live_worker import Retry, handler


@pytest.mark.parametrize("on", [OSError, (OSError,), (OSError, ValueError)])
def test_errors_are_a_class_or_several(on: Any) -> None:
    """Both ways of writing mean the same."""
    assert Retry(attempts=2, on=on).on == (on if isinstance(on, tuple) else (on,))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"on": ()}, "on is an exception class"),
        ({"on": "OSError"}, "on is an exception class"),
        ({"on": (KeyboardInterrupt,)}, "on is an exception class"),
        ({"attempts": 1}, "attempts is a whole number from 2"),
        ({"attempts": 2.5}, "attempts is a whole number from 2"),
        ({"attempts": True}, "attempts is a whole number from 2"),
        ({"wait": -1}, "wait is a number of seconds"),
        ({"wait": "1s"}, "wait is a number of seconds"),
        ({"longest_wait": float("inf")}, "longest_wait is a number of seconds"),
    ],
)
def test_what_cannot_be_used_is_refused(values: dict[str, Any], named: str) -> None:
    """When the module is read, and not in the middle of an execution."""
    with pytest.raises(TypeError, match=named):
        Retry(**{"attempts": 3, "on": OSError, **values})


def test_a_retry_is_a_retry() -> None:
    """A number of attempts alone does not say after which errors."""
    with pytest.raises(TypeError, match="retry is a Retry"):
        handler("x", retry=3)  # type: ignore[arg-type]

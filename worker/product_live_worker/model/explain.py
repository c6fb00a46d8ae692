"""What is wrong with a value, in words for a person; the value itself, which may be a secret, is not among them."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

MESSAGE = 1000
"""Characters of a failure's message at most."""


def explain(error: ValidationError) -> str:
    """Say what is wrong with a value, field by field, without repeating the value: it may be a secret."""
    lines = problems(error)
    more = f"; and {len(lines) - 10} more" if len(lines) > 10 else ""
    return shorten("; ".join(lines[:10]) + more)


def problems(error: ValidationError) -> list[str]:
    """Give a line for each field: where it is, what is wrong with it, and what kind of thing was found."""
    found = error.errors(include_url=False)
    return [f"{'.'.join(str(part) for part in p['loc']) or 'it'}: {_said(p)}{_found(p)}" for p in found]


def shorten(text: str) -> str:
    """Cut a text to the length of a message."""
    return text if len(text) <= MESSAGE else text[: MESSAGE - 1] + "…"


_KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def _found(problem: Any) -> str:
    if problem["type"] == "missing":
        return ""
    value = problem.get("input")
    if value is None:
        return " (found nothing)"
    if value == "":
        return " (found an empty text)"
    return f" (found {_KINDS.get(type(value), type(value).__name__)})"


_COMPOSED = frozenset({"value_error", "assertion_error", "union_tag_invalid"})
"""pydantic's own kinds of error whose words may repeat the value; so may those of a kind that it does not know."""


def _said(problem: Any) -> str:
    text: str = problem["msg"]
    if problem["type"] not in _COMPOSED and problem["type"] in typing.get_args(ErrorType):
        return text
    for value in _leaves(problem.get("input")):
        text = text.replace(repr(value), "…")
        if len(str(value)) > 3:
            text = text.replace(str(value), "…")
    return text.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _leaves(value: Any) -> Iterator[str | int | float]:
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)
        elif isinstance(value, str | int | float) and value != "":
            yield value

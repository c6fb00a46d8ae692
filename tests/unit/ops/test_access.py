"""Who may act, told from who may only look."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from starlette.requests import Request

from product_live_worker.ops.access import ANONYMOUS, COOKIE, LASTS, Access, is_foreign

if TYPE_CHECKING:
    from starlette.types import Scope

TOKEN = "the token of the tests"  # noqa: S105 (of the tests)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


def a_request(cookie: str = "", **headers: str) -> Request:
    """Make a request with this session."""
    named = {"host": "worker:8080", **({"cookie": f"{COOKIE}={cookie}"} if cookie else {}), **headers}
    raw = [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in named.items()]
    scope: Scope = {"type": "http", "method": "POST", "path": "/act", "query_string": b"", "headers": raw}
    return Request(scope)


def signed_in(access: Access, who: str = "Anna") -> str:
    """Give the cookie of a new session."""
    cookie = access.sign_in(TOKEN, who)
    assert cookie is not None
    return cookie


def test_a_session_ends_after_its_time() -> None:
    """Twelve hours: a night's watch, and no more."""
    clock = Clock()
    access = Access(lambda: TOKEN, now=clock)
    cookie = signed_in(access)
    clock.now += LASTS - 1
    assert access.operator(a_request(cookie)) is not None
    clock.now += 1
    assert access.operator(a_request(cookie)) is None


@pytest.mark.parametrize("change", [-1, 3, 40])
def test_a_cookie_that_was_touched_is_none(change: int) -> None:
    """Whatever was changed in it, the name and the end of the session among them."""
    access = Access(lambda: TOKEN)
    cookie = signed_in(access)
    touched = list(cookie)
    touched[change] = "A" if touched[change] != "A" else "B"
    assert access.operator(a_request("".join(touched))) is None
    longer = base64.urlsafe_b64encode(json.dumps({"who": "Anna", "until": 1e12}).encode()).decode()
    assert access.operator(a_request(f"{longer}.{cookie.partition('.')[2]}")) is None


def test_a_word_is_of_one_session() -> None:
    """That of another operator's, or of the same one's other session, does not admit."""
    clock = Clock()
    access = Access(lambda: TOKEN, now=clock)
    first = signed_in(access)
    clock.now += 1
    second = signed_in(access)
    operator = access.operator(a_request(first))
    assert operator is not None
    assert access.admits(a_request(first), {"word": operator.word}) == operator
    assert access.admits(a_request(second), {"word": operator.word}) is None
    assert access.admits(a_request(first), {}) is None


def test_a_name_is_one_line_and_never_empty() -> None:
    """It goes into logs and verdicts."""
    access = Access(lambda: TOKEN)
    for given, kept in ((" An\nna\x1b ", "An na"), ("\n", ANONYMOUS), ("x" * 9999, "x" * 500)):
        operator = access.operator(a_request(signed_in(access, given)))
        assert operator is not None
        assert operator.who == kept


def test_without_a_token_nobody_is_an_operator() -> None:
    """Neither by an empty one, nor by a session of when there was one."""
    cookie = signed_in(Access(lambda: TOKEN))
    nobody = Access(lambda: None)
    assert not nobody.possible()
    assert nobody.sign_in("", "") is None
    assert nobody.operator(a_request(cookie)) is None
    assert nobody.admits(a_request(authorization="Bearer "), {}) is None


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "http://worker:8080"}, False),
        ({"origin": "https://worker:8080", "sec_fetch_site": "same-origin"}, False),
        ({"sec_fetch_site": "none"}, False),
        ({"origin": "http://worker:8081"}, True),
        ({"origin": "null"}, True),
        ({"sec_fetch_site": "cross-site"}, True),
        ({"sec_fetch_site": "same-site", "origin": "http://worker:8080"}, True),
    ],
)
def test_a_browser_tells_whose_page_asks(headers: dict[str, str], foreign: bool) -> None:
    """And another port is another site."""
    assert is_foreign(a_request(**headers)) is foreign

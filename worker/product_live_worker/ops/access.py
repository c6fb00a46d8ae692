"""Who may act: whoever knows the token of `http.admin_token_file`, by a session in the browser or a header.

A session is a signed cookie, so nothing is kept here, and another token in the file ends them all. What a browser sends
by itself proves nothing: each form carries a word that only the page of the same session has been given.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from product_live_worker.model.action import one_line

if TYPE_CHECKING:
    from starlette.requests import Request

COOKIE = "product_live_worker_operator"
LASTS = 12 * 3600
"""Seconds of a session."""
ANONYMOUS = "an operator"


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may act; `word` is what each form of theirs has to say again."""

    who: str
    word: str


class Access:
    """Tells operators from readers."""

    def __init__(self, read_token: Callable[[], str | None], *, now: Callable[[], float] = time.time) -> None:
        """`read_token` gives the token as its file has it now, None where nobody may act."""
        self._read_token = read_token
        self._now = now

    def possible(self) -> bool:
        """Whether there is a token at all."""
        return self._read_token() is not None

    def sign_in(self, given: str, who: str) -> str | None:
        """Give the cookie of a new session; None for a wrong token."""
        token = self._read_token()
        if token is None or not _same(given.strip(), token):
            return None
        said = json.dumps({"who": one_line(who) or ANONYMOUS, "until": self._now() + LASTS})
        body = base64.urlsafe_b64encode(said.encode()).decode()
        return f"{body}.{_sign(token, 'session', body)}"

    def operator(self, request: Request) -> Operator | None:
        """Give whose session the request's cookie is, if it is a true one."""
        token, (body, _, signature) = self._read_token(), request.cookies.get(COOKIE, "").partition(".")
        if token is None or not body or not _same(signature, _sign(token, "session", body)):
            return None
        try:
            said = json.loads(base64.urlsafe_b64decode(body))
            who, until = str(said["who"]), float(said["until"])
        except (ValueError, KeyError, TypeError, binascii.Error):  # pragma: no cover (nobody else can sign)
            return None
        return Operator(who, _sign(token, "form", signature)) if self._now() < until else None

    def admits(self, request: Request, form: Mapping[str, str]) -> Operator | None:
        """Give who asks for an action; None for whoever may not, and for a form that another site has sent."""
        token, header = self._read_token(), request.headers.get("Authorization", "")
        if token is not None and header.startswith("Bearer "):
            return (
                Operator(one_line(form.get("who", "")) or ANONYMOUS, "") if _same(header[7:].strip(), token) else None
            )
        operator = self.operator(request)
        if operator is None or is_foreign(request) or not _same(form.get("word", ""), operator.word):
            return None
        return operator


def is_foreign(request: Request) -> bool:
    """Whether the browser says that a page of another site has made this request."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site not in ("same-origin", "none"):
        return True
    return origin is not None and origin.partition("://")[2] != request.headers.get("Host")


def _sign(token: str, purpose: str, text: str) -> str:
    return hmac.new(token.encode(), f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode())

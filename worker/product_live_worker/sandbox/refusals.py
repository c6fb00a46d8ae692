"""Why the sandbox does not do what it was asked; each refusal is an HTTP status.

RefusalError
├── MalformedError       400
├── KeyRefusedError      401
├── NotFoundError        404
├── TooLargeError        413
└── TooManyError         429
"""

from __future__ import annotations


class RefusalError(Exception):
    """A request that is refused; the text goes into the answer."""

    status: int


class MalformedError(RefusalError):
    """The request is not what the API describes."""

    status = 400


class KeyRefusedError(RefusalError):
    """No API key, or not the one in force."""

    status = 401


class NotFoundError(RefusalError):
    """There is no such thing, or nothing to poll."""

    status = 404


class TooLargeError(RefusalError):
    """The body is larger than the platform takes."""

    status = 413


class TooManyError(RefusalError):
    """The window is full; it opens in `wait` seconds."""

    status = 429

    def __init__(self, wait: float) -> None:
        super().__init__("too many requests")
        self.wait = wait

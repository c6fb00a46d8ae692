"""What a handler shares with its other executions: a connection, a client, a model in memory."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel

NEEDED = "a resource is opened by a function under @asynccontextmanager or @contextmanager"


@dataclass(frozen=True, slots=True)
class Resource:
    """What stands in `Annotated[T, resource(open_it)]`."""

    open: Callable[..., Any]
    takes_settings: bool
    connection: type[BaseModel] | None = None
    """What `[connections.<name>]` is read as; it is opened by that, once for each name."""


def resource(open_it: Callable[..., Any], *, connection: type[BaseModel] | None = None) -> Resource:
    """Say how a parameter of a handler is opened.

    The parameter is annotated with it: `db: Annotated[Database, resource(open_database)]`.

    `open_it` is a function under @asynccontextmanager, or under @contextmanager; it may need one argument, the settings
    of the handler. It is called once for each process, when a handler first needs what it yields, and ended after the
    drain; with settings, once for each task. When opening raises, the execution is FAILED, and the next tries again.

    With `connection`, a pydantic model, `open_it` gets a section `[connections.<name>]` as this model instead, the one
    that the setting `connection` of the handler names; all tasks that name it share what is opened. If that has an
    `async def check()` which gives lines of text, or raises, `product-live-worker check` calls it.

    A @contextmanager is opened and closed in a thread, or in the main thread of a handler's own process; an
    @asynccontextmanager on the event loop. Raises TypeError for what cannot be called so.
    """
    try:
        parameters = list(inspect.signature(open_it).parameters.values())
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"resource({open_it!r}): it is no function under @asynccontextmanager or @contextmanager"
        ) from error
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if connection is not None and len(needed) != 1:
        raise TypeError(f"resource({open_it!r}): with `connection`, it takes the connection's section")
    if len(needed) > 1 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise TypeError(
            f"resource({open_it!r}): it takes nothing, or the handler's settings; found {inspect.signature(open_it)}"
        )
    return Resource(open_it, takes_settings=bool(needed), connection=connection)


def resource_of(hint: Any) -> Resource | None:
    """Find the resource in a parameter's annotation."""
    if typing.get_origin(hint) is not Annotated:
        return None
    return next((extra for extra in typing.get_args(hint)[1:] if isinstance(extra, Resource)), None)

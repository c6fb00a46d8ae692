"""Handlers for the tests of the command line."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from product_live_worker import Context, handler


class Query(BaseModel):
    """What `tell` is given."""

    table: str = Field(default="", description="The table that is read")
    rows: int = Field(default=10, description="Rows at most")


class Told(BaseModel):
    """What `tell` gives."""

    settings: dict[str, Any]
    seconds: float = Field(description="Until the deadline")


class Strange:
    """A type that has no JSON schema."""


class Odd(BaseModel):
    """An input whose schema cannot be written."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    strange: Strange | None = None


@handler("odd")
async def odd(_: Odd) -> dict[str, Any]:
    """Take what no schema describes."""
    return {}


@handler("tell", timeout=500)
async def tell(_: Query, context: Context) -> Told:
    """Tell what there is to know.

    This paragraph is for people who read the code.
    """
    return Told(settings=dict(context.settings), seconds=context.remaining())

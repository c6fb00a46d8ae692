"""A plugin: one handler, one entry point in pyproject.toml. `pip install .` beside the worker, and it is served."""

from pydantic import BaseModel

from product_live_worker import TaskFailed, handler


class Label(BaseModel):
    """What a job wires into the task."""

    sku: str
    copies: int = 1


@handler("print_label", concurrency=2, timeout=60)
async def print_label(input: Label) -> dict:
    """Print a label as often as asked for."""
    if input.copies > 100:
        raise TaskFailed("more than 100 copies are printed by hand", code="too_many")
    return {"printed": input.copies}

"""The example of Product-Live's own documentation: 2 to the power of a number."""

from pydantic import BaseModel

from product_live_worker import TaskFailed, handler

LARGEST = 1023
"""A JSON number is read as a 64-bit float by most readers; 2 to the power of 1024 is no such number."""


class PowerInput(BaseModel):
    """The exponent."""

    power: int


class PowerOutput(BaseModel):
    """2 to the power of it."""

    result: int | float


@handler("power", concurrency=4, timeout=30)
async def power(input: PowerInput) -> PowerOutput:
    """Compute 2 to the power of `power`."""
    if abs(input.power) > LARGEST:
        raise TaskFailed(f"power must be from -{LARGEST} to {LARGEST}; found {input.power}", code="out_of_range")
    return PowerOutput(result=2**input.power)

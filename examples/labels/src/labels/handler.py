"""The handler of the custom task print_label."""

import anyio
from pydantic import BaseModel, Field

from product_live_worker import Context, TaskFailed, handler

MOST = 100
"""Labels of one execution; more are printed by hand."""


class Label(BaseModel):
    """What a job wires into the task."""

    sku: str = Field(min_length=1, max_length=40, description="What stands on the label")
    copies: int = Field(default=1, ge=1, description=f"How many labels, at most {MOST}")


class Printed(BaseModel):
    """What later tasks of the job find in the task's output."""

    printed: int = Field(description="How many labels the printer has taken")


@handler("print_label", concurrency=2, timeout=60)
async def print_label(input: Label, context: Context) -> Printed:
    """Print a label as often as asked for.

    The printer speaks ZPL on a TCP port; the setting `printer` says where it is, as HOST:PORT.
    """
    if input.copies > MOST:
        raise TaskFailed(f"more than {MOST} labels are printed by hand", code="too_many")
    host, _, port = str(context.settings.get("printer", "")).rpartition(":")
    if not host or not port.isdecimal():
        raise TaskFailed("the setting `printer` of this task must be HOST:PORT", code="no_printer")
    try:
        async with await anyio.connect_tcp(host, int(port)) as printer:
            await printer.send(_zpl(input).encode())
    except (OSError, anyio.BrokenResourceError) as error:
        context.log.warning("the printer did not take the labels", error=str(error))
        raise TaskFailed(f"the printer {host}:{port} cannot be reached", code="printer_unreachable") from error
    return Printed(printed=input.copies)


def _zpl(label: Label) -> str:
    # ^ and ~ begin a command of the printer's.
    text = label.sku.replace("^", " ").replace("~", " ")
    return f"^XA^FO50,50^A0N,40,40^FD{text}^FS^PQ{label.copies}^XZ"

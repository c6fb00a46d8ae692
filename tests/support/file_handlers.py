"""Handlers that move files and tell the user of the job, in all three ways; a process of its own finds them here."""

from __future__ import annotations

import stat
from typing import Any

from pydantic import BaseModel

from product_live_worker import Context, File, TransferFailed, handler


class Shipment(BaseModel):
    """A file to be carried, and what else to do."""

    file: File
    say: str = ""


def _changed(context: Context, text: str) -> dict[str, Any]:
    (context.workdir / "reply.txt").write_text(text.upper(), encoding="utf-8")
    return {"workdir": str(context.workdir), "mode": stat.S_IMODE(context.workdir.stat().st_mode)}


def _carry(given: Shipment, context: Context) -> dict[str, Any]:
    path = context.files.download(given.file)
    said = _changed(context, path.read_text(encoding="utf-8"))
    context.report(f"read {path.name}", severity="warning")
    return {**said, "downloaded": path.name, "file": context.files.upload(context.workdir / "reply.txt")}


@handler("carry")
async def on_loop(given: Shipment, context: Context) -> dict[str, Any]:
    """Download a file, and upload what is in it in capitals."""
    path = await context.files.download(given.file)
    said = _changed(context, path.read_text(encoding="utf-8"))
    await context.report(f"read {path.name}", severity="warning")
    return {**said, "downloaded": path.name, "file": await context.files.upload(context.workdir / "reply.txt")}


@handler("carry")
def in_thread(given: Shipment, context: Context) -> dict[str, Any]:
    """Do the same in a thread."""
    return _carry(given, context)


@handler("carry", isolation="process")
def in_process(given: Shipment, context: Context) -> dict[str, Any]:
    """Do the same in a process."""
    return _carry(given, context)


@handler("carry", isolation="process")
async def on_loop_in_process(given: Shipment, context: Context) -> dict[str, Any]:
    """Do the same on the loop of a process."""
    path = await context.files.download(given.file)
    said = _changed(context, path.read_text(encoding="utf-8"))
    await context.report(f"read {path.name}", severity="warning")
    return {**said, "downloaded": path.name, "file": await context.files.upload(context.workdir / "reply.txt")}


@handler("forgive", isolation="process")
def forgive(given: Shipment, context: Context) -> dict[str, Any]:
    """Go on without the file, where it is not there."""
    try:
        context.files.download(given.file)
    except TransferFailed as failure:
        return {"code": failure.code, "message": failure.message}
    return {}


@handler("linger")
def linger(given: Shipment, context: Context) -> dict[str, Any]:
    """Wait in a thread for a file that never ends."""
    context.files.download(given.file)
    return {}


@handler("relay", timeout=120)
async def relay(given: Shipment, context: Context) -> dict[str, Any]:
    """Download a file and upload it as it is."""
    path = await context.files.download(given.file)
    return {"file": await context.files.upload(path, filename="relayed.bin")}


WAYS = {
    "loop": on_loop,
    "thread": in_thread,
    "process": in_process,
    "loop-in-process": on_loop_in_process,
}

"""A handler that takes as long as its input says, installed for the worker by a folder that is not a package index."""

from __future__ import annotations

from pathlib import Path

import anyio

from product_live_worker import handler

NAME = "linger"


@handler(NAME, timeout=3600)
async def linger(input: dict[str, float]) -> dict[str, float]:
    """Wait for `seconds`."""
    await anyio.sleep(input["seconds"])
    return {"waited": input["seconds"]}


def install(folder: Path) -> dict[str, str]:
    """Write a distribution with this one entry point into `folder`; gives the variables that let a process see it."""
    about = folder / "lingering-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lingering\nVersion: 1\n")
    entry = f"[product_live_worker.handlers]\n{NAME} = {__name__}:linger\n"
    (about / "entry_points.txt").write_text(entry)
    return {"PYTHONPATH": f"{Path(__file__).resolve().parents[2]}:{folder}"}

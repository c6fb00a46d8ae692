"""Handlers of the tests, installed for the real command: by an entry point, as a customer's package has it."""

from __future__ import annotations

from pathlib import Path

from product_live_worker.registry import GROUP

TESTS = Path(__file__).parents[1]


def install(directory: Path, module: str, *names: str) -> dict[str, str]:
    """Register the handlers `names` of a module below tests/; gives the variables with which the command finds them."""
    info = directory / "handlers_of_the_tests-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: handlers-of-the-tests\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(f"{name} = {module}:{name}\n" for name in names))
    return {"PYTHONPATH": f"{directory}:{TESTS}"}

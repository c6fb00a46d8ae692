"""`new`."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, packages_distributions
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from product_live_worker import __version__
from product_live_worker.registry import GROUP

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    "src/{module}/__init__.py": "init.py",
    "src/{module}/handler.py": "handler.py",
    "tests/test_{module}.py": "test_handler.py",
}
"""The files of a plugin, and the templates in the folder plugin/ that they are made from."""
LONGEST = 50


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The package's name, such as my-plugin.")],
) -> None:
    """Write a small plugin into ./NAME: a handler, its test, and the package around them."""
    module = name.replace("-", "_")
    for problem in _problems(name, module):
        raise typer.BadParameter(f"{name!r} {problem}", param_hint="NAME")
    try:
        written = write(Path(name), module)
    except FileExistsError:
        text = f"./{name} is there already and stays as it is; choose another name, or remove it"
        raise typer.BadParameter(text, param_hint="NAME") from None
    except OSError as error:
        raise typer.BadParameter(f"./{name} cannot be written: {error.strerror}", param_hint="NAME") from None
    for file in written:
        typer.echo(f"wrote {file}")
    typer.echo(f"\nnow:  cd {name}\n      python -m pip install -e '.[test]'\n      python -m pytest")
    typer.echo("      product-live-worker handlers")


def write(folder: Path, module: str) -> list[Path]:
    """Write the plugin `module` into a new folder; gives its files. Raises FileExistsError where one is already."""
    values = {"name": folder.name, "module": module, "version": __version__}
    folder.mkdir()
    written = []
    for path, template in FILES.items():
        file = folder / path.format(module=module)
        file.parent.mkdir(parents=True, exist_ok=True)
        text = files("product_live_worker.cli").joinpath("plugin", f"{template}.template").read_text(encoding="utf-8")
        file.write_text(Template(text).substitute(values), encoding="utf-8")
        written.append(file)
    return written


def _problems(name: str, module: str) -> Iterator[str]:
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or len(name) > LONGEST:
        yield (
            f"cannot be the name of a package; allowed are small letters, digits, and single - or _ between them, "
            f"beginning with a letter, at most {LONGEST} characters"
        )
    elif keyword.iskeyword(module) or keyword.issoftkeyword(module) or module in sys.stdlib_module_names:
        yield f"would be the module {module}, a word of Python's own; choose another name"
    elif module in _handlers():
        yield f"is the name of an installed handler, and two of one name cannot be served; found {_handlers()[module]}"
    elif module in (installed := packages_distributions()):
        yield f"would be the module {module}, which {installed[module][0]} has installed already; choose another name"


def _handlers() -> dict[str, str]:
    return {plugin.name: plugin.value for plugin in entry_points(group=GROUP)}

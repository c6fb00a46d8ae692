"""A hook of MkDocs: writes the reference out of the docstrings of the public names."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

MARK = re.compile(r"<!-- (names|fixtures): ([\w.]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is said of the names of a module into the place of its mark."""
    return MARK.sub(lambda mark: "\n".join(_written(mark[1], importlib.import_module(mark[2]))), markdown)


def _written(kind: str, module: ModuleType) -> Iterator[str]:
    found = fixtures(module) if kind == "fixtures" else {name: getattr(module, name) for name in module.__all__}
    for name, thing in found.items():
        yield f"### {name}\n"
        if inspect.isfunction(thing) and kind != "fixtures":
            yield f"```python\n{_signature(name, thing)}\n```\n"
        yield f"{inspect.getdoc(thing)}\n"
        if inspect.isclass(thing):
            yield from _members(thing)


def fixtures(module: ModuleType) -> dict[str, Any]:
    """Give the functions behind the fixtures of a plugin, by their names."""
    found = {name: inspect.unwrap(thing) for name, thing in vars(module).items() if hasattr(thing, "__wrapped__")}
    return {name: thing for name, thing in found.items() if inspect.isfunction(thing)}


def _members(kind: type) -> Iterator[str]:
    if issubclass(kind, enum.Enum):
        yield f"One of {', '.join(f'`{member.value}`' for member in kind)}.\n"
        return
    for name, text in attributes(kind).items():
        yield f"`{name}`\n\n{textwrap.indent(text, '    ')}\n".replace("\n\n    ", ": ", 1)
    for name, thing in methods(kind).items():
        yield f"```python\n{_signature(f'{kind.__name__}.{name}', thing)}\n```\n\n{inspect.getdoc(thing)}\n"


def attributes(kind: type) -> dict[str, str]:
    """Give the documented fields and properties of a class, each with what is said of it."""
    found = {}
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 (it is the source of a class)
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = inspect.cleandoc(str(below.value.value))
    properties = {name: thing for name, thing in vars(kind).items() if isinstance(thing, property)}
    return found | {name: inspect.getdoc(thing) or "" for name, thing in properties.items() if name[0] != "_"}


def methods(kind: type) -> dict[str, Any]:
    """Give the public methods that a class itself defines."""
    functions = {name: thing for name, thing in vars(kind).items() if name[0] != "_"}
    functions = {name: getattr(thing, "__func__", thing) for name, thing in functions.items()}
    return {name: thing for name, thing in functions.items() if inspect.isfunction(thing)}


class _Bare:
    """An annotation, written as it stands in the code."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(name: str, function: Any) -> str:
    found = inspect.signature(function)
    shown = [
        parameter.replace(annotation=_Bare(parameter.annotation))
        for parameter in found.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    whole = str(found.replace(parameters=shown, return_annotation=_Bare(found.return_annotation)))
    if len(name) + len(whole) <= 100:
        return name + whole
    inside, _, returned = whole[1:].rpartition(") -> ")
    # A comma that separates parameters is followed by a name and a colon, or by a star.
    lines = re.sub(r", (?=\*|\w+: )", ",\n    ", inside)
    return f"{name}(\n    {lines},\n) -> {returned}"

"""What a person is told of a mistake in the settings: where it is, what was found (never a secret), what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from product_live_worker.settings.tree import Settings, Task

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

FREE = {"tasks": "tasks.<key or id>", "connections": "connections.<name>"}
"""Sections whose parts have names of their own; they stand in the settings file only."""
SECTIONS = {name: type(field.default) for name, field in Settings.model_fields.items() if name not in FREE}
KNOWN: dict[tuple[str, ...], FieldInfo] = {
    (section, name): field for section, model in SECTIONS.items() for name, field in model.model_fields.items()
}
"""Every setting outside of those, by section and name."""


def path_of(variable: str) -> tuple[str, ...]:
    """Give the section and name that an environment variable speaks of."""
    return tuple(variable.removeprefix("PLW_").lower().split("__"))


@dataclass(frozen=True)
class Mistakes:
    """Knows where settings came from, and so the names by which their writer knows them."""

    file: Path
    variables: Mapping[str, str]

    def name(self, *path: str) -> str:
        """Name a setting as it was written."""
        return variable if (variable := _variable(path)) in self.variables else f"{_dotted(path)} ({self.file})"

    def in_names(self) -> list[str]:
        """Give a line for each environment variable that is no setting."""
        return [self._unknown(path_of(name)) for name in sorted(self.variables) if path_of(name) not in KNOWN]

    def in_values(self, error: ValidationError) -> list[str]:
        """Give a line for each value that is not allowed, and for each name in the file that is no setting."""
        return [self._problem(found) for found in error.errors(include_url=False)]

    def _problem(self, error: ErrorDetails) -> str:
        path = tuple(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            return self._unknown(path)
        return f"{self.name(*path)}: found {_found(path, error)}; allowed is {_allowed(path)}"

    def _unknown(self, path: tuple[str, ...]) -> str:
        in_file = _variable(path) not in self.variables
        if path[0] in FREE and not in_file:
            return f"{_variable(path)}: {path[0]} are set in the settings file only, as [{FREE[path[0]]}]"
        close = _closest(path, [*((name,) for name in Settings.model_fields if in_file), *KNOWN])
        meant = close and (_dotted(close) if in_file else _variable(close))
        return f"{self.name(*path)}: there is no such setting; {f'did you mean {meant}?' if meant else _choice(path)}"


def _closest(path: tuple[str, ...], known: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Find the same section's most similar name, else the same name in another section, else what looks alike."""
    siblings = Task.model_fields if path[0] == "tasks" else [name for section, name in KNOWN if section == path[0]]
    if len(path) > 1 and (close := difflib.get_close_matches(path[-1], siblings, n=1)):
        return (*path[:-1], close[0])
    if path[0] == "tasks":
        return None
    if namesakes := [candidate for candidate in KNOWN if candidate[-1] == path[-1]]:
        return namesakes[0]
    alike = {".".join(candidate): candidate for candidate in known}
    return next((alike[name] for name in difflib.get_close_matches(".".join(path), alike, n=1, cutoff=0.75)), None)


def _choice(path: tuple[str, ...]) -> str:
    if path[0] == "tasks":
        return f"[tasks.<key or id>] has {', '.join(Task.model_fields)}"
    if path[0] in SECTIONS:
        return f"[{path[0]}] has {', '.join(SECTIONS[path[0]].model_fields)}"
    return f"sections are {', '.join(f'[{name}]' for name in Settings.model_fields)}"


def _allowed(path: tuple[str, ...]) -> str:
    field = Task.model_fields.get(path[-1]) if path[0] == "tasks" and len(path) == 3 else KNOWN.get(path)
    if field is None:
        return "a section of settings"
    return field.description or " or ".join(json.dumps(word) for word in get_args(field.annotation))


def _found(path: tuple[str, ...], error: ErrorDetails) -> str:
    value = error["input"]
    if path == ("api", "key"):
        return str(error["ctx"]["error"]) if error["type"] == "value_error" else "something that is no text"
    if isinstance(value, str) and error["type"] not in ("model_type", "dict_type"):
        return json.dumps(_harmless(value), ensure_ascii=False)
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return "a section" if isinstance(value, dict) else f"a {type(value).__name__}".replace("a str", "a text")


def _harmless(text: str) -> str:
    """Blank what may be a secret in an address: all before its @, and its query."""
    blanked = re.sub(r"[?#].*", "?***", re.sub(r"//.*@", "//***@", text, flags=re.DOTALL), flags=re.DOTALL)
    return blanked if len(blanked) <= 100 else f"{blanked[:99]}…"


def _variable(path: tuple[str, ...]) -> str:
    return "PLW_" + "__".join(path).upper()


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part) for part in path)

"""Published descriptions of other systems' APIs, and whether a request or an answer keeps to them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it has no types of its own

SPECS = Path(__file__).parent / "specs"


@dataclass(frozen=True)
class Contract:
    """A description: operations by name, with path, query, body and answers."""

    operations: dict[str, Any]
    schemas: dict[str, Any]

    def route(self, method: str, path: str) -> tuple[str, dict[str, str]]:
        """Give the operation that a request asks for, and the values in its path; raises LookupError."""
        for name, operation in self.operations.items():
            found = operation["method"] == method and _pattern(operation["path"]).fullmatch(path)
            if found:
                return name, {key: unquote(value) for key, value in found.groupdict().items()}
        raise LookupError(f"{method} {path} is no operation")

    def request_problems(self, name: str, query: dict[str, str], body: Any) -> list[str]:
        """Say what of a request is not as it is described."""
        operation = self.operations[name]
        problems = [f"query {key!r} is not described" for key in query if key not in operation["query"]]
        for key, value in query.items():
            if key in operation["query"]:
                problems += self._problems(f"query {key}", _typed(value), operation["query"][key])
        if body is not None and "body" not in operation:
            problems.append("a body where none is described")
        if body is not None and "body" in operation:
            problems += self._problems("body", body, operation["body"])
        return [f"{name}: {problem}" for problem in problems]

    def response_problems(self, name: str, status: int, body: Any) -> list[str]:
        """Say what of an answer is not as it is described."""
        responses = self.operations[name]["responses"]
        if str(status) not in responses and "default" not in responses:
            return [f"{name}: the status {status} is not described"]
        schema = responses.get(str(status), responses.get("default"))
        if schema is None:
            # Described in words alone: the errors of a status are those of all.
            schema = responses.get("default") if status >= 400 else None
        if schema is None:
            return [] if body is None else [f"{name}: {status} has a body"]
        return [f"{name} {status}: {problem}" for problem in self._problems("answer", body, schema)]

    def _problems(self, what: str, value: Any, schema: Any) -> list[str]:
        validator = Draft202012Validator({**_nullable(schema), "schemas": _nullable(self.schemas)})
        return [f"{what}{error.json_path[1:]}: {error.message[:200]}" for error in validator.iter_errors(value)]


@cache
def contract(name: str) -> Contract:
    """Read a description."""
    read = json.loads((SPECS / f"{name}.json").read_text(encoding="utf-8"))
    return Contract(read["operations"], read["schemas"])


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/:]+)", re.escape(path)))


def _typed(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def _nullable(schema: Any) -> Any:
    """Write OpenAPI's `nullable` in the words of JSON Schema, and references as ours."""
    if isinstance(schema, list):
        return [_nullable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _nullable(value) for key, value in schema.items() if key not in ("nullable", "discriminator")}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain

"""A handler's own settings: the section `[tasks.<key>.settings]` as the pydantic model that it asks for."""

from __future__ import annotations

import os
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError

from product_live_worker.model.errors import SettingsError
from product_live_worker.model.explain import problems

SECRETS = (SecretStr, SecretBytes)


def read_settings(kind: type[BaseModel] | None, section: Mapping[str, Any]) -> Any:
    """Give the section as this model, or as it is where there is none; raises SettingsError, a line for each setting.

    Where the model wants a SecretStr, in a dict[str, SecretStr] too, the section may have
    `{ file = "/run/secrets/name" }`, the text of that file, or `{ env = "NAME" }`, that variable of the environment.
    """
    if kind is None:
        return section
    unfit: list[str] = []
    filled = _filled(kind, section, "", unfit)
    try:
        settings = kind.model_validate(filled)
    except ValidationError as error:
        unfit += [
            line for line in problems(error) if line.partition(":")[0] not in {u.partition(":")[0] for u in unfit}
        ]
    if unfit:
        raise SettingsError(*unfit)
    return settings


def _filled(kind: type[BaseModel], section: Mapping[str, Any], at: str, unfit: list[str]) -> dict[str, Any]:
    """Put the contents of files in their places, and complain of names that the model does not have."""
    filled = dict(section)
    names = {written: field for name, field in kind.model_fields.items() for written in _written(name, field, kind)}
    for name, value in section.items():
        if name not in names:
            if kind.model_config.get("extra") != "allow":
                unfit.append(f"{at}{name}: there is no such setting; there are {', '.join(names) or 'none'}")
                del filled[name]
        elif isinstance(value, dict):
            kinds = set(_kinds(names[name].annotation))
            if any(typing.get_origin(kind) is dict and set(_kinds(kind)) & set(SECRETS) for kind in kinds):
                filled[name] = {key: _secret(one, f"{at}{name}.{key}", unfit) for key, one in value.items()}
            elif kinds & set(SECRETS):
                filled[name] = _secret(value, f"{at}{name}", unfit)
            for inner in kinds:
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    filled[name] = _filled(inner, value, f"{at}{name}.", unfit)
    return filled


def _written(name: str, field: Any, kind: type[BaseModel]) -> Iterator[str]:
    alias = field.validation_alias or field.alias
    if isinstance(alias, str):
        yield alias
    if alias is None or kind.model_config.get("populate_by_name") or kind.model_config.get("validate_by_name"):
        yield name


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in typing.get_args(annotation):
        yield from _kinds(inner)


def _secret(value: Any, at: str, unfit: list[str]) -> Any:
    """Give the text that stands elsewhere, or the value as it is."""
    match value:
        case {"file": file, **rest} if not rest:
            return _contents(file, at, unfit)
        case {"env": variable, **rest} if not rest:
            return _variable(variable, at, unfit)
    return value


def _contents(file: Any, at: str, unfit: list[str]) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (TypeError, ValueError):
        reason = "it is no text"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    unfit.append(
        f"{at}: the file {file!r} cannot be read ({reason}); allowed is the path of a file with the secret in it"
    )
    return ""


def _variable(name: Any, at: str, unfit: list[str]) -> str:
    value = os.environ.get(name, "").strip() if isinstance(name, str) else ""
    if not value:
        unfit.append(
            f"{at}: the environment has no variable {name!r}; allowed is the name of one with the secret in it"
        )
    return value

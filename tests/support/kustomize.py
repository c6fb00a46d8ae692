"""As much of kustomize as deploy/kubernetes uses; strict: what it does not know, it refuses.

`make test-deploy` holds it to the real one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
Key = tuple[str, str]

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
KNOWN = {"apiVersion", "kind", "namespace", "resources", "configMapGenerator", "images", "patches"}
WITHOUT_NAMESPACE = {"Namespace"}
# The letters that kustomize writes for digits and vowels of a hash, so that it spells no word.
LETTERS = str.maketrans("013ae", "ghkmt")


def render(folder: Path, *components: str) -> list[Object]:
    """Give the objects of an overlay under one with these components, as `kubectl kustomize` does; in no order."""
    objects = _built(folder, {})
    for component in components:
        objects = _built(KUBERNETES / "components" / component, objects)
    return list(_with_names(objects, _of(folder)).values())


def _of(folder: Path) -> Object:
    given: Object = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert given.keys() <= KNOWN, f"{folder}: {given.keys() - KNOWN}"
    return given


def _built(folder: Path, objects: dict[Key, Object]) -> dict[Key, Object]:
    given = _of(folder)
    objects = dict(objects)
    for name in given.get("resources", ()):
        path = folder / name
        added = _built(path, {}) if path.is_dir() else {_key(one): one for one in _read(path)}
        assert not added.keys() & objects.keys(), f"{path}: twice"
        objects |= added
    for generator in given.get("configMapGenerator", ()):
        made = _config_map(folder, **generator)
        assert (_key(made) in objects) == (generator.get("behavior") == "replace")
        objects[_key(made)] = made
    for patch in given.get("patches", ()):
        _patch(folder, objects, **patch)
    return objects


def _read(path: Path) -> list[Object]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def _key(one: Object) -> Key:
    return one["kind"], one["metadata"]["name"]


def _config_map(folder: Path, name: str, files: list[str], behavior: str = "create") -> Object:
    assert behavior in {"create", "replace"}
    data = {file: (folder / file).read_text(encoding="utf-8") for file in files}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def _patch(folder: Path, objects: dict[Key, Object], target: Object, patch: str = "", path: str = "") -> None:
    assert target.keys() == {"kind", "name"}
    key = target["kind"], target["name"]
    steps = yaml.safe_load(patch or (folder / path).read_text(encoding="utf-8"))
    if isinstance(steps, dict):
        assert steps.pop("$patch") == "delete"
        assert _key(steps) == key
        del objects[key]
        return
    for step in steps:
        _step(objects[key], **step)


def _step(one: Object, op: str, path: str, value: Any = None) -> None:
    *way, last = path.removeprefix("/").split("/")
    holder: Any = one
    for part in way:
        holder = holder[int(part)] if isinstance(holder, list) else holder[part]
    place: Any = int(last) if isinstance(holder, list) and last != "-" else last
    match op:
        case "add" if last == "-":
            holder.append(value)
        case "add" if isinstance(holder, list):
            holder.insert(place, value)
        case "add":
            holder[place] = value
        case "replace":
            assert holder[place] is not None
            holder[place] = value
        case "remove":
            del holder[place]
        case "test":
            assert holder[place] == value, f"{path}: {holder[place]} is not {value}"
        case _:
            raise AssertionError(f"no such operation: {op}")


def _with_names(objects: dict[Key, Object], given: Object) -> dict[Key, Object]:
    hashed = {name: f"{name}-{_hash(one)}" for (kind, name), one in objects.items() if kind == "ConfigMap"}
    for (kind, _), one in objects.items():
        if "namespace" in given and kind not in WITHOUT_NAMESPACE:
            one["metadata"]["namespace"] = given["namespace"]
        if kind == "ConfigMap":
            one["metadata"]["name"] = hashed[one["metadata"]["name"]]
        if kind == "Deployment":
            spec = one["spec"]["template"]["spec"]
            for volume in spec["volumes"]:
                if "configMap" in volume:
                    volume["configMap"]["name"] = hashed[volume["configMap"]["name"]]
            for container in spec["containers"]:
                container["image"] = _image(container["image"], given.get("images", ()))
    return objects


def _image(name: str, images: Iterable[Object]) -> str:
    for image in images:
        assert image.keys() == {"name", "newName", "newTag"}
        if image["name"] == name:
            return f"{image['newName']}:{image['newTag']}"
    return name


def _hash(config_map: Object) -> str:
    hashed = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for sign, written in (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e")):
        text = text.replace(sign, written)
    return hashlib.sha256(text.encode()).hexdigest()[:10].translate(LETTERS)

"""The platform's files as a test has them: in memory, by whatever an input may call them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from product_live_worker.model.context import Verb
from product_live_worker.model.files import File, TransferFailed, answered
from product_live_worker.product_live.download import called, new_file
from product_live_worker.product_live.upload import opened

LINK = "https://files.test"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file that a handler uploaded."""

    filename: str
    """What it is called."""
    content: bytes
    """What is in it."""
    file: File
    """What the handler was given for it."""


def fake_transfers(files: MutableMapping[str, bytes], uploads: list[Uploaded], directory: Path) -> dict[str, Verb]:
    """Give the verbs behind `context.files`: downloads out of `files`, uploads into it and into `uploads`."""

    async def download(wanted: Mapping[str, Any]) -> str:
        file = File.model_validate(wanted["file"])
        names = (file.id, file.url, file.filename)
        found = next((files[name] for name in names if name and name in files), None)
        if found is None:
            text = f"The file cannot be downloaded: 404 Not Found ({called(file)} is not among the trial's files)."
            raise TransferFailed(text, code="file_unavailable")
        if wanted["max_size"] is not None and len(found) > wanted["max_size"]:
            text = f"The file has {len(found)} bytes or more; at most {wanted['max_size']} are allowed."
            raise TransferFailed(text, code="file_too_large")
        if wanted["sha256"] and hashlib.sha256(found).hexdigest() != wanted["sha256"].lower():
            raise TransferFailed("What has come is not what its SHA-256 says.", code="file_damaged")
        path = new_file(directory, file.name)
        path.write_bytes(found)
        return str(path)

    async def upload(wanted: Mapping[str, Any]) -> dict[str, Any]:
        with opened(path := Path(wanted["path"])) as source:
            content = source.read()
        name, identifier = wanted["filename"] or path.name, hashlib.sha256(content).hexdigest()
        said = {"object": "data_factory_file", "id": identifier, "url": f"{LINK}/{identifier}", "filename": name}
        uploads.append(Uploaded(name, content, File.model_validate(said)))
        files[identifier] = content
        return said

    return {"download": lambda wanted: answered(download(wanted)), "upload": lambda wanted: answered(upload(wanted))}

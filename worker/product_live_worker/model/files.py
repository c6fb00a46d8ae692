"""Files as a handler has them: `File`, a reference in an input or output, and `Files`, which moves what is in one."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from product_live_worker.model.refusal import TaskFailed

FILE_ID = re.compile(r"[0-9a-fA-F]{64}")
NEEDED = (
    "a file is an object of Product-Live (data_factory_file), an object with url and filename, "
    "the address of a file (https://…), or its id (64 hexadecimal digits)"
)


SHARE = "let execution.workdir in the settings be a directory that the machines of Dask share with the worker's"


class TransferFailed(TaskFailed):
    """Raised by `context.files` when a file cannot be moved; not caught, it ends the execution FAILED with its words.

    `code` is `file_unavailable` (it is not there, or nobody answers), `file_refused` (its address is not one that the
    worker may ask), `file_too_large`, `file_damaged` (not what its checksum says) or `upload_failed`. What may pass by
    itself, such as a broken connection, has been tried three times by then.
    """


class File(BaseModel):
    """A file as an input has it, or as `context.files.upload` gives it: a reference, not its content.

    As the type of a field it reads a `data_factory_file` object, `{"url": …, "filename": …}`, a plain address, or an id
    of 64 hexadecimal digits; `list[File]` reads several. Other keys of an object are kept. In an output it is written
    as such an object again, so that a later task can take it.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str | None = None
    """The platform's id, when it is a file of the platform's."""
    url: str | None = None
    """Where it can be downloaded, for as long as that link lives."""
    filename: str | None = None
    """What it is called, where somebody has said so."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, found: Any) -> Any:
        if isinstance(found, str):
            text = found.strip()
            found = {"id": text.lower()} if FILE_ID.fullmatch(text) else {"url": text}
        if not isinstance(found, Mapping | File):
            raise _no_file()
        # What a job's author wires to nothing comes as an empty text.
        return {k: v for k, v in found.items() if v not in ("", None)} if isinstance(found, Mapping) else found

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if self.url is None and self.id is None:
            raise _no_file()
        if self.url is not None and not _is_address(self.url):
            raise _no_file()
        return self

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say in a schema of an input that texts are read too."""
        schema = handler(core_schema)
        if handler.mode == "serialization":
            return schema
        return {"title": "File", "anyOf": [schema, {"type": "string", "description": "An address, or an id."}]}

    @property
    def name(self) -> str:
        """What it may be called on disk: one name without folders, never empty."""
        last = unquote(urlsplit(self.url or "").path.rpartition("/")[2])
        return plain_name(self.filename or "") or plain_name("" if last == "content" else last) or self.id or "file"


def _found(path: str) -> Path:
    found = Path(path)
    if not found.exists():
        text = f"The file was downloaded on the worker's machine, and is not on this one: {SHARE}."
        raise TransferFailed(text, code="file_unavailable")
    return found


def _no_file() -> PydanticCustomError:
    return PydanticCustomError("no_file", NEEDED)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def plain_name(text: str) -> str:
    """Make a text a name for a file: no folders, nothing that a terminal or a shell would stumble on, 200 bytes."""
    last = re.split(r"[/\\]", text)[-1]
    shown = "".join(c for c in last if c.isprintable()).strip().lstrip(".-")
    stem, dot, ending = shown.rpartition(".")
    room = 200 - len((dot + ending).encode())
    if not stem or room < 100:
        return shown.encode()[:200].decode(errors="ignore")
    return stem.encode()[:room].decode(errors="ignore") + dot + ending


class Files:
    """`context.files`: moves files between Product-Live and `context.workdir`.

    `await` its methods in an `async def` handler; in a `def` handler they are ordinary calls. The worker does the work,
    also for a handler in a process of its own. On Product-Live's host each request takes a slot of the request budget.
    """

    __slots__ = ("_ask",)

    def __init__(self, ask: Callable[[str, Any, Callable[[Any], Any]], Any]) -> None:
        """`ask` has a verb of the worker done, and reads what comes of it."""
        self._ask = ask

    def download(
        self, file: File | Mapping[str, Any] | str, *, max_size: int | None = None, sha256: str | None = None
    ) -> Any:
        """Download a file into the work directory; gives its Path.

        `file`: a File, or anything that a File can be read from. `max_size`: bytes, instead of `files.max_download` of
        the settings. `sha256`: what its content must have, in hexadecimal digits. The name is the file's own, made
        harmless. A link of Product-Live's that has expired is renewed once. Raises TransferFailed, and
        pydantic.ValidationError for what is no file.
        """
        wanted = {"file": File.model_validate(file).model_dump(), "max_size": max_size, "sha256": sha256}
        return self._ask("download", wanted, _found)

    def upload(self, path: str | os.PathLike[str], *, filename: str | None = None) -> Any:
        """Upload a file to Product-Live, at most `files.max_upload` bytes; gives the File, to be put into the output.

        `filename`: what it is called there, instead of the name that it has. Raises TransferFailed.
        """
        # A relative path means what it means to the handler, whose process need not be the worker's.
        wanted = {"path": str(Path(path).absolute()), "filename": filename}
        return self._ask("upload", wanted, File.model_validate)


async def answered(transfer: Awaitable[Any]) -> dict[str, Any]:
    """Give what comes of a transfer as JSON, its failure too, so that another process can be told."""
    try:
        return {"done": await transfer}
    except TransferFailed as failure:
        return {"code": failure.code, "failed": failure.message}


def read_answer(answer: dict[str, Any], read: Callable[[Any], Any]) -> Any:
    """Do the reverse of `answered`: give what was done, as `read` reads it, or raise TransferFailed."""
    if "failed" in answer:
        raise TransferFailed(answer["failed"], code=answer["code"])
    return read(answer["done"])


def no_transfers(_: Any) -> Coroutine[Any, Any, dict[str, Any]]:
    """Be the verb of a handler that runs where no platform is."""
    return answered(_nowhere())


async def _nowhere() -> None:
    text = "Files are moved by a worker that runs, or by a Trial in a test; here nobody can move them."
    raise TransferFailed(text, code="file_unavailable")

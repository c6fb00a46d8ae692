"""A file's way down: from where it lies into the directory of an execution."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio.to_thread

from product_live_worker.model.context import Log
from product_live_worker.model.files import FILE_ID, File, TransferFailed
from product_live_worker.product_live.way import Progress, Trouble, Way

if TYPE_CHECKING:
    import httpx

BLOCK = 1_000_000
"""Bytes that are in memory at a time, for each download: each block is a way to a thread and back."""
EXPIRED = frozenset({401, 403, 404, 410})
"""How a link answers that has expired, or is no longer allowed."""
DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]+=*):")


@dataclass
class Download:
    """One download, over all its attempts."""

    way: Way
    file: File
    directory: Path
    limit: int
    sha256: str | None
    log: Log
    link: str | None = None
    renewed: bool = False

    async def attempt(self) -> Path:
        """Download it once; a link that has expired is renewed within the attempt."""
        file_id = _id_of(self.file)
        link = self.link or self.file.url or await self._renewed(str(file_id))
        async with self.way.got(link) as answer:
            expired = answer.status_code in EXPIRED and file_id is not None and not self.renewed
            if not expired:
                return await self._saved(answer)
        await self._renewed(str(file_id))
        return await self.attempt()

    async def _renewed(self, file_id: str) -> str:
        self.link, filename = await self.way.link(file_id)
        self.file = self.file.model_copy(update={"filename": self.file.filename or filename})
        self.renewed = True
        return self.link

    async def _saved(self, answer: httpx.Response) -> Path:
        if answer.status_code != 200:
            raise self.way.trouble(answer)
        announced = answer.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > self.limit:
            raise self._too_large(int(announced))
        name = self.file.model_copy(update={"filename": self.file.filename or _filename(answer)}).name
        try:
            path = await anyio.to_thread.run_sync(new_file, self.directory, name)
            try:
                await self._written(answer, path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        except ssl.SSLError:
            raise
        except OSError as error:
            raise Trouble(f"it cannot be written to the work directory: {error.strerror}") from error
        return path

    async def _written(self, answer: httpx.Response, path: Path) -> None:
        wanted, seen = self.sha256 or _digest(answer), hashlib.sha256()
        size, progress = 0, Progress(self.log, "downloading")

        def write(block: bytes) -> None:
            out.write(block)
            if wanted:
                seen.update(block)

        with await anyio.to_thread.run_sync(path.open, "wb") as out:
            async for block in _blocks(answer):
                size += len(block)
                if size > self.limit:
                    raise self._too_large(size)
                await anyio.to_thread.run_sync(write, block)
                progress.made(size)
        if wanted and seen.hexdigest() != wanted.lower():
            raise Trouble("what has come is not what its SHA-256 says", again=not self.sha256, code="file_damaged")
        self.log.info("file downloaded", bytes=size, seconds=progress.seconds())

    def _too_large(self, size: int) -> TransferFailed:
        text = f"{called(self.file)} has {size} bytes or more; at most {self.limit} are allowed (files.max_download)."
        return TransferFailed(text[0].upper() + text[1:], code="file_too_large")


def called(file: File) -> str:
    """Name a file without repeating what its input says: an address may hold a secret, a file's name a customer's."""
    if file.id:
        return f"the file {file.id[:12]}…" if len(file.id) > 16 else f"the file {file.id}"
    return f"the file at {urlsplit(file.url or '').hostname}"


def _id_of(file: File) -> str | None:
    if file.id:
        return file.id
    parts = urlsplit(file.url or "").path.split("/")
    of_platform = parts[-1] == "content" and len(parts) > 2 and parts[-3] == "files" and FILE_ID.fullmatch(parts[-2])
    return parts[-2] if of_platform else None


def _filename(answer: httpx.Response) -> str | None:
    header = Message()
    header["Content-Disposition"] = answer.headers.get("Content-Disposition", "")
    return header.get_filename()


def _digest(answer: httpx.Response) -> str:
    """Give the SHA-256 that the server says, in hexadecimal digits (RFC 9530); it is of the bytes as they travel."""
    said = answer.headers.get("Repr-Digest") or answer.headers.get("Content-Digest") or ""
    found = DIGEST.search(said)
    if found is None or "Content-Encoding" in answer.headers:
        return ""
    return base64.b64decode(found[1] + "==").hex()


def new_file(directory: Path, name: str) -> Path:
    """Make an empty file of this name, or of a similar one that is free."""
    directory.mkdir(mode=0o700, exist_ok=True)
    stem, ending = Path(name).stem, Path(name).suffix
    number = 1
    while True:
        path = directory / (name if number == 1 else f"{stem}-{number}{ending}")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            number += 1
        else:
            return path


async def _blocks(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Collect what comes into larger pieces: each is a way to a thread and back."""
    block = bytearray()
    async for piece in answer.aiter_bytes():
        block += piece
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)

"""A file's way up: from this machine's disk to the platform."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import anyio.to_thread

from product_live_worker.model.context import Log
from product_live_worker.model.files import File, TransferFailed
from product_live_worker.product_live.way import Progress, Trouble, Way

if TYPE_CHECKING:
    import httpx

    from product_live_worker.product_live.budget import Slot

PIECE = 256_000
"""Bytes that are read and sent at a time."""
LARGEST_ANSWER = 1_000_000


@dataclass
class Upload:
    """One upload, over all its attempts."""

    way: Way
    source: BinaryIO
    size: int
    name: str
    log: Log

    async def attempt(self) -> dict[str, Any]:
        """Upload it once."""
        boundary = secrets.token_hex(16)
        head, tail = _form(boundary, self.name)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(head) + self.size + len(tail)),
        }
        progress = Progress(self.log, "uploading")
        await anyio.to_thread.run_sync(self.source.seek, 0)

        async def content(slot: Slot | None) -> AsyncIterator[bytes]:
            yield head
            sent = 0
            while sent < self.size:
                block = await anyio.to_thread.run_sync(self.source.read, min(PIECE, self.size - sent))
                if not block:
                    raise Trouble("it became shorter while it was read")
                sent += len(block)
                yield block
                if progress.made(sent, self.size) and slot is not None:
                    slot.prolong()
            yield tail

        async with self.way.posted(headers, content) as answer:
            body = await _short(answer)
        if not answer.is_success:
            raise self._refused(answer, body)
        record = _record(body)
        self.log.info("file uploaded", bytes=self.size, seconds=progress.seconds(), file=record.get("id"))
        return {**record, "filename": record.get("filename") or self.name}

    def _refused(self, answer: httpx.Response, body: bytes) -> Trouble:
        if answer.status_code != 413:
            return self.way.trouble(answer)
        said = " ".join(body[:300].decode("utf-8", "replace").split())
        return Trouble(f"Product-Live finds it too large: {said}", code="file_too_large")


def opened(path: Path) -> BinaryIO:
    """Open what is to be uploaded; raises TransferFailed for what is no regular file, or cannot be read."""
    try:
        # A pipe without a writer would be waited for.
        source = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", buffering=0)
    except OSError as error:
        raise TransferFailed(f"The file cannot be uploaded: {error.strerror}.", code="upload_failed") from error
    if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        source.close()
        raise TransferFailed("What is to be uploaded is no regular file.", code="upload_failed")
    return source


def _form(boundary: str, name: str) -> tuple[bytes, bytes]:
    quoted = name.replace("\\", "\\\\").replace('"', "%22")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


async def _short(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > LARGEST_ANSWER:
            raise Trouble("the answer is absurdly large")
    return bytes(body)


def _record(body: bytes) -> dict[str, Any]:
    try:
        record = json.loads(body)
        File.model_validate(record)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise Trouble("Product-Live has taken it, but its answer does not say which file it is")
    return record

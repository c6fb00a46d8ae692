"""What `context.files` asks for: downloads and uploads, tried again where that may help, within their bounds."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from product_live_worker.model.context import Log, Verb
from product_live_worker.model.files import File, TransferFailed, answered, plain_name
from product_live_worker.product_live.download import Download, called
from product_live_worker.product_live.upload import Upload, opened
from product_live_worker.product_live.way import Trouble, Way

ATTEMPTS = 3
LONGEST_PAUSE = 60.0
"""Seconds between two attempts at most, whatever a server asks for."""


class Transfers:
    """Moves files for handlers. Unlike the client it tries again: no handler can do without its file."""

    def __init__(
        self,
        way: Way,
        *,
        max_download: int,
        max_upload: int,
        pause: Callable[[float], Coroutine[Any, Any, None]] = anyio.sleep,
    ) -> None:
        """`max_download` and `max_upload` are bytes; `pause` waits for so many seconds."""
        self._way = way
        self._max_download = max_download
        self._max_upload = max_upload
        self._pause = pause

    def verbs(self, directory: Path, log: Log) -> dict[str, Verb]:
        """Give what `context.files` asks for, of the execution that this directory and this log belong to."""
        return {
            "download": lambda wanted: answered(self._download(wanted, directory, log)),
            "upload": lambda wanted: answered(self._upload(wanted, log)),
        }

    async def _download(self, wanted: Mapping[str, Any], directory: Path, log: Log) -> str:
        file = File.model_validate(wanted["file"])
        limit = self._max_download if wanted["max_size"] is None else int(wanted["max_size"])
        download = Download(self._way, file, directory, limit, wanted["sha256"], log)
        path = await self._tried(download.attempt, f"{called(file)} cannot be downloaded", "file_unavailable")
        return str(path)

    async def _upload(self, wanted: Mapping[str, Any], log: Log) -> dict[str, Any]:
        path = Path(wanted["path"])
        source = await anyio.to_thread.run_sync(opened, path)
        try:
            size = os.fstat(source.fileno()).st_size
            if size > self._max_upload:
                text = f"A file of {size} bytes cannot be uploaded; at most {self._max_upload} are allowed"
                raise TransferFailed(f"{text} (files.max_upload).", code="file_too_large")
            name = plain_name(wanted["filename"] or path.name) or "file"
            upload = Upload(self._way, source, size, name, log)
            record: dict[str, Any] = await self._tried(upload.attempt, "the file cannot be uploaded", "upload_failed")
        finally:
            source.close()
        return record

    async def _tried(self, attempt: Callable[[], Coroutine[Any, Any, Any]], what: str, code: str) -> Any:
        number = 1
        while True:
            try:
                return await attempt()
            except Trouble as trouble:
                if not trouble.again or number == ATTEMPTS:
                    tried = f" ({number} attempts)" if number > 1 else ""
                    text = f"{what[0].upper()}{what[1:]}{tried}: {trouble}"
                    raise TransferFailed(text, code=trouble.code or code) from trouble
                await self._pause(min(LONGEST_PAUSE, max(2.0 ** (number - 1), trouble.pause or 0.0)))
                number += 1

"""What can be seen without anybody else: settings, handlers, the disk, the port."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from product_live_worker.doctor.finding import Finding
from product_live_worker.journal.mounts import MOUNTS, network_file_system
from product_live_worker.model.errors import JournalError
from product_live_worker.model.handler import Handler
from product_live_worker.settings import Settings

ROOM = 200_000_000
"""Bytes of free disk below which a journal and the files of a few executions may not fit."""


def local(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Finding]:
    """Look at what the settings say by themselves, and at what is installed."""
    yield Finding.ok("settings", f"they can be used; the platform is {settings.api.base_url}")
    for warning in settings.warnings():
        yield Finding.warn("settings", warning)
    if handlers:
        yield Finding.ok("handlers", f"installed are {', '.join(sorted(handlers))}")
    else:
        yield Finding.fail("handlers", "none is installed", "Install a plugin beside the worker.")
    yield from disk(settings.state.url)
    yield _port(settings.http.host, settings.http.port, "http.port")
    if settings.http.callback_port is not None:
        yield _port(settings.http.host, settings.http.callback_port, "http.callback_port")


def disk(url: str, mounts: Path = MOUNTS) -> Iterator[Finding]:
    """Refuse a journal where SQLite cannot keep its word; `mounts` is the kernel's list."""
    if kind := network_file_system(url, mounts):
        cure = "Put it on a disk of this machine, or let several machines share a PostgreSQL (docs/scaling.md)."
        yield Finding.fail("disk", f"the journal would be on a network file system ({kind})", cure)


def state(settings: Settings) -> Iterator[Finding]:
    """Look at the disk, once the journal has been opened."""
    yield Finding.ok("journal", f"it can be written: {settings.state.shown_url}")
    directory = settings.workdir()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory):
            free = shutil.disk_usage(directory).free
    except OSError as error:
        cure = "Make it writable for the worker's user, or set execution.workdir to a directory that is."
        yield Finding.fail("workdir", f"no directory can be made in {directory}: {error.strerror}", cure)
        return
    text = f"executions get their directories in {directory}; {free / 1e9:.1f} GB are free there"
    if free < ROOM:
        cure = "Make room, or set state.url and execution.workdir to places that have some."
        yield Finding.warn("workdir", text, cure)
    else:
        yield Finding.ok("workdir", text)


def journal_trouble(settings: Settings, error: JournalError) -> Finding:
    """Say that the journal cannot be opened; nothing was asked of the platform then, whose budget is in it."""
    cure = (
        "docs/journal.md says what to do about each; the platform was not asked, because the budget is in the journal."
    )
    return Finding.fail("journal", f"{settings.state.shown_url} cannot be used: {error}", cure)


def _port(host: str, port: int, setting: str) -> Finding:
    shown = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
    except OSError as error:
        text = f"{shown} cannot be listened on: {error.strerror}"
        return Finding.warn("http", text, f"Is a worker running already? Otherwise set http.host and {setting}.")
    return Finding.ok("http", f"{setting}: {shown} can be listened on" if port else f"{setting}: a free one of {host}")

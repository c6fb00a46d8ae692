"""What systemd is told (sd_notify, man 3 sd_notify); silent where systemd does not listen."""

from __future__ import annotations

import contextlib
import os
import socket


class Notifier:
    """Speaks to the socket in NOTIFY_SOCKET, if there is one."""

    def __init__(self, address: str | None, watchdog_microseconds: str | None = None) -> None:
        """`address` and `watchdog_microseconds` are the values of NOTIFY_SOCKET and WATCHDOG_USEC."""
        self._address = address
        self.watchdog_interval = _half(watchdog_microseconds)
        """Seconds between two signs of life, half of what systemd waits for one; None where it waits for none."""

    @classmethod
    def from_environment(cls) -> Notifier:
        """Listen to what systemd put into the environment of this process."""
        watched = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return cls(os.environ.get("NOTIFY_SOCKET"), os.environ.get("WATCHDOG_USEC") if watched else None)

    def ready(self, status: str) -> None:
        """The start is over."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={_line(text)}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A service manager that does not listen must never stop the work.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.connect("\0" + self._address[1:] if self._address.startswith("@") else self._address)
            out.send(message.encode())


def _half(microseconds: str | None) -> float | None:
    return int(microseconds) / 2_000_000 if microseconds and microseconds.isdigit() and int(microseconds) else None


def _line(text: str) -> str:
    return " ".join(text.split())

"""What can be done from inside of an installation: each attempt is really made, and gives "done" or its error.

None of them would hurt the machine that the tests run on: where one would, it is made with a value that the kernel
refuses by another error than that of a forbidden call.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import resource
import socket
import sqlite3
import ssl
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER_NAMESPACE, NO_RANDOM_ADDRESSES, SYSLOG_READ_ALL = 0x10000000, 0x0040000, 3
NOWHERE = b"/nowhere"
IO_URING_SETUP = 425
"""The same number on every machine."""
CLOCK_SETTIME = {"x86_64": 227, "aarch64": 112}
"""Not by its name: the C library would look at the value itself."""


def probe() -> dict[str, Any]:
    """Try all there is to try."""
    return {
        "user": os.getuid(),
        "group": os.getgid(),
        "forbidden": {name: _outcome(attempt) for name, attempt in FORBIDDEN.items()},
        "needed": {name: _outcome(attempt) for name, attempt in NEEDED.items()},
        "status": _status(),
        "processes_seen": sorted(int(name) for name in _names("/proc") if name.isdigit()),
        "user_ids_seen": [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()],
        "tmp": _names("/tmp"),  # noqa: S108 (its own)
        "devices": _names("/dev"),
        "environment": Path("/proc/self/environ").read_text(encoding="utf-8") + repr(dict(os.environ)),
        "core": list(resource.getrlimit(resource.RLIMIT_CORE)),
        "new_file": oct(_mode_of_new_file()),
        "key_file": _key_file(),
    }


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else str(error)
    return "done"


def _names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def _call(name: str, *arguments: object) -> None:
    if getattr(LIBC, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def _write(path: str) -> Callable[[], object]:
    return lambda: Path(path).write_text("x", encoding="ascii")


def _open_socket(family: int, kind: int = socket.SOCK_RAW) -> Callable[[], object]:
    return lambda: socket.socket(family, kind).close()


def _memory_to_write_and_run() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _memory_to_run_once_written() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _call("mprotect", ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC)


def _file_of_another_user() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)  # noqa: PTH101, S103 (it shall fail)


def _set_clock() -> None:
    impossible = (ctypes.c_long * 2)(0, -1)
    _call("syscall", CLOCK_SETTIME[platform.machine()], 0, ctypes.byref(impossible))


def _control_group() -> None:
    group = Path("/sys/fs/cgroup/memory/probe")
    group.mkdir()
    group.rmdir()


def _trace() -> None:
    # In a process of its own: the one that is traced stops at its next signal.
    code = (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.ptrace(0, 0, 0, 0) == -1 and exit(ctypes.get_errno())"
    )
    if number := subprocess.run(["python3", "-c", code], check=False).returncode:  # noqa: S603, S607 (ours)
        raise OSError(number, "ptrace")


FORBIDDEN: dict[str, Callable[[], object]] = {
    "write /usr": _write("/usr/probe"),
    "write /etc": _write("/etc/probe"),
    "write /opt": _write("/opt/product-live-worker/probe"),
    "write /var/lib": _write("/var/lib/probe"),
    "write a kernel tunable": _write("/proc/sys/kernel/domainname"),
    "write a control group": _control_group,
    "read /root": lambda: _names("/root"),
    "read /home": lambda: _names("/home"),
    "read the kernel's log": lambda: _call("klogctl", SYSLOG_READ_ALL, ctypes.create_string_buffer(64), 64),
    "read kernel modules": lambda: _names("/usr/lib/modules"),
    "set the clock": _set_clock,
    "set the host's name": lambda: _call("sethostname", b"probe", 5),
    "be root": lambda: os.setuid(0),
    "make a user namespace": lambda: _call("unshare", NEW_USER_NAMESPACE),
    "run in real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(0)),
    "be nicer": lambda: os.setpriority(os.PRIO_PROCESS, 0, 19),
    "make a file run as its owner": _file_of_another_user,
    "change the personality": lambda: _call("personality", NO_RANDOM_ADDRESSES),
    "open a netlink socket": _open_socket(socket.AF_NETLINK),
    "open a packet socket": _open_socket(socket.AF_PACKET),
    "write and run memory": _memory_to_write_and_run,
    "run written memory": _memory_to_run_once_written,
    "trace a process": _trace,
    "set up an io_uring": lambda: _call("syscall", IO_URING_SETUP, 1, None),
    "mount": lambda: _call("mount", b"none", NOWHERE, b"tmpfs", 0, None),
    "change the root": lambda: os.chroot(NOWHERE),
}


def _run_a_program() -> None:
    subprocess.run(["/bin/sh", "-c", "exit 0"], check=True)


def _run_a_thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _keep_a_database() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder, "probe.db"))
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE probe (x)")
        database.close()


def _call_back() -> None:
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: 0)
    LIBC.qsort((ctypes.c_int * 2)(2, 1), 2, 4, compare)


def _resolve() -> None:
    socket.getaddrinfo("localhost", 80)


NEEDED: dict[str, Callable[[], object]] = {
    "a thread": _run_a_thread,
    "a program": _run_a_program,
    "a database": _keep_a_database,
    "TLS": ssl.create_default_context,
    "a callback from C": _call_back,
    "an IPv4 socket": _open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "an IPv6 socket": _open_socket(socket.AF_INET6, socket.SOCK_STREAM),
    "a local socket": _open_socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "names": _resolve,
    "/proc/stat": lambda: Path("/proc/stat").read_bytes(),
}


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return {name: fields[name].strip() for name in names}


def _mode_of_new_file() -> int:
    # Where the worker keeps its state: it can write there, and nobody else can read it.
    path = Path(os.environ["STATE_DIRECTORY"], "probe")
    with path.open("w", encoding="ascii"):
        mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def _key_file() -> dict[str, Any]:
    file = Path(os.environ["CREDENTIALS_DIRECTORY"], "product_live_api_key").stat()
    return {"mode": oct(stat.S_IMODE(file.st_mode)), "owner": file.st_uid}

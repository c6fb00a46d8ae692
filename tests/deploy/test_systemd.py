"""The worker as a service of the real systemd: from its start to its end, and what happens in between."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.debian import need
from support.installed import KEY, Platform, platform
from support.machine import Machine, machine, until

NAME = "product-live-worker"
UNIT = f"{NAME}.service"
STATE = f"/var/lib/private/{NAME}"
SETTINGS = """\
[api]
base_url = "{url}"
[budget]
requests_per_minute = 0
[state]
lease = "2s"
[http]
port = {port}
"""


@pytest.fixture(scope="module")
def debian(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Give a machine of this Debian without any network, on which a bundle was installed."""
    need("systemd", "python3-venv", "iproute2", "curl")
    with machine(tmp_path_factory.mktemp("debian"), folder=bundle) as made:
        assert made.ok("ip", "route") == ""
        made.ok("/media/host/install")
        yield made


@pytest.fixture(scope="module")
def account(debian: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Give the account that the worker works for."""
    with platform(debian, tmp_path_factory.mktemp("account")) as made:
        yield made


@pytest.fixture
def service(debian: Machine, account: Platform) -> Iterator[Machine]:
    """Give the machine with settings and a key, nothing done yet, and the service not started."""
    account.start_afresh(KEY)
    debian.write(f"/etc/{NAME}/worker.toml", SETTINGS.format(url=account.url, port=8080))
    debian.write(f"/etc/{NAME}/api_key", f"{KEY}\n", "600")
    yield debian
    debian.run("systemctl", "kill", "--signal=KILL", UNIT)
    debian.run("systemctl", "stop", UNIT)
    debian.run("rm", "-rf", STATE, f"/etc/systemd/system/{UNIT}.d")
    debian.ok("systemctl", "daemon-reload")
    debian.run("systemctl", "reset-failed", UNIT)
    debian.ok("journalctl", "--rotate", "--vacuum-time=1s", "--quiet")


def override(service: Machine, *lines: str) -> None:
    """Change the unit, as an operator does."""
    service.write(f"/etc/systemd/system/{UNIT}.d/test.conf", "\n".join(["[Service]", *lines, ""]))
    service.ok("systemctl", "daemon-reload")


def start(service: Machine) -> int:
    """Start the service; gives its process."""
    service.ok("systemctl", "start", UNIT)
    return main_process(service)


def main_process(service: Machine) -> int:
    """Give the worker's process, as systemd knows it."""
    return int(service.show(UNIT, "MainPID")["MainPID"])


def restarts(service: Machine) -> int:
    """Count how often systemd has started it again by itself."""
    return int(service.show(UNIT, "NRestarts")["NRestarts"])


def test_the_start_is_over_when_the_first_poll_was_answered(service: Machine, account: Platform) -> None:
    """`systemctl start` returns then, not sooner; the status says that all is well."""
    start(service)
    polls = [one["status"] for one in account.requests() if one["operation"] == "poll"]
    # 404 is how the platform says that there is nothing to do.
    assert 404 in polls
    assert service.show(UNIT, "ActiveState", "StatusText") == {"ActiveState": "active", "StatusText": "ok"}
    assert account.completed("power", power=10) == {"result": 1024}


def test_a_worker_that_cannot_poll_is_started_and_says_why(service: Machine, account: Platform) -> None:
    """With a key that is refused the start ends as degraded; a new key and a restart put it right."""
    account.configure(key="a-new-key")
    start(service)
    status = service.show(UNIT, "StatusText")["StatusText"]
    assert status.startswith("degraded: "), status
    assert "the API key is missing or not accepted" in status
    service.write(f"/etc/{NAME}/api_key", "a-new-key\n", "600")
    service.ok("systemctl", "restart", UNIT)
    assert service.show(UNIT, "StatusText")["StatusText"] == "ok"
    assert KEY not in service.journal(UNIT)


def test_a_stopped_process_is_killed_by_the_watchdog(service: Machine, account: Platform) -> None:
    """It does not even take the abort: it is killed, started again, and its execution run anew."""
    override(service, "WatchdogSec=3", "TimeoutAbortSec=1", "RestartSec=100ms")
    process = start(service)
    (id,) = account.submit("begins_anew", {"seconds": 1})
    account.until_started(id)
    service.ok("kill", "-STOP", str(process))
    assert account.result(id)["status"] == "COMPLETED"
    assert restarts(service) == 1
    assert "Watchdog timeout" in service.journal(UNIT)


def test_a_handler_that_holds_the_loop_is_ended_by_the_watchdog(service: Machine, account: Platform) -> None:
    """The journal shows where it hung; the execution is reported, not begun for ever."""
    override(service, "WatchdogSec=3", "RestartSec=100ms")
    start(service)
    (id,) = account.submit("holds_the_loop", {"seconds": 3600})
    ended = account.result(id)
    assert (ended["status"], ended["output"]["code"]) == ("FAILED", "worker_restarted")
    assert restarts(service) == 1
    said = service.journal(UNIT)
    assert "Watchdog timeout" in said
    assert re.search(r'File ".*deploy_probes/handlers.py", line \d+ in holds_the_loop', said)


def test_a_worker_that_works_is_left_alone_by_the_watchdog(service: Machine, account: Platform) -> None:
    """Over several of its intervals, with an execution in hand, and while it drains."""
    override(service, "WatchdogSec=2")
    start(service)
    ids = account.submit("waits", {"seconds": 5}, {"seconds": 9})
    account.until_started(*ids)
    assert account.result(ids[0])["status"] == "COMPLETED"
    service.ok("systemctl", "stop", UNIT)
    assert account.status(ids[1]) == "COMPLETED"
    assert service.show(UNIT, "NRestarts", "Result") == {"NRestarts": "0", "Result": "success"}


def test_a_killed_worker_is_started_again_and_loses_nothing(service: Machine, account: Platform) -> None:
    """What ran is run anew or reported as failed; what waits is run; each has an end."""
    override(service, "RestartSec=100ms")
    process = start(service)
    anew, failed, *waiting = (
        *account.submit("begins_anew", {"seconds": 2}),
        *account.submit("waits_in_thread", {"seconds": 60}),
    )
    account.until_started(anew, failed)
    service.ok("kill", "-KILL", str(process))
    waiting += account.submit("power", *({"power": number} for number in range(5)))
    assert account.result(anew)["status"] == "COMPLETED"
    assert account.result(failed)["output"]["code"] == "worker_restarted"
    assert [account.result(id)["output"] for id in waiting] == [{"result": 2**number} for number in range(5)]
    assert restarts(service) == 1
    assert main_process(service) != process


def test_a_stop_waits_for_the_handlers_and_reports_their_results(service: Machine, account: Platform) -> None:
    """On the loop and in a thread; when `systemctl stop` returns, the platform has both."""
    start(service)
    ids = account.submit("waits", {"seconds": 3}) + account.submit("waits_in_thread", {"seconds": 3})
    account.until_started(*ids)
    service.ok("systemctl", "stop", UNIT, timeout=45)
    assert [account.execution(id)["output"] for id in ids] == [{"waited": 3.0}] * 2
    assert service.show(UNIT, "ActiveState", "Result", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
    }


def test_a_stop_is_over_in_time_whatever_a_handler_does(service: Machine, account: Platform) -> None:
    """A thread that nobody can end is left behind at the end of the drain; its execution is reported all the same."""
    override(service, "Environment=PLW_DRAIN__TIMEOUT=1s", "TimeoutStopSec=20")
    start(service)
    (id,) = account.submit("waits_in_thread", {"seconds": 3600})
    account.until_started(id)
    service.ok("systemctl", "stop", UNIT, timeout=45)
    ended = account.execution(id)
    assert (ended["status"], ended["output"]["code"]) == ("FAILED", "cancelled")
    # Neither killed at the end of TimeoutStopSec nor ended otherwise than by itself.
    assert service.show(UNIT, "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}


@pytest.mark.parametrize(
    ("file", "text", "status", "said"),
    [
        ("worker.toml", '[api]\nbase_url = "ftp://nowhere"\n', "78", f"api.base_url (/etc/{NAME}/worker.toml): found "),
        ("api_key", None, "243", "Failed to set up credentials"),
    ],
)
def test_what_a_restart_cannot_mend_is_not_restarted(
    service: Machine, file: str, text: str | None, status: str, said: str
) -> None:
    """A bad setting ends with 78, a missing key file with 243; the journal names it."""
    if text is None:
        service.ok("rm", f"/etc/{NAME}/{file}")
    else:
        service.write(f"/etc/{NAME}/{file}", text)
    override(service, "RestartSec=100ms")
    assert service.run("systemctl", "start", UNIT).returncode != 0
    until(lambda: service.show(UNIT, "ActiveState")["ActiveState"] == "failed", "the unit to have failed")
    assert service.show(UNIT, "ExecMainStatus", "NRestarts") == {"ExecMainStatus": status, "NRestarts": "0"}
    assert said in service.journal(UNIT)
    assert "Traceback" not in service.journal(UNIT)


def test_what_a_restart_may_mend_is_tried_for_ever(service: Machine, account: Platform) -> None:
    """A disk that is full at the start: ten starts later, with room again, it works."""
    override(service, "RestartSec=1ms")
    service.ok("mkdir", "-p", STATE)
    service.ok("mount", "-t", "tmpfs", "-o", "size=64k", "none", STATE)
    service.ok("dd", "if=/dev/zero", f"of={STATE}/filling", "bs=60000", "count=1", "status=none")
    service.ok("systemctl", "start", "--no-block", UNIT)
    until(lambda: restarts(service) >= 6, "more restarts than systemd's own limit", 120)
    service.ok("mount", "-o", "remount,size=10m", STATE)
    try:
        until(lambda: service.show(UNIT, "StatusText")["StatusText"] == "ok", "the worker to be well", 120)
        assert account.completed("power", power=3) == {"result": 8}
        assert re.search("No space left|full", service.journal(UNIT))
    finally:
        service.run("systemctl", "stop", UNIT)
        service.ok("umount", "--lazy", STATE)


def test_the_key_is_the_workers_alone(service: Machine, account: Platform) -> None:
    """Another user can read neither the key nor the journal; it is in no environment and on no command line."""
    process = start(service)
    assert account.completed("power", power=1) == {"result": 2}
    hidden = (
        f"/etc/{NAME}/api_key",
        f"/run/credentials/{UNIT}/product_live_api_key",
        f"{STATE}/worker.db",
        f"/proc/{process}/environ",
    )
    for path in hidden:
        read = service.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", path)
        assert (read.returncode, "Permission denied" in read.stderr) == (1, True), path
    for pid in service.ok("cat", f"/sys/fs/cgroup/pids/system.slice/{UNIT}/cgroup.procs").split():
        assert KEY not in service.ok("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")
    assert KEY not in service.ok("systemctl", "show", UNIT)
    assert KEY not in service.journal(UNIT)
    assert service.ok("stat", "--format=%a %n", f"{STATE}/worker.db", STATE).split()[::2] == ["600", "700"]


FORBIDDEN = {
    "write /usr": "EROFS",
    "write /etc": "EROFS",
    "write /opt": "EROFS",
    "write /var/lib": "EROFS",
    "write a kernel tunable": "EROFS",
    "write a control group": "EROFS",
    "read /root": "EACCES",
    "read /home": "EACCES",
    "read kernel modules": "EACCES",
    "open a netlink socket": "EAFNOSUPPORT",
    "open a packet socket": "EAFNOSUPPORT",
}
"""How an attempt fails, where it is not by EPERM."""


@pytest.mark.parametrize("task", ["probes", "probes_in_process"])
def test_each_line_of_the_hardening_holds_from_inside(service: Machine, account: Platform, task: str) -> None:
    """A handler really tries it, in a thread of the worker and in a process of its own; what handlers need works."""
    service.write("/tmp/of-somebody-else", "x")  # noqa: S108 (the machine's)
    service.ok("mkdir", "-p", "/usr/lib/modules", "/home/somebody")
    process = start(service)
    found = account.completed(task)
    wrong = {name: how for name, how in found["forbidden"].items() if how != FORBIDDEN.get(name, "EPERM")}
    assert wrong == {}
    assert set(FORBIDDEN) <= set(found["forbidden"])
    assert {name: how for name, how in found["needed"].items() if how != "done"} == {}
    assert {int(value, 16) for name, value in found["status"].items() if name.startswith("Cap")} == {0}
    assert (found["status"]["NoNewPrivs"], found["status"]["Seccomp"]) == ("1", "2")
    # Its own processes and no others; its own user and root, and nobody else.
    mine = set(map(int, service.ok("cat", f"/sys/fs/cgroup/pids/system.slice/{UNIT}/cgroup.procs").split()))
    assert process in mine
    assert set(found["processes_seen"]) <= mine
    assert found["user_ids_seen"] == [[str(user), str(user), "1"] for user in (0, found["user"])]
    assert 61184 <= found["user"] <= 65519
    assert "of-somebody-else" not in found["tmp"]
    assert not {"kmsg", "mem", "port", "sda", "vda"} & set(found["devices"])
    assert found["core"] == [0, 0]
    assert found["new_file"] == "0o600"
    assert found["key_file"] == {"mode": "0o400", "owner": found["user"]}
    assert KEY not in found["environment"]


def test_what_the_hardening_forbids_is_otherwise_allowed(debian: Machine) -> None:
    """Tried by root outside of the unit, each attempt fares differently: it is the unit that forbids it."""
    debian.ok("mkdir", "-p", "/usr/lib/modules")
    debian.write("/tmp/credentials/product_live_api_key", "x")  # noqa: S108 (the machine's)
    found = json.loads(
        debian.ok(
            *("env", "STATE_DIRECTORY=/tmp", "CREDENTIALS_DIRECTORY=/tmp/credentials", f"/opt/{NAME}/bin/python", "-c"),
            "import json; from deploy_probes.probing import probe; print(json.dumps(probe()))",
        )
    )
    same = {name: how for name, how in found["forbidden"].items() if how == FORBIDDEN.get(name, "EPERM")}
    assert same == {}


def test_memory_that_a_handler_takes_is_its_own_processs_end(service: Machine, account: Platform) -> None:
    """With MemoryMax the process that took it is killed and reported; the worker goes on."""
    override(service, "MemoryMax=300M", "MemorySwapMax=0")
    process = start(service)
    (id,) = account.submit("takes_memory", {"megabytes": 1000})
    ended = account.result(id)
    assert (ended["status"], ended["output"]["code"]) == ("FAILED", "handler_crashed")
    assert main_process(service) == process
    assert account.completed("power", power=4) == {"result": 16}

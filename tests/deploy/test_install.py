"""docs/operations.md, done as it is written: on a plain Debian 13 without any network, from a bundle."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.debian import need
from support.documents import DOCS, FENCE, blocks
from support.installed import KEY, Platform, platform
from support.machine import Machine, machine, until

NAME = "product-live-worker"
PLUGIN = "deploy_probes==1.0"
INSTALL = "/media/host/install"
PAGE = DOCS / "operations.md"
SETTINGS = """\
[api]
base_url = "{url}"
[budget]
requests_per_minute = 0
[http]
port = {port}
"""


@pytest.fixture(scope="module")
def debian(trixie: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Give a machine with nothing on it but a bundle."""
    need("iproute2", "curl")
    host = tmp_path_factory.mktemp("host")
    (archive,) = bundle.parent.glob("*.tar.gz")
    shutil.copy(archive, host)
    for file in bundle.iterdir():
        shutil.copytree(file, host / file.name) if file.is_dir() else shutil.copy(file, host)
    with machine(tmp_path_factory.mktemp("machine"), below=trixie, folder=host) as made:
        yield made


@pytest.fixture(scope="module")
def account(debian: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Give the account that the workers work for."""
    with platform(debian, tmp_path_factory.mktemp("account")) as made:
        yield made


@pytest.fixture
def bare(debian: Machine, account: Platform) -> Iterator[Machine]:
    """Give the machine with nothing on it of the worker."""
    debian.run(INSTALL, "--remove")
    clear(debian, account)
    yield debian
    debian.run(INSTALL, "--remove")


@pytest.fixture
def installed(debian: Machine, account: Platform) -> Machine:
    """Give the machine with the worker installed from the bundle, its journal empty, and started."""
    clear(debian, account)
    if debian.run("grep", "-qxF", PLUGIN, f"/opt/{NAME}/plugins.txt").returncode:
        debian.ok(INSTALL)
    configure(debian, account)
    debian.ok("systemctl", "start", NAME)
    return debian


def clear(debian: Machine, account: Platform) -> None:
    """End the workers, and forget what they had: settings, keys, journals, and what was laid beside the units."""
    debian.run("systemctl", "kill", "--signal=KILL", f"{NAME}*.service")
    debian.run("systemctl", "stop", f"{NAME}*.service")
    debian.ok("sh", "-c", f"rm -rf /etc/{NAME} /var/lib/private/{NAME}* /var/lib/{NAME}* /etc/systemd/system/{NAME}*.d")
    debian.ok("systemctl", "daemon-reload")
    debian.run("systemctl", "reset-failed", f"{NAME}*.service")
    account.start_afresh(KEY)


def found_on(debian: Machine) -> str:
    """Give what an installation would change."""
    folders = (
        f"/opt/{NAME}",
        f"/opt/{NAME}.versions",
        f"/opt/{NAME}.versions/",
        "/etc/systemd/system/",
        f"/etc/{NAME}/",
    )
    return debian.run("ls", "-dl", "--time-style=full-iso", *folders).stdout + debian.run("ls", *folders).stdout


def configure(debian: Machine, account: Platform, folder: str = f"/etc/{NAME}", port: int = 8080) -> None:
    """Write the settings and the key of a worker."""
    debian.write(f"{folder}/worker.toml", SETTINGS.format(url=account.url, port=port))
    debian.write(f"{folder}/api_key", f"{KEY}\n", "600")


def section(title: str) -> list[str]:
    """Give the shell blocks below a heading of docs/operations.md."""
    text = PAGE.read_text(encoding="utf-8")
    below = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    found = [text for language, _, text in FENCE.findall(below) if language == "sh"]
    assert found
    return found


def do(debian: Machine, block: str, stdin: str | None = None) -> str:
    """Run a block of the page, in the machine's root home, as it is written."""
    return debian.ok("sh", "-euc", f"cd /root\n{block}", stdin=stdin)


def main_process(debian: Machine, unit: str = NAME) -> int:
    """Give the worker's process."""
    return int(debian.show(unit, "MainPID")["MainPID"])


def test_the_page_leads_from_nothing_to_a_worker_that_works(bare: Machine, account: Platform) -> None:
    """Each command of `Install`, in its order; in between, the settings name the platform."""
    bare.ok("cp", *(f"/media/host/{file.name}" for file in archives(bare)), "/root/")
    unpack, key, check, look = section("Install")
    assert "systemctl enable --now" in do(bare, unpack)
    do(bare, key, stdin=f"{KEY}\n")
    bare.write(f"/etc/{NAME}/worker.toml", SETTINGS.format(url=account.url, port=8080))
    do(bare, check)
    told = do(bare, look)
    assert 'Status: "ok"' in told
    assert '"verdict":"ok"' in told
    assert account.completed("power", power=5) == {"result": 32}
    bare.ok("systemctl", "is-enabled", NAME)


def archives(debian: Machine) -> list[Path]:
    """Name the bundle's archive."""
    return [Path(path) for path in debian.ok("sh", "-c", "ls /media/host/*.tar.gz").split()]


def test_the_unit_is_well_written_and_exposed_to_little(installed: Machine) -> None:
    """As the newest systemd and this machine's see it: no word unknown, 1.5 of 10 at most, for both units."""
    for unit in (f"{NAME}.service", f"{NAME}@shop.service"):
        done = installed.run("systemd-analyze", "verify", "--recursive-errors=no", unit)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        installed.ok("systemd-analyze", "security", "--threshold=15", "--no-pager", unit)


def test_installing_again_changes_nothing(installed: Machine) -> None:
    """The worker is not even restarted, and nothing is left lying about."""
    process, before = main_process(installed), installed.ok("ls", f"/opt/{NAME}.versions")
    assert "The same is installed already." in installed.ok(INSTALL)
    assert main_process(installed) == process
    assert installed.ok("ls", f"/opt/{NAME}.versions") == before


def test_an_upgrade_lets_handlers_end_and_keeps_the_journal(
    installed: Machine, account: Platform, tmp_path: Path
) -> None:
    """The worker drains, and what it had claimed is reported; a handler that goes is named."""
    (id,) = account.submit("waits", {"seconds": 3})
    account.until_started(id)
    process, old = main_process(installed), installed.ok("readlink", "-f", f"/opt/{NAME}")
    newer(installed, tmp_path, lambda text: text.replace('takes_memory = "', 'takes_more = "'))
    told = installed.ok("/root/newer/install")
    assert "NOTE: the handler takes_memory is installed no longer." in told
    assert "takes_more" in told
    assert account.execution(id)["output"] == {"waited": 3.0}
    assert main_process(installed) not in {0, process}
    assert installed.ok("ls", "-d", f"/opt/{NAME}.versions").split() == [f"/opt/{NAME}.versions"]
    assert installed.run("test", "-e", old.strip()).returncode == 1
    assert account.completed("power", power=6) == {"result": 64}


def test_a_plugin_that_cannot_be_loaded_changes_nothing(installed: Machine, account: Platform, tmp_path: Path) -> None:
    """Its error is shown, and the worker that runs goes on with what it has."""
    process = main_process(installed)
    newer(installed, tmp_path, lambda text: text.replace("handlers:waits_in_thread", "handlers:no_such_name"))
    done = installed.run("/root/newer/install")
    assert done.returncode == 1
    assert "no_such_name" in done.stderr
    assert done.stderr.rstrip().endswith("the handlers cannot be loaded (see above); nothing was changed")
    assert "Traceback" not in done.stderr
    assert main_process(installed) == process
    installed.ok("systemctl", "restart", NAME)
    assert account.completed("power", power=7) == {"result": 128}


def newer(debian: Machine, tmp_path: Path, change: Callable[[str], str]) -> None:
    """Put a bundle into /root/newer that has a plugin whose pyproject.toml is changed."""
    plugin = tmp_path / "plugin"
    shutil.copytree(Path(__file__).parent / "plugin", plugin)
    project = plugin / "pyproject.toml"
    text = project.read_text(encoding="utf-8").replace('version = "1.0"', 'version = "1.1"')
    project.write_text(change(text), encoding="utf-8")
    wheel = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path))
    subprocess.run([sys.executable, "-m", "pip", *wheel, str(plugin)], check=True)  # noqa: S603 (pip)
    (made,) = tmp_path.glob("*.whl")
    debian.ok(
        "sh",
        "-c",
        "rm -rf /root/newer; mkdir /root/newer; cp -r /media/host/* /root/newer/; cd /root/newer; "
        "rm wheels/deploy_probes-*; sed -i 's/==1.0/==1.1/' plugins.txt",
    )
    debian.ok("sh", "-c", f"base64 -d >/root/newer/wheels/{made.name}", stdin=_base64(made))
    debian.ok(
        "sh",
        "-c",
        "cd /root/newer; find . -type f ! -name SHA256SUMS ! -name '*.tar.gz' -exec sha256sum {} + >SHA256SUMS",
    )


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--frobnicate"], 2, "'--frobnicate' is neither an option nor a plugin"),
        ([""], 2, "'' is neither an option nor a plugin"),
        (["--remove", "labels"], 2, "--remove takes nothing beside it"),
        (["-r", "/etc/passwd"], 2, "'-r' is neither an option nor a plugin"),
        (["no-such-plugin"], 1, "pip cannot install that (its words are above); nothing was changed"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(debian: Machine, arguments: list[str], code: int, said: str) -> None:
    """A line that says what was found."""
    debian.ok("mkdir", "-p", f"/opt/{NAME}.versions")
    before = found_on(debian)
    done = debian.run(INSTALL, *arguments)
    assert done.returncode == code
    assert f"install: {said}" in done.stderr.splitlines()
    assert re.sub("[0-9:.]{9,}", "", found_on(debian)) == re.sub("[0-9:.]{9,}", "", before)


@pytest.mark.parametrize(
    ("spoil", "mend", "said"),
    [
        (
            "mv /usr/bin/python3 /usr/bin/hidden",
            "mv /usr/bin/hidden /usr/bin/python3",
            "/usr/bin/python3 is not there or does not run: install Python 3.11 or later",
        ),
        (
            "mv /usr/lib/python3.13/ensurepip /usr/lib/hidden",
            "mv /usr/lib/hidden /usr/lib/python3.13/ensurepip",
            "/usr/bin/python3 lacks its venv module: install it (on Debian and Ubuntu: apt install python3-venv)",
        ),
        (
            "echo '# changed' >>/media/host/worker.toml",
            "sed -i '$d' /media/host/worker.toml",
            "this bundle is damaged (SHA256SUMS does not agree): copy it again",
        ),
        (
            f"mv /opt/{NAME} /opt/away; mkdir /opt/{NAME}",
            f"rmdir /opt/{NAME}; mv /opt/away /opt/{NAME}",
            f"/opt/{NAME} was not made by this program: move it away, and run it again",
        ),
    ],
)
def test_what_is_in_the_way_is_said(debian: Machine, spoil: str, mend: str, said: str) -> None:
    """In one line, with what to do about it."""
    debian.run("sh", "-c", spoil)
    try:
        done = debian.run(INSTALL)
    finally:
        debian.run("sh", "-c", mend)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith(f"install: {said}")


def test_only_root_installs(debian: Machine) -> None:
    """Anybody else is told."""
    debian.ok("cp", INSTALL, "/srv/install")
    done = debian.run("setpriv", "--reuid=65534", "--clear-groups", "/srv/install")
    assert (done.returncode, done.stderr) == (1, "install: only root may do that: use sudo\n")


def test_what_is_removed_and_installed_again_goes_on_where_it_was(installed: Machine, account: Platform) -> None:
    """Settings, key and journal stay; removing twice is fine."""
    (id,) = account.submit("begins_anew", {"seconds": 30})
    account.until_started(id)
    installed.ok("systemctl", "kill", "--signal=KILL", NAME)
    installed.ok(INSTALL, "--remove")
    installed.ok(INSTALL, "--remove")
    assert installed.run("systemctl", "cat", NAME).returncode != 0
    assert installed.ok("sh", "-c", f"ls -d /opt/{NAME}* || true") == ""
    assert KEY in installed.ok("cat", f"/etc/{NAME}/api_key")
    installed.ok(INSTALL)
    installed.ok("systemctl", "start", NAME)
    until(lambda: installed.get("http://127.0.0.1:8080/status")["executions"]["running"] == 1, "it to go on")
    assert account.status(id) == "IN_PROGRESS"


def test_the_key_is_rotated_as_the_page_says(installed: Machine, account: Platform) -> None:
    """With the old one refused, the new one is used after the restart."""
    account.configure(key="the-next-key")
    (block,) = section("Rotate the key")
    do(installed, block, stdin="the-next-key\n")
    assert account.completed("power", power=2) == {"result": 4}


def test_the_journal_is_looked_into_as_the_page_says(installed: Machine, account: Platform) -> None:
    """By root, while the worker runs; the worker goes on."""
    assert account.completed("power", power=2) == {"result": 4}
    (block,) = section("Read the health page")
    assert re.search(r"power +REPORTED", do(installed, block))
    assert account.completed("power", power=3) == {"result": 8}


def test_the_journal_is_backed_up_and_restored_as_the_page_says(installed: Machine, account: Platform) -> None:
    """Of a worker that runs; the copy is readable by root alone, and the worker can use it again."""
    (id,) = account.submit("begins_anew", {"seconds": 2})
    account.until_started(id)
    copy, restore = section("Back up the journal")
    do(installed, copy)
    assert installed.ok("stat", "--format=%a", "/var/backups/product-live-worker.db") == "600\n"
    installed.ok("systemctl", "kill", "--signal=KILL", NAME)
    do(installed, restore)
    assert account.result(id)["status"] == "COMPLETED"
    assert installed.show(NAME, "StatusText")["StatusText"] == "ok"


def test_several_accounts_are_served_as_the_page_says(installed: Machine, account: Platform, tmp_path: Path) -> None:
    """Each with settings, key, journal and port of its own; one that stops leaves the other alone."""
    with platform(installed, tmp_path, 8091) as shop:
        prepare, start = section("Several accounts")
        do(installed, prepare, stdin=f"{KEY}\n")
        installed.write(f"/etc/{NAME}/shop/worker.toml", SETTINGS.format(url=shop.url, port=8081))
        do(installed, start)
        assert shop.completed("power", power=10) == {"result": 1024}
        assert account.completed("power", power=9) == {"result": 512}
        probes = [one.completed("probes") for one in (shop, account)]
        assert probes[0]["user"] != probes[1]["user"]
        installed.ok("systemctl", "stop", NAME)
        assert shop.completed("power", power=4) == {"result": 16}
        installed.ok("test", "-e", f"/var/lib/private/{NAME}-shop/worker.db")
        installed.ok(INSTALL, "--remove")
        assert installed.run("systemctl", "is-active", f"{NAME}@shop").returncode != 0


def test_files_beside_the_unit_do_what_the_page_says(installed: Machine, account: Platform) -> None:
    """Each that the page shows is understood, and a line of the table opens what it says it opens."""
    shown = [block for block in blocks(PAGE, "ini") if block.title.endswith(".conf")]
    assert len(shown) == 3
    installed.write(f"/etc/{NAME}/admin_token", "a-token-of-the-tests\n", "600")
    for block in shown:
        installed.write(block.title, block.text)
    lines = re.findall(
        r"`(MemoryDenyWriteExecute=no|SystemCallFilter=@resources)` \|", PAGE.read_text(encoding="utf-8")
    )
    installed.write(f"/etc/systemd/system/{NAME}.service.d/open.conf", "\n".join(["[Service]", *sorted(lines), ""]))
    installed.ok("systemctl", "daemon-reload")
    done = installed.run("systemd-analyze", "verify", "--recursive-errors=no", f"{NAME}.service")
    assert (done.returncode, done.stderr) == (0, "")
    assert installed.show(NAME, "TimeoutStopUSec", "MemoryMax") == {
        "TimeoutStopUSec": "10min 15s",
        "MemoryMax": str(2**30),
    }
    installed.ok("systemctl", "restart", NAME)
    tried = account.completed("probes")["forbidden"]
    opened = ("write and run memory", "run written memory", "be nicer")
    assert {tried[name] for name in opened} == {"done"}
    assert tried["write /usr"] == "EROFS"


def test_the_bundle_holds_what_it_says(bundle: Path) -> None:
    """Every file has its sum, and none is left out."""
    sums = dict(reversed(line.split("  ")) for line in (bundle / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    files = {str(path.relative_to(bundle)): path for path in bundle.rglob("*") if path.is_file()}
    assert set(sums) == set(files) - {"SHA256SUMS"}
    assert all(hashlib.sha256(files[name].read_bytes()).hexdigest() == value for name, value in sums.items())

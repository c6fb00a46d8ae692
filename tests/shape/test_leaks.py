"""The look for secrets after each test sees one, wherever it was told."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from support.documents import ROOT
from support.leaks import PATTERN, SECRETS
from support.processes import environment

PLANTED = """
import logging, sqlite3, time

import pytest
import structlog

from support import leaks
from support.workers import new_world


def test_printed():
    print("it is s3cret-token-1")


def test_logged():
    structlog.get_logger().info("login", password="s3cret-password")


def test_logged_by_a_library():
    logging.getLogger("library").warning("the key is %s", "sandbox-key")


def test_address():
    print("POST https://hooks.example.com/callbacks/1-0123456789abcdefghij")


def test_header():
    print("Authorization: Basic YWxhZGRpbjpvcGVu")


def test_token():
    print("bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhY2NvdW50In0.c2lnbmF0dXJlLW9m")


def test_key():
    print("-----BEGIN RSA PRIVATE KEY-----")


def test_process():
    leaks.tell("output of run", "a\\nkey=a-key-nobody-may-see\\nb")


def reported(output):
    world = new_world("run", limit=0)
    execution = world.submit("run", {}, time.monotonic())
    world.update(execution.id, {"id": execution.id, "status": "COMPLETED", "output": output}, time.monotonic())
    return world


def test_reported():
    reported({"steps": [{"error": "no client s3cret:client"}]})


def test_log_of_a_job():
    body = {"message": "s3cret", "emitterName": "run", "eventCorrelationId": "1"}
    new_world("run").write_log("1", body, 0.0)


def journal(path, output):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE executions (output, code, message, trouble)")
        database.execute("INSERT INTO executions VALUES (?, NULL, NULL, '')", [output])
    database.close()


def test_journal(tmp_path):
    (tmp_path / "state").mkdir()
    journal(tmp_path / "state" / "worker.db", '{"token": "s3cret"}')


@pytest.fixture
def planted():
    print("s3cret")


def test_fixture(planted):
    pass


def test_clean(tmp_path):
    print("secret, key, /callbacks/{token}")
    reported({"id": 1})
    journal(tmp_path / "worker.db", "{}")
    (tmp_path / "other.db").write_text("no database")
"""


def test_a_planted_secret_is_found(tmp_path: Path) -> None:
    """Printed, logged, said by a process, reported, written to a job's log or to a journal: its test has failed."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_planted.py").write_text(PLANTED, encoding="utf-8")
    options = ("-p", "no:randomly", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path), "-rA")
    ended = subprocess.run(  # noqa: S603 (our own tests)
        [sys.executable, "-m", "pytest", *options, "--import-mode=importlib", str(tmp_path)],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT / "tests"), PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    planted = re.findall(r"^def (test_\w+)", PLANTED, re.MULTILINE)
    failed = re.findall(r"^ERROR \S+::(test_\w+)", ended.stdout, re.MULTILINE)
    assert failed == [name for name in planted if name != "test_clean"], ended.stdout + ended.stderr


def test_every_secret_of_the_suite_is_looked_for() -> None:
    """What the tests use as a key, password or token, by its spelling, is known to the look."""
    said = re.compile(r'"([\w-]*(?:s3cret|nobody-may-see|very-secret|-secret)[\w:/+-]*)"')
    known = {"secret-text", "client_secret", "no-secret"}
    here = ROOT / "tests"
    found = {text for path in here.rglob("*.py") for text in said.findall(path.read_text(encoding="utf-8"))}
    assert sorted(text for text in found - known if not PATTERN.search(text)) == []
    assert len(SECRETS) == len(set(SECRETS))

"""`make demo-connectors` shows each connector, and each of its acts ends as it is announced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from product_live_handlers.informatica.code_task import informatica_code_task, informatica_code_task_status
from product_live_handlers.informatica.job import informatica_job, informatica_job_stop
from product_live_handlers.salesforce.executions import salesforce_executions
from product_live_handlers.salesforce.job import salesforce_job
from product_live_handlers.snowflake.manage import snowflake_manage
from product_live_handlers.snowflake.task import snowflake_task
from support import leaks
from support.documents import ROOT
from support.processes import environment

CONNECTORS = [
    snowflake_task, snowflake_manage, salesforce_job, salesforce_executions, informatica_job, informatica_job_stop,
    informatica_code_task, informatica_code_task_status,
]  # fmt: skip


def test_the_demonstration_of_the_connectors(tmp_path: Path) -> None:
    """It runs through, and shows all eight handlers."""
    done = subprocess.run(
        [sys.executable, "-m", "support.connectors_demo"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT / "tests")),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    leaks.tell("demonstration", done.stdout + done.stderr)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    shown = {line.split()[0] for line in done.stdout.splitlines() if line[:1].isalpha() and "." in line.split()[0]}
    assert shown >= {connector.name for connector in CONNECTORS}
    assert "happened 1 time(s)" in done.stdout

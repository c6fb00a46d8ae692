"""Against the true systems, where the environment says how: what no fake can prove."""

from __future__ import annotations

import os
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from product_live_handlers.informatica.code_task import informatica_code_task
from product_live_handlers.informatica.job import informatica_job
from product_live_handlers.salesforce.job import salesforce_job
from product_live_handlers.snowflake.task import snowflake_task
from product_live_worker import Handler
from product_live_worker.executors.alone import run_alone

HANDLERS = {
    "LIVE_SNOWFLAKE": snowflake_task,
    "LIVE_SALESFORCE": salesforce_job,
    "LIVE_INFORMATICA_JOB": informatica_job,
    "LIVE_INFORMATICA_CODE_TASK": informatica_code_task,
}


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("variable", "handler"), HANDLERS.items())
def test_a_job_of_the_true_system_is_run(variable: str, handler: Handler) -> None:
    """The variable names a TOML file: [connection] as in the settings, [input] as a job would wire it."""
    if variable not in os.environ:
        pytest.skip(f"{variable} names no file with [connection] and [input]")
    given: dict[str, Any] = tomllib.loads(Path(os.environ[variable]).read_text(encoding="utf-8"))
    connections = {"live": given["connection"]}
    run = partial(run_alone, handler, given["input"], {"connection": "live"}, connections=connections)
    outcome = anyio.run(run)
    assert outcome.status == "COMPLETED", outcome.output

"""The connectors' handlers for the real command, on clocks that leap, in a worker that kills itself at KILL_AT."""

from __future__ import annotations

from dataclasses import replace

from product_live_handlers.informatica.code_task import informatica_code_task
from product_live_handlers.informatica.job import informatica_job
from product_live_handlers.salesforce.job import salesforce_job
from product_live_handlers.snowflake.task import snowflake_task
from support import kill_points
from support.job_clock import leaping

__all__ = ["code_task", "job", "ocapi", "snow"]
ARMED = kill_points
"""Imported for its fuse."""

# Under names of their own: the true ones are installed already.
snow = replace(leaping(snowflake_task), name="snow")
ocapi = replace(leaping(salesforce_job), name="ocapi")
job = replace(leaping(informatica_job), name="job")
code_task = replace(leaping(informatica_code_task), name="code_task")

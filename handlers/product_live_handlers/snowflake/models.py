"""What goes to and comes from Snowflake's Task API."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from product_live_handlers.bounds import LONGEST_NAME
from product_live_handlers.remote_job import Given

IDENTIFIER = re.compile(r'"(?:[^"]|"")+"|[a-zA-Z_][a-zA-Z0-9_$]*')
LONGEST_IDENTIFIER = 512


def an_identifier(text: str) -> str:
    """Check a name: it becomes a part of a path, and of a statement."""
    if len(text) > LONGEST_IDENTIFIER or not IDENTIFIER.fullmatch(text):
        raise ValueError('must be a name of letters, digits, _ and $, or any name in double quotes, as "my task"')
    return text


def quoted(name: str) -> str:
    """Give the one spelling of a name: T, t and "T" are one."""
    return name if name.startswith('"') else f'"{name.upper()}"'


Identifier = Annotated[str, AfterValidator(an_identifier)]
"""A name, or a name in double quotes, whose case counts then."""


class CronSchedule(Given):
    """At these times."""

    schedule_type: Literal["CRON_TYPE"]
    cron_expr: str
    timezone: str


class MinutesSchedule(Given):
    """Every so many minutes."""

    schedule_type: Literal["MINUTES_TYPE"]
    minutes: int


Schedule = Annotated[CronSchedule | MinutesSchedule, Field(discriminator="schedule_type")]


class TaskDefinition(Given):
    """What can be written of a task."""

    name: Identifier
    definition: str
    warehouse: Identifier | None = None
    schedule: Schedule | None = None
    comment: str | None = None
    finalize: str | None = None
    task_auto_retry_attempts: int | None = Field(default=None, ge=0, le=30)
    config: dict[str, Any] | None = None
    session_parameters: dict[str, Any] | None = None
    predecessors: list[str] | None = None
    user_task_managed_initial_warehouse_size: str | None = None
    target_completion_interval: MinutesSchedule | None = None
    serverless_task_min_statement_size: str | None = None
    serverless_task_max_statement_size: str | None = None
    user_task_timeout_ms: int | None = None
    suspend_task_after_num_failures: int | None = None
    condition: str | None = None
    allow_overlapping_execution: bool | None = None
    error_integration: str | None = None
    success_integration: str | None = None
    overlap_policy: Literal["NO_OVERLAP", "ALLOW_CHILD_OVERLAP", "ALLOW_ALL_OVERLAP"] | None = None
    execute_as_user: str | None = None


class Task(BaseModel):
    """A task as Snowflake describes it; what is not named here is kept as it came."""

    model_config = ConfigDict(extra="allow")

    name: str
    definition: str | None = None
    id: str | None = Field(default=None, max_length=LONGEST_NAME)
    state: str | None = None
    predecessors: list[str] | None = None
    task_auto_retry_attempts: int | None = None
    database_name: str | None = None
    schema_name: str | None = None


class TaskRun(BaseModel):
    """A run of a task, or of the graph below it. Database and schema are blank for whoever may not see them."""

    model_config = ConfigDict(extra="allow")

    run_id: int
    state: str
    root_task_id: str | None = None
    root_task_name: str | None = None
    database_name: str | None = None
    schema_name: str | None = None
    graph_version: int | None = None
    scheduled_time: str | None = None
    query_start_time: str | None = None
    next_scheduled_time: str | None = None
    completed_time: str | None = None
    first_error_task_name: str | None = None
    first_error_code: int | None = None
    first_error_message: str | None = None

"""`snowflake.manage`: the other operations of the Task API, one a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from product_live_handlers.bounds import LONGEST_NAME, LONGEST_WORDS, MOST_ROWS, cut, shorten
from product_live_handlers.remote_http import NoAnswer, Refused, whole
from product_live_handlers.remote_job import ConnectorSettings, Given, ask
from product_live_handlers.snowflake.client import SYSTEM, CreateMode, Place, SnowflakeClient
from product_live_handlers.snowflake.connection import SnowflakeConnection, open_snowflake
from product_live_handlers.snowflake.models import Identifier, TaskDefinition
from product_live_worker import Context, handler, resource

Operation = Literal[
    "list",
    "create",
    "fetch",
    "create_or_alter",
    "delete",
    "resume",
    "suspend",
    "dependents",
    "current_graphs",
    "complete_graphs",
    "current_graphs_deprecated",
    "complete_graphs_deprecated",
]
OWN = {
    "list": {"root_only", "like", "starts_with", "show_limit", "from_name"},
    "create": {"definition", "create_mode"},
    "create_or_alter": {"definition"},
    "delete": {"if_exists"},
    "dependents": {"recursive"},
    "current_graphs": {"result_limit"},
    "complete_graphs": {"result_limit", "error_only"},
    "current_graphs_deprecated": {"result_limit"},
    "complete_graphs_deprecated": {"result_limit", "error_only"},
}
"""What an operation takes beside the names."""


class SnowflakeManageInput(Given):
    """An operation, the task that it is about, and what belongs to it."""

    operation: Operation
    database: Identifier
    schema_: Identifier = Field(alias="schema")
    task: Identifier | None = None
    role: str | None = None
    warehouse: str | None = None
    root_only: bool | None = None
    like: str | None = None
    starts_with: str | None = None
    show_limit: int | None = Field(default=None, ge=1, le=10000)
    from_name: str | None = None
    definition: TaskDefinition | None = None
    create_mode: CreateMode | None = None
    if_exists: bool | None = None
    recursive: bool | None = None
    result_limit: int | None = Field(default=None, ge=1, le=10000)
    error_only: bool | None = None

    @model_validator(mode="after")
    def _fits(self) -> SnowflakeManageInput:
        others = set().union(*OWN.values()) - OWN.get(self.operation, set())
        if unfit := sorted(name for name in others if getattr(self, name) is not None):
            raise ValueError(f"{self.operation} takes no {', '.join(unfit)}")
        if self.operation in ("create", "create_or_alter") and self.definition is None:
            raise ValueError(f"{self.operation} needs a definition")
        if self.operation not in ("list", "create") and self.task is None:
            raise ValueError(f"{self.operation} needs the name of a task")
        return self


class SnowflakeManageOutput(BaseModel):
    """What came of it."""

    status: str | None = None
    """What Snowflake says of a change."""
    task: dict[str, Any] | None = None
    tasks: list[dict[str, Any]] | None = None
    runs: list[dict[str, Any]] | None = None
    truncated: bool = False
    """Whether something of them is left out here."""


@handler("snowflake.manage", concurrency=20, timeout=900, explicit=True, on_crash="rerun", settings=ConnectorSettings)
async def snowflake_manage(
    input: SnowflakeManageInput,
    context: Context,
    client: Annotated[SnowflakeClient, resource(open_snowflake, connection=SnowflakeConnection)],
) -> SnowflakeManageOutput:
    """List, create, fetch, alter, delete, resume or suspend Snowflake tasks, or list their graphs and dependents."""
    at = Place(input.database, input.schema_, input.role, input.warehouse)
    lost = context.checkpoint is not None
    if input.operation in ("create", "delete"):
        # Asked for again, after a crash or a lost answer, it may have been done by ourselves.
        await context.save_checkpoint({"operation": input.operation})

    async def once() -> SnowflakeManageOutput:
        nonlocal lost
        try:
            return await _do(input, at, client)
        except NoAnswer:
            lost = True
            raise
        except Refused as refused:
            if lost and (done := await _done_before(input, at, client, refused)):
                return done
            raise

    return await ask(once, clock=client.new_clock(), context=context)


async def _done_before(
    input: SnowflakeManageInput, at: Place, client: SnowflakeClient, refused: Refused
) -> SnowflakeManageOutput | None:
    if input.operation == "delete" and refused.status == 404:
        return SnowflakeManageOutput(status="is gone, as was asked for")
    if input.operation == "create" and refused.status == 409 and input.definition is not None:
        there, _ = await client.fetch_task(at, input.definition.name)
        if there.definition == input.definition.definition:
            return SnowflakeManageOutput(status="is there, as was asked for")
    return None


async def _do(input: SnowflakeManageInput, at: Place, client: SnowflakeClient) -> SnowflakeManageOutput:
    name = input.task or ""
    definition = {} if input.definition is None else input.definition.model_dump(exclude_none=True)
    changes: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "create": lambda: client.create_task(at, definition, create_mode=input.create_mode),
        "create_or_alter": lambda: client.create_or_alter_task(at, name, definition),
        "delete": lambda: client.delete_task(at, name, if_exists=input.if_exists),
        "resume": lambda: client.resume_task(at, name),
        "suspend": lambda: client.suspend_task(at, name),
    }
    if input.operation in changes:
        status = str((await changes[input.operation]()).get("status", ""))
        return SnowflakeManageOutput(status=shorten(status, LONGEST_NAME))
    if input.operation == "fetch":
        return _told("task", whole((await client.fetch_task(at, name))[0], SYSTEM))
    if input.operation == "list":
        found = await client.list_tasks(
            at,
            root_only=input.root_only,
            like=input.like,
            starts_with=input.starts_with,
            show_limit=input.show_limit,
            from_name=input.from_name,
        )
        return _told("tasks", [whole(task, SYSTEM) for task in found])
    if input.operation == "dependents":
        found = await client.fetch_task_dependents(at, name, recursive=input.recursive)
        return _told("tasks", [whole(task, SYSTEM) for task in found])
    old, limit = input.operation.endswith("_deprecated"), input.result_limit
    if input.operation.startswith("current"):
        runs = await client.get_current_graphs(at, name, result_limit=limit, deprecated=old)
    else:
        runs = await client.get_complete_graphs(
            at, name, result_limit=limit, error_only=input.error_only, deprecated=old
        )
    return _told("runs", [whole(run, SYSTEM) for run in runs])


def _told(name: str, found: Any) -> SnowflakeManageOutput:
    kept = cut(found, LONGEST_WORDS, MOST_ROWS)
    return SnowflakeManageOutput.model_validate({name: kept, "truncated": kept != found})

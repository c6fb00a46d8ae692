"""`salesforce.executions`: lists or searches, reads and deletes executions of Commerce Cloud jobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from product_live_handlers.bounds import LONGEST_WORDS, MOST_ROWS, cut
from product_live_handlers.remote_http import Id, NoAnswer, Refused, whole
from product_live_handlers.remote_job import ConnectorSettings, Given, ask
from product_live_handlers.salesforce.client import MOST, NOT_FOUND, SYSTEM, JobExecution, OcapiClient
from product_live_handlers.salesforce.connection import SalesforceConnection, open_salesforce
from product_live_worker import Context, handler, resource


class SalesforceExecutionsInput(Given):
    """An operation, and what it is about."""

    operation: Literal["list", "read", "delete"]
    job_id: Id
    execution_id: Id | None = None
    status: str | None = None
    """list: only these; where the version can search."""
    start: int = Field(default=0, ge=0)
    count: int = Field(default=25, ge=1, le=MOST)

    @model_validator(mode="after")
    def _fits(self) -> SalesforceExecutionsInput:
        if self.operation != "list" and self.execution_id is None:
            raise ValueError(f"{self.operation} needs an execution_id")
        return self


class SalesforceExecutionsOutput(BaseModel):
    """What came of it."""

    total: int | None = None
    executions: list[dict[str, Any]] = Field(default_factory=list)
    truncated: bool = False
    """Whether something of them is left out here."""
    deleted: bool = False


@handler(
    "salesforce.executions", concurrency=20, timeout=300, explicit=True, on_crash="rerun", settings=ConnectorSettings
)
async def salesforce_executions(
    input: SalesforceExecutionsInput,
    context: Context,
    client: Annotated[OcapiClient, resource(open_salesforce, connection=SalesforceConnection)],
) -> SalesforceExecutionsOutput:
    """List (or search, since OCAPI 17.4), read or delete executions of a Commerce Cloud job."""
    lost = context.checkpoint is not None
    if input.operation == "delete":
        await context.save_checkpoint({"operation": "delete"})

    async def once() -> SalesforceExecutionsOutput:
        nonlocal lost
        try:
            return await _do(input, client)
        except NoAnswer:
            lost = True
            raise
        except Refused as refused:
            # Asked for again, it may have been deleted by ourselves.
            if input.operation == "delete" and lost and refused.code == NOT_FOUND:
                return SalesforceExecutionsOutput(deleted=True)
            raise

    return await ask(once, clock=client.new_clock(), context=context)


async def _do(input: SalesforceExecutionsInput, client: OcapiClient) -> SalesforceExecutionsOutput:
    name = input.execution_id or ""
    if input.operation == "delete":
        await client.delete(input.job_id, name)
        return SalesforceExecutionsOutput(deleted=True)
    if input.operation == "read":
        return _told([await client.read(input.job_id, name)])
    if client.searches:
        page = await client.search(input.job_id, status=input.status, start=input.start, count=input.count)
    else:
        page = await client.list(input.job_id, start=input.start, count=input.count)
    return _told(page.found, page.total)


def _told(found: list[JobExecution], total: int | None = None) -> SalesforceExecutionsOutput:
    rows = [whole(one, SYSTEM) for one in found]
    kept = cut(rows, LONGEST_WORDS, MOST_ROWS)
    return SalesforceExecutionsOutput(total=total, executions=kept, truncated=kept != rows)

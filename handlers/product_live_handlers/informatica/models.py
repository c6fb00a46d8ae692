"""What comes from Informatica; what is not named here is kept as it came."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from product_live_handlers.bounds import LONGEST_NAME
from product_live_handlers.remote_http import Id


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, populate_by_name=True)


def _no_bool(given: Any) -> Any:
    if isinstance(given, bool):
        raise ValueError("true and false are no numbers")  # noqa: TRY004 (pydantic collects these)
    return given


Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Number = Annotated[int, BeforeValidator(_no_bool)]


class Row(_Wire):
    """A run in a list. What of it cannot be read is None: that must not be in the way of the others."""

    run_id: Number | None = Field(default=None, alias="runId")
    start_time_utc: str | None = Field(default=None, alias="startTimeUtc")
    started_by: str | None = Field(default=None, alias="startedBy")
    """A user's name; the monitor does not document it."""
    run_context: str | None = Field(default=None, alias="runContextType")
    """Where it was started, as ICS_UI."""

    @property
    def of(self) -> tuple[str | None, str | None]:
        """The id and the name of its task."""
        raise NotImplementedError

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_none(cls, given: Any, read: ValidatorFunctionWrapHandler) -> Any:
        try:
            return read(given)
        except ValidationError:
            return None


class StartedJob(_Wire):
    """The answer to a start."""

    task_id: Name | None = Field(default=None, alias="taskId")
    task_federated_id: Name | None = Field(default=None, alias="taskFederatedId")
    task_name: Name | None = Field(default=None, alias="taskName")
    run_id: Number = Field(alias="runId")


class StartedCodeTask(_Wire):
    """The answer to the start of a code task."""

    job_id: Id = Field(alias="jobId")


class MonitorEntry(Row):
    """A run that lives."""

    id: str | None = None
    task_id: Name | None = Field(default=None, alias="taskId")
    task_name: Name | None = Field(default=None, alias="taskName")
    start_time: str | None = Field(default=None, alias="startTime")
    execution_state: str | None = Field(default=None, alias="executionState")

    @property
    def of(self) -> tuple[str | None, str | None]:
        """See Row."""
        return self.task_id, self.task_name


class LogEntry(Row):
    """A run that has ended. Times without UTC in their name are of the pod."""

    id: Id | None = None
    object_id: Name | None = Field(default=None, alias="objectId")
    object_name: Name | None = Field(default=None, alias="objectName")
    state: Number | None = None
    is_stopped: bool | None = Field(default=None, alias="isStopped")
    end_time_utc: str | None = Field(default=None, alias="endTimeUtc")
    success_source_rows: int | None = Field(default=None, alias="successSourceRows")
    failed_source_rows: int | None = Field(default=None, alias="failedSourceRows")
    success_target_rows: int | None = Field(default=None, alias="successTargetRows")
    failed_target_rows: int | None = Field(default=None, alias="failedTargetRows")
    error_msg: str | None = Field(default=None, alias="errorMsg")

    @property
    def of(self) -> tuple[str | None, str | None]:
        """See Row."""
        return self.object_id, self.object_name


class CodeTaskStatus(_Wire):
    """A code task's job: the fields of the document's table, and those of its samples."""

    status: str | None = None
    execution_state: str | None = Field(default=None, alias="executionState")
    code_task_id: str | None = Field(default=None, alias="codeTaskId")
    code_task_name: str | None = Field(default=None, alias="codeTaskName")
    agent_group_id: str | None = Field(default=None, alias="agentGroupId")
    instance_name: str | None = Field(default=None, alias="instanceName")
    asset_name: str | None = Field(default=None, alias="assetName")
    run_id: int | None = Field(default=None, alias="runId")
    org_id: str | None = Field(default=None, alias="orgId")
    started_by: str | None = Field(default=None, alias="startedBy")
    runtime_env_id: str | None = Field(default=None, alias="runtimeEnvId")
    start_time: str | None = Field(default=None, alias="startTime")
    update_time: str | None = Field(default=None, alias="updateTime")
    end_time: str | None = Field(default=None, alias="endTime")
    error_message: str | None = Field(default=None, alias="errorMessage")
    first_error_message: str | None = Field(default=None, alias="firstErrorMessage")
    session_log_url: str | None = Field(default=None, alias="sessionLogUrl")
    agent_job_log_url: str | None = Field(default=None, alias="agentJobLogUrl")
    advanced_log_location: str | None = Field(default=None, alias="advancedLogLocation")
    advanced_log_download_url: str | None = Field(default=None, alias="advancedLogDownloadUrl")
    assigned_serverless_compute_units: float | None = Field(default=None, alias="assignedServerlessComputeUnits")
    consumed_serverless_compute_units: float | None = Field(default=None, alias="consumedServerlessComputeUnits")

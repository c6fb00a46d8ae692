"""What comes from Informatica; what is not named here is kept as it came."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, populate_by_name=True)


class StartedJob(_Wire):
    """The answer to a start."""

    task_id: str | None = Field(default=None, alias="taskId")
    task_federated_id: str | None = Field(default=None, alias="taskFederatedId")
    task_name: str | None = Field(default=None, alias="taskName")
    run_id: int = Field(alias="runId")


class MonitorEntry(_Wire):
    """A run that lives."""

    id: str | None = None
    task_id: str | None = Field(default=None, alias="taskId")
    task_name: str | None = Field(default=None, alias="taskName")
    run_id: int | None = Field(default=None, alias="runId")
    start_time: str | None = Field(default=None, alias="startTime")
    start_time_utc: str | None = Field(default=None, alias="startTimeUtc")
    execution_state: str | None = Field(default=None, alias="executionState")


class LogEntry(_Wire):
    """A run that has ended. Times without UTC in their name are of the pod."""

    id: str | None = None
    object_id: str | None = Field(default=None, alias="objectId")
    object_name: str | None = Field(default=None, alias="objectName")
    run_id: int | None = Field(default=None, alias="runId")
    state: int | None = None
    is_stopped: bool | None = Field(default=None, alias="isStopped")
    start_time_utc: str | None = Field(default=None, alias="startTimeUtc")
    end_time_utc: str | None = Field(default=None, alias="endTimeUtc")
    success_source_rows: int | None = Field(default=None, alias="successSourceRows")
    failed_source_rows: int | None = Field(default=None, alias="failedSourceRows")
    success_target_rows: int | None = Field(default=None, alias="successTargetRows")
    failed_target_rows: int | None = Field(default=None, alias="failedTargetRows")
    error_msg: str | None = Field(default=None, alias="errorMsg")


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


def moment(text: str | None) -> datetime | None:
    """Read a timestamp, which is UTC where it names no zone; None for what is none."""
    try:
        read = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read

"""Product-Live's JSON as typed values (reference: product-live-api, "Objects"). Unknown fields are ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

Id = Annotated[str, Field(min_length=1, max_length=256)]


def _text_or_nothing(found: Any) -> str | None:
    return found.encode("utf-8", "backslashreplace").decode() if isinstance(found, str) else None


# What the worker can do without never costs it a claim: any other type than text reads as "not said".
TextOrNothing = Annotated[str | None, BeforeValidator(_text_or_nothing)]
# A description that is null must not hide all the tasks of the account.
Description = Annotated[str, BeforeValidator(lambda found: found or "")]


# 3600.0 is no number of seconds to a platform that counts them in whole numbers.
Number = Annotated[float, PlainSerializer(lambda number: int(number) if float(number).is_integer() else number)]


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class TaskExecution(_Wire):
    """A TaskExecutionDto, as far as the worker reads it."""

    id: Id
    task_id: TextOrNothing = None
    status: TextOrNothing = None
    input: Any = None
    output: Any = None


class PatchedExecution(_Wire):
    """What a PATCH answers, as far as the worker reads it; a platform that answers less is still believed."""

    status: TextOrNothing = None


class InputKey(_Wire):
    """A documented key of a task's input or output."""

    key: str
    description: Description = ""


class Task(_Wire):
    """A TaskDto: the definition of a custom task. Times are seconds; None where the platform says nothing."""

    id: Id
    key: str
    description: Description = ""
    retry_count: int | None = None
    timeout_seconds: float | None = None
    timeout_policy: str | None = None
    retry_logic: str | None = None
    retry_delay_seconds: float | None = None
    response_timeout_seconds: float | None = None
    poll_timeout_seconds: float | None = None
    concurrent_exec_limit: int | None = None
    backoff_scale_factor: float | None = None
    input_keys: Annotated[tuple[InputKey, ...], BeforeValidator(lambda found: found or ())] = ()
    output_keys: Annotated[tuple[InputKey, ...], BeforeValidator(lambda found: found or ())] = ()

    @property
    def longest_wait(self) -> float | None:
        """How long the platform waits for an outcome: both of its timeouts count from the poll; 0 is no limit."""
        limits = [limit for limit in (self.response_timeout_seconds, self.timeout_seconds) if limit and limit > 0]
        return min(limits, default=None)


class TaskDraft(_Wire):
    """What a task is created from, or replaced by: all that its author may say. None is not sent."""

    key: str
    description: str
    retry_count: Number = 0
    timeout_seconds: Number | None = None
    timeout_policy: str | None = None
    retry_logic: str | None = None
    retry_delay_seconds: Number | None = None
    response_timeout_seconds: Number | None = None
    poll_timeout_seconds: Number | None = None
    concurrent_exec_limit: Number | None = None
    backoff_scale_factor: Number | None = None
    input_keys: tuple[InputKey, ...] = ()
    output_keys: tuple[InputKey, ...] = ()


class TaskPage(_Wire):
    """A page of the account's tasks."""

    data: tuple[Task, ...]


class FileRecord(_Wire):
    """A FileDto, as far as the worker reads it."""

    id: TextOrNothing = None
    url: TextOrNothing = None
    filename: TextOrNothing = None

"""How a bundled handler reads the section `[tasks.<key>.settings]`: one call, so that it can move to the worker."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from product_live_worker import Context, TaskFailed

Model = TypeVar("Model", bound="HandlerSettings")


class HandlerSettings(BaseModel):
    """The settings of a handler: unknown names are mistakes, and values, which may be secrets, are never repeated."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def read_settings(model: type[Model], context: Context) -> Model:
    """Read the task's section; raises TaskFailed `invalid_settings`, naming each setting and what is allowed."""
    try:
        return model.model_validate(dict(context.settings))
    except ValidationError as error:
        problems = "; ".join(
            f"tasks.{context.task}.settings{''.join(f'.{part}' for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        )
    raise TaskFailed(f"The worker's settings of this task cannot be used: {problems}", code="invalid_settings")

"""What the settings of the bundled handlers have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class HandlerSettings(BaseModel):
    """A section `[tasks.<key>.settings]`: unknown names are mistakes, and no value, perhaps a secret, is repeated."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

"""The fields of a task definition: their types, what is left out, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from product_live_worker.sandbox.refusals import MalformedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from product_live_worker.sandbox.records import Json

# What Conductor, the engine underneath, takes for a field that was left out. Of these the sandbox obeys retryCount,
# retryDelaySeconds and the two timeouts of a claimed execution; the others are kept and shown.
DEFAULTS: Json = {
    "key": "",
    "description": "",
    "retryCount": 0,
    "timeoutSeconds": 0,
    "timeoutPolicy": "RETRY",
    "retryLogic": "FIXED",
    "retryDelaySeconds": 60,
    "responseTimeoutSeconds": 3600,
    "concurrentExecLimit": 0,
    "pollTimeoutSeconds": 0,
    "backoffScaleFactor": 1,
    "inputKeys": [],
    "outputKeys": [],
}
REQUIRED = ("key", "description", "retryCount", "inputKeys", "outputKeys")
CHOICES = {
    "timeoutPolicy": ("RETRY", "TIME_OUT_WF", "ALERT_ONLY"),
    "retryLogic": ("FIXED", "EXPONENTIAL_BACKOFF", "LINEAR_BACKOFF"),
}


def definition(given: Mapping[str, Any]) -> Json:
    """Complete what `given` describes; raises MalformedError for an unknown field or a wrong type."""
    if strangers := given.keys() - DEFAULTS.keys():
        raise MalformedError(f"unknown fields: {', '.join(sorted(strangers))}")
    for name, value in given.items():
        if not _fits(name, value):
            raise MalformedError(f"{name} is not acceptable")
    if not given.get("key"):
        raise MalformedError("key is missing")
    return {**DEFAULTS, **given}


def require_documented(given: Mapping[str, Any]) -> None:
    """Refuse what lacks a field of the documented minimal example."""
    if missing := [name for name in REQUIRED if name not in given]:
        raise MalformedError(f"missing fields: {', '.join(missing)}")


def _fits(name: str, value: Any) -> bool:
    match DEFAULTS[name]:
        case str():
            return isinstance(value, str) and value in CHOICES.get(name, (value,))
        case int():
            return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        case _:
            return isinstance(value, list) and all(_is_described_key(item) for item in value)


def _is_described_key(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and item.keys() == {"key", "description"}
        and all(isinstance(t, str) for t in item.values())
    )

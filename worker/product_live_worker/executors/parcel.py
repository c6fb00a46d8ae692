"""An execution on its way to another process, on this machine or another: what goes there, and what is heard back."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from product_live_worker.model.context import Log, Verb
from product_live_worker.model.execution import Outcome, Status

if TYPE_CHECKING:
    from product_live_worker.executors.perform import Work

CARRIED = ("execution_id", "task", "deadline", "settings", "idempotency_key", "checkpoint", "connection", "directory")
LEVELS = {level: level for level in ("debug", "info", "warning", "error")}


class Parcel(TypedDict):
    """What another process has to know to run an execution."""

    task: str
    execution: str
    module: str
    """Where the handler is found."""
    handler: str
    raw: Any
    context: bytes
    """Pickled by itself: the classes that settings are made of can be read once the handler's module is there."""
    verbs: tuple[str, ...]
    max_output: int
    memory_limit: int | None


def packed(work: Work) -> Parcel:
    """Pack an execution; raises whatever pickling its settings does."""
    return Parcel(
        task=work.context.task,
        execution=work.context.execution_id,
        module=work.handler.module,
        handler=work.handler.name,
        raw=work.raw,
        context=pickle.dumps({name: getattr(work.context, name) for name in CARRIED}),
        verbs=tuple(work.context.verbs),
        max_output=work.max_output,
        memory_limit=work.handler.memory_limit,
    )


class RaisedElsewhere(Exception):
    """An exception that escaped a handler in its process; its text is the traceback from there."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class VerbRefused(Exception):
    """What the worker was asked for, it has not done; the text is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who hears what a handler says and asks while it runs elsewhere, and trusts none of it."""

    log: Log
    verbs: Mapping[str, Verb]
    failed: Callable[[BaseException], None]

    async def hear(self, said: Mapping[str, Any]) -> dict[str, Any] | None:
        """Do what was said; gives the answer where one is asked for.

        Raises ValueError, KeyError, TypeError or AttributeError for what makes no sense.
        """
        match said["do"]:
            case "log":
                fields = {str(name): value for name, value in said["fields"].items() if name != "event"}
                getattr(self.log, LEVELS[said["level"]])(str(said["event"]), **fields)
            case "failed":
                self.failed(RaisedElsewhere(str(said["traceback"])))
            case "ask":
                verb = self.verbs[said["verb"]]
                try:
                    return {"answer": await verb(said["argument"]), "error": ""}
                except VerbRefused as refused:
                    return {"answer": None, "error": str(refused)}
                except Exception as refused:  # noqa: BLE001 (whatever it is, it is the handler's to hear)
                    return {"answer": None, "error": f"{type(refused).__name__}: {refused}"}
            case unknown:
                raise ValueError(unknown)
        return None


def listener_of(work: Work) -> Listener:
    """Let the execution's own log and verbs hear it."""
    return Listener(log=work.context.log, verbs=work.context.verbs, failed=work.failed)


def outcome_of(said: Mapping[str, Any]) -> Outcome:
    """Read an outcome; raises ValueError, KeyError or TypeError for what is none."""
    return Outcome(Status(said["status"]), dict(said["output"]))


def not_packed(error: Exception) -> Outcome:
    """Say that an execution cannot leave this process."""
    why = f"The execution cannot be handed to a process: {type(error).__name__}: {error}"
    return Outcome.failed("handler_error", why[:1000])

"""One execution of a handler, from its raw input to its Outcome: the line where exceptions become values."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import anyio
from pydantic import ValidationError

from product_live_worker.executors.attempts import attempted
from product_live_worker.executors.resources import Resources, ResourceUnavailable
from product_live_worker.model.context import Context
from product_live_worker.model.execution import Outcome
from product_live_worker.model.explain import explain, shorten
from product_live_worker.model.handler import Handler
from product_live_worker.model.refusal import TaskFailed

Call = Callable[[Context], Any]
"""The handler with all that it takes but the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What an executor is given: a handler, the input as the platform sent it, and the context."""

    handler: Handler
    raw: Any
    context: Context
    max_output: int
    """Bytes of JSON."""
    failed: Callable[[BaseException], None]
    """Hears of an exception that escaped the handler."""

    async def outcome(self, call: Callable[[Call], Awaitable[Any]], resources: Resources) -> Outcome:
        """Validate the input, open what the handler shares, call it, validate the output; gives the Outcome.

        Raises nothing but the caller's own cancellation, and KeyboardInterrupt.
        """
        try:
            argument = self.handler.read_input(self.raw)
        except ValidationError as error:
            return Outcome.failed("invalid_input", "The input cannot be used: " + explain(error))
        except Exception as error:  # noqa: BLE001 (a defect of a validator in the handler's own model)
            self.failed(error)
            return Outcome.failed("handler_error", f"The handler failed to read its input: {type(error).__name__}")
        try:
            made = partial(self.handler.call, argument, opened=await resources.of(self.handler, self.context))
            result = await attempted(lambda: call(made), self.handler.retry, self.context)
        except TaskFailed as refusal:
            return _refused(refusal, self.max_output)
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            self.failed(error)
            return Outcome.failed("handler_error", "The handler ended by a cancellation of its own.")
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (whatever a handler raises, sys.exit() too, is its outcome)
            self.failed(error)
            return Outcome.failed("handler_error", _told(error))
        return _completed(self.handler, result, self.max_output)


class HandlerLost(Exception):
    """The place where a handler ran was lost, by no fault of its own; `outcome` is what is left to say of it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


class Executor(Protocol):
    """A way to run handlers."""

    async def run(self, work: Work) -> Outcome:
        """Run the handler and give its Outcome; when the caller is cancelled, so is the handler, if it can be.

        Raises HandlerLost where it runs elsewhere, and that place is lost.
        """

    def overdue(self, task: str) -> int:
        """Count the task's calls that run on although they were given up."""

    def trouble(self) -> str:
        """Say why nothing can be run just now; nothing is claimed meanwhile. Empty when all is well."""


async def perform(
    executors: Mapping[str, Executor],
    handler: Handler,
    raw: Any,
    context: Context,
    *,
    timeout: float,
    max_output: int,
    failed: Callable[[BaseException], None],
) -> Outcome:
    """Run the handler on its raw input, within `timeout` seconds, in the way it asks for; gives the Outcome.

    Raises nothing but the caller's own cancellation, and HandlerLost. `failed` hears of an exception that escaped the
    handler.
    """
    work = Work(handler=handler, raw=raw, context=context, max_output=max_output, failed=failed)
    with anyio.move_on_after(timeout):
        return await executors[handler.isolation].run(work)
    return Outcome.failed("timeout", f"The handler did not end within {round(timeout, 2):g} s and was stopped.")


def _completed(handler: Handler, result: Any, max_output: int) -> Outcome:
    try:
        output = handler.write_output(result)
        size = len(json.dumps(output, allow_nan=False))
        # Half a character, as in the name of a file that is no UTF-8, is no text to the platform.
        json.dumps(output, ensure_ascii=False).encode()
    except ValidationError as error:
        return Outcome.failed("invalid_output", "The handler's result is not what it declares: " + explain(error))
    except Exception as error:  # noqa: BLE001 (a serializer in the handler's own model may raise anything)
        why = _sentence("The handler's result cannot be written as JSON: ", _name(error))
        return Outcome.failed("invalid_output", why)
    if not isinstance(output, dict):
        found = type(output).__name__
        return Outcome.failed(
            "invalid_output", f"The handler's result must be an object with named values; found {found}."
        )
    if size > max_output:
        return Outcome.failed(
            "output_too_large",
            f"The output has {size} bytes; at most {max_output} are allowed (execution.max_output). "
            f"Upload it as a file and return the file instead.",
        )
    return Outcome.completed(output)


def _refused(refusal: TaskFailed, max_output: int) -> Outcome:
    code, message = _sentence(refusal.code), _sentence(refusal.message)
    outcome = Outcome.failed(code, message, refusal.output)
    try:
        fits = len(json.dumps(outcome.output, allow_nan=False)) <= max_output
    except (ValueError, TypeError, RecursionError):
        fits = False
    # The refusal counts for more than what came with it.
    return outcome if fits else Outcome.failed(code, message)


def _told(error: BaseException) -> str:
    if isinstance(error, ResourceUnavailable) and error.__cause__ is not None:
        return _sentence(f"The handler's resource {error.args[0]!r} cannot be opened: ", _name(error.__cause__))
    return _sentence("The handler failed: ", _name(error))


def _name(error: BaseException) -> str:
    said = _text(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _text(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 (an exception that cannot even say what it is)
        return ""
    return text.encode("utf-8", "backslashreplace").decode()


def _sentence(*parts: object) -> str:
    return shorten("".join(_text(part) for part in parts))

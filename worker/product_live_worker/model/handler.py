"""What makes a function a handler: `@handler`."""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from product_live_worker.model.context import Context
from product_live_worker.model.errors import SettingsError
from product_live_worker.model.execution import OnCrash, OnRepeat
from product_live_worker.model.handler_settings import read_settings
from product_live_worker.model.resource import Resource, resource_of
from product_live_worker.model.retry import Retry

PLATFORM_KEYS = frozenset({"eventCorrelationId", "context"})
"""Keys that the platform adds to an input; they never make validation fail."""

Isolation = Literal["loop", "thread", "process", "dask"]

SMALLEST_MEMORY = 100_000_000
_SIZES = {"": 1, "kb": 1000, "mb": 1_000_000, "gb": 1_000_000_000}

LONGEST_TIMEOUT = 3650 * 86400.0
"""Seconds; a later deadline is no date."""


@dataclass(frozen=True)
class Handler:
    """A registered handler: the function, and how it wants to be run. Call it as the function that it is."""

    name: str
    function: Callable[..., Any]
    input_type: Any = dict
    output_type: Any = None
    isolation: Isolation = "loop"
    concurrency: int = 1
    timeout: float = 600.0
    explicit: bool = False
    on_crash: OnCrash = "fail"
    on_repeat: OnRepeat = "run"
    takes_context: bool = False
    retry: Retry | None = None
    resources: Mapping[str, Resource] = field(default_factory=dict)
    """What its further parameters are opened by."""
    settings_type: type[BaseModel] | None = None
    """What `context.settings` is; None is the section as it is."""
    memory_limit: int | None = None
    """Bytes that a handler's own process may occupy; None is no limit."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def is_async(self) -> bool:
        """Whether a call gives a coroutine."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def module(self) -> str:
        """The name of the module in which the function is defined."""
        return str(getattr(self.function, "__module__", ""))

    def call(self, argument: Any, context: Context, opened: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """Call the function with all that it takes, its open resources too; gives a coroutine if it is `async`."""
        return self.function(argument, **({"context": context} if self.takes_context else {}), **opened)

    def read_settings(self, section: Mapping[str, Any]) -> Any:
        """Give the section `[tasks.<key>.settings]` as the handler wants it; raises SettingsError."""
        return read_settings(self.settings_type, section)

    def read_connection(self, settings: Any, connections: Mapping[str, Mapping[str, Any]]) -> Any:
        """Give the section `[connections.<name>]` that these settings name, as the handler's resource wants it.

        None where no resource asks for one. Raises SettingsError, naming each setting as `connections.<name>.…`.
        """
        kind = next((found.connection for found in self.resources.values() if found.connection is not None), None)
        if kind is None:
            return None
        name = str(getattr(settings, "connection", ""))
        if name not in connections:
            known = ", ".join(sorted(connections)) or "none"
            raise SettingsError(f"connections.{name}: there is no such section; there are: {known}")
        try:
            return read_settings(kind, connections[name])
        except SettingsError as error:
            raise SettingsError(*(f"connections.{name}.{problem}" for problem in error.problems)) from None

    def prepare(self) -> None:
        """Read the types of input and output now; raises pydantic.PydanticUserError for one that cannot be read."""
        _ = self._input, self._output

    @cached_property
    def _input(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.input_type)

    @cached_property
    def _output(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.output_type)

    def read_input(self, raw: Any) -> Any:
        """Turn an execution's input into the handler's first argument; raises pydantic.ValidationError."""
        try:
            return self._input.validate_python(raw)
        except ValidationError as error:
            problems = [p for p in error.errors() if p["loc"]]
            strange = PLATFORM_KEYS & {p["loc"][-1] for p in problems if p["type"] in _STRANGE_KEY}
            if typing.get_origin(self.input_type) is dict:
                # Of a dict[str, int], the platform's texts are no part.
                strange |= PLATFORM_KEYS & {p["loc"][0] for p in problems}
            if not strange or not isinstance(raw, dict):
                raise
        return self._input.validate_python({key: value for key, value in raw.items() if key not in strange})

    def write_output(self, result: Any) -> Any:
        """Turn a handler's result into JSON values; raises pydantic.ValidationError or ValueError."""
        if result is None and self.output_type is dict:
            return {}
        validated = self._output.validate_python(result)
        written = self._dump(validated)
        # pydantic writes NaN as null, silently, where a type does not say float.
        if any(_is_no_number(value) for value in _leaves(self._output.dump_python(validated, warnings="none"))):
            raise ValueError("NaN and Infinity are no JSON")
        return {} if written is None else written

    def _dump(self, result: Any) -> Any:
        try:
            return self._output.dump_python(result, mode="json", by_alias=True, warnings="error")
        except PydanticSerializationError:
            # A model that was changed after it was made is read again, as its type says.
            changed = self._output.dump_python(result, mode="json", by_alias=True, warnings="none")
        return self._output.dump_python(self._output.validate_python(changed), mode="json", by_alias=True)

    def input_schema(self) -> dict[str, Any]:
        """Give the JSON schema of the input."""
        return self._input.json_schema()

    def output_schema(self) -> dict[str, Any]:
        """Give the JSON schema of the output."""
        return self._output.json_schema(mode="serialization")


def handler(
    name: str,
    *,
    concurrency: int = 1,
    timeout: float = 600.0,
    explicit: bool = False,
    on_crash: OnCrash = "fail",
    on_repeat: OnRepeat = "run",
    isolation: Literal["process", "dask"] | None = None,
    memory_limit: int | str | None = None,
    retry: Retry | None = None,
    settings: type[BaseModel] | None = None,
) -> Callable[[Callable[..., Any]], Handler]:
    """Make a function the handler of the task with the key `name`.

    The function's first parameter is a pydantic model (or `dict`), its result a model, `dict` or None. An `async def`
    runs on the event loop, a `def` in a thread. A parameter called `context` receives the Context; further ones are
    annotated with `resource(…)`.

    `concurrency`: executions at once. `timeout`: seconds until FAILED with code `timeout`. `explicit`: never matched to
    a task by its key alone, it needs a `[tasks.…]` section. `on_crash`: what becomes of an execution that was running
    when the worker's process died: "fail" reports FAILED with code `worker_restarted`, "rerun" runs it again, with
    its last checkpoint in `context.checkpoint`. `on_repeat`: what becomes of a retry by the platform, which comes under
    a new id with the same `context.idempotency_key`: "run" runs it, "adopt" ends it as the earlier one COMPLETED, or
    waits for it while it runs, "refuse" fails it with code `repeated` in both cases. Equal turns of a loop inside one
    job have the same key too.

    `isolation="process"`: run the function, `def` or `async def`, in a process of its own, which is killed when it is
    late and whose crash is FAILED with code `handler_crashed`. It imports the module that the function is in, so the
    handler has to be found at the top of it. `memory_limit`: what that process may occupy, as "512MB" or a number of
    bytes; above, it is killed (on Linux, where the worker can see it).

    `isolation="dask"`: the same, but the process runs beside a worker of the Dask cluster that the setting
    `execution.dask_scheduler` names. docs/dask.md says what the cluster needs.

    `retry`: errors after which the function is called again, within the same claim and before its deadline.

    `settings`: a pydantic model that `[tasks.<key>.settings]` is read as, when the worker starts; in a SecretStr,
    `{ file = "/run/secrets/name" }` is the text of that file. `context.settings` is then of this model.

    Raises TypeError for a function or an option that cannot be used.
    """
    if not _is(str, name) or not name.strip():
        raise TypeError(f"@handler needs the task's key as a text, as in @handler('power'); found {name!r}")
    for problem in _problems(
        concurrency=concurrency,
        timeout=timeout,
        on_crash=on_crash,
        on_repeat=on_repeat,
        isolation=isolation,
        retry=retry,
        settings=settings,
    ):
        raise TypeError(f"handler {name!r}: {problem}")
    memory = None if memory_limit is None else _memory(name, memory_limit)
    if memory is not None and isolation is None:
        raise TypeError(
            f"handler {name!r}: memory_limit needs isolation='process' or isolation='dask': threads share their memory"
        )

    def register(function: Callable[..., Any]) -> Handler:
        input_type, output_type, takes_context, resources = _signature(name, function)
        made = Handler(
            name=name,
            function=function,
            input_type=input_type,
            output_type=output_type,
            isolation=isolation or ("loop" if inspect.iscoroutinefunction(function) else "thread"),
            concurrency=concurrency,
            timeout=float(timeout),
            explicit=explicit,
            on_crash=on_crash,
            on_repeat=on_repeat,
            takes_context=takes_context,
            retry=retry,
            resources=resources,
            settings_type=settings,
            memory_limit=memory,
        )
        if isolation is not None and "<locals>" in getattr(function, "__qualname__", "<locals>"):
            raise TypeError(
                f"handler {name!r}: with isolation={isolation!r} the function stands at the top of a module, where its "
                f"own process can import it"
            )
        try:
            made.prepare()
        except PydanticUserError as error:
            raise TypeError(f"handler {name!r}: pydantic cannot read its types: {error}") from error
        return made

    return register


def _problems(
    *, concurrency: Any, timeout: Any, on_crash: Any, on_repeat: Any, isolation: Any, retry: Any, settings: Any
) -> Iterator[str]:
    if not _is(int, concurrency) or concurrency < 1:
        yield f"concurrency is a whole number from 1; found {concurrency!r}"
    if not _is(int | float, timeout) or not 0 < timeout <= LONGEST_TIMEOUT:
        longest = f"{LONGEST_TIMEOUT:.0f} (ten years)"
        yield f"timeout is a number of seconds above 0, at most {longest}; found {timeout!r}"
    if on_crash not in typing.get_args(OnCrash):
        yield f"on_crash is 'fail' or 'rerun'; found {on_crash!r}"
    if on_repeat not in typing.get_args(OnRepeat):
        yield f"on_repeat is 'run', 'adopt' or 'refuse'; found {on_repeat!r}"
    if isolation not in (None, "process", "dask"):
        yield f"isolation is 'process', 'dask' or left out; found {isolation!r}"
    if not isinstance(retry, Retry | None):
        yield f"retry is a Retry, as Retry(attempts=3, on=(OSError,)); found {retry!r}"
    if settings is not None and not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        yield f"settings is a pydantic model, as settings=MySettings; found {settings!r}"


def _is(kind: Any, value: object) -> bool:
    # Who writes a handler may not check types, and True is not the number 1.
    return isinstance(value, kind) and not isinstance(value, bool)


def _memory(name: str, limit: int | str) -> int:
    match = re.fullmatch(r"([0-9]+) ?(kB|MB|GB)?", str(limit).strip(), re.IGNORECASE)
    size = int(match[1]) * _SIZES[(match[2] or "").lower()] if match and _is(int | str, limit) else 0
    if size < SMALLEST_MEMORY:
        raise TypeError(
            f"handler {name!r}: memory_limit is a number of bytes, or a text such as '512MB' or '2GB', of at least "
            f"{SMALLEST_MEMORY // 1_000_000}MB, which a process takes for itself; found {limit!r}"
        )
    return size


def _signature(name: str, function: Callable[..., Any]) -> tuple[Any, Any, bool, dict[str, Resource]]:
    if not callable(function):
        raise TypeError(f"@handler({name!r}) stands above a function; found {function!r}")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"handler {name!r}: the annotation {error.name!r} cannot be found; define or import it at the top of "
            f"the module, outside of any function and of `if TYPE_CHECKING:`"
        ) from error
    resources = {parameter: found for parameter, hint in hints.items() if (found := resource_of(hint)) is not None}
    if len({found.connection for found in resources.values()} - {None}) > 1:
        raise TypeError(f"handler {name!r}: its resources ask for connections of several kinds; one is allowed")
    others = {"context", *resources}
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in others]
    if len(parameters) != 1 or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise TypeError(
            f"handler {name!r}: the function takes its input first and, if it wants, `context` and parameters "
            f"annotated with Annotated[…, resource(…)]; "
            f"found {function.__name__}{inspect.signature(function)}"
        )
    context = inspect.signature(function).parameters.get("context")
    if context is not None and context.kind not in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    ):
        raise TypeError(f"handler {name!r}: `context` is passed by its name; found {inspect.signature(function)}")
    return hints.get(parameters[0].name, dict), hints.get("return", Any), context is not None, resources


_STRANGE_KEY = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
"""What pydantic calls a key that a model, or a dataclass, does not allow."""


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _leaves(value: Any) -> Iterator[Any]:
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            rest.extend(value)
        else:
            yield value

"""The control API under /sandbox/: for tests and developers; needs no key, is neither counted nor noted."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from product_live_worker.sandbox.refusals import MalformedError, RefusalError
from product_live_worker.sandbox.wire import parse_object

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from product_live_worker.sandbox.faults import Faults
    from product_live_worker.sandbox.world import Settings, World


def control_app(world: World, faults: Faults, clock: Callable[[], float]) -> Starlette:
    """Build the control API over this world."""
    control = _Control(world, faults, clock)
    routes = [
        Route("/sandbox/tasks", control.create_task, methods=["POST"]),
        Route("/sandbox/executions", control.submit, methods=["POST"]),
        Route("/sandbox/executions", control.executions),
        Route("/sandbox/executions/{id}", control.execution),
        Route("/sandbox/files", control.files),
        Route("/sandbox/log", control.log),
        Route("/sandbox/requests", control.requests),
        Route("/sandbox/settings", control.settings),
        Route("/sandbox/settings", control.configure, methods=["PUT"]),
        Route("/sandbox/faults", control.faults),
        Route("/sandbox/faults", control.add_faults, methods=["POST"]),
        Route("/sandbox/faults", control.clear_faults, methods=["DELETE"]),
        Route("/sandbox/reset", control.reset, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={RefusalError: _refuse})


class _Control:
    def __init__(self, world: World, faults: Faults, clock: Callable[[], float]) -> None:
        self._world = world
        self._faults = faults
        self._clock = clock

    async def create_task(self, request: Request) -> Response:
        fields = parse_object(await request.body())
        return JSONResponse(self._world.create_task(fields, self._clock()).public(), 201)

    async def submit(self, request: Request) -> Response:
        match parse_object(await request.body()):
            case {"task": str(task), "inputs": list(inputs), **rest} if not rest:
                pass
            case {"task": str(task), "input": given, **rest} if not rest:
                inputs = [given]
            case _:
                raise MalformedError('needs "task" and either "input" or "inputs"')
        if not all(isinstance(given, dict) for given in inputs):
            raise MalformedError("an input must be an object")
        now = self._clock()
        return JSONResponse({"ids": [self._world.submit(task, given, now).id for given in inputs]}, 201)

    async def executions(self, _: Request) -> Response:
        self._world.advance(self._clock())
        return JSONResponse({"executions": [execution.inside() for execution in self._world.executions.values()]})

    async def execution(self, request: Request) -> Response:
        return JSONResponse(self._world.execution(request.path_params["id"], self._clock()).inside())

    async def files(self, _: Request) -> Response:
        return JSONResponse({"files": [file.inside() for file in self._world.files.values()]})

    async def log(self, _: Request) -> Response:
        return JSONResponse({"log": [line.inside() for line in self._world.log]})

    async def requests(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        if not since.isdecimal():
            raise MalformedError("since must be a whole number")
        limiter = self._world.limiter
        return JSONResponse(
            {
                "now": self._clock(),
                "requests": [arrival.inside() for arrival in self._world.arrivals[int(since) :]],
                "largest_window": limiter.largest_window,
                "refused": limiter.refused,
            }
        )

    async def settings(self, _: Request) -> Response:
        return JSONResponse(asdict(self._world.settings))

    async def configure(self, request: Request) -> Response:
        self._world.configure(_changed(self._world.settings, parse_object(await request.body())))
        return await self.settings(request)

    async def faults(self, _: Request) -> Response:
        return JSONResponse({"faults": self._faults.inside()})

    async def add_faults(self, request: Request) -> Response:
        body = parse_object(await request.body())
        specifications = body.get("faults", [body])
        if not isinstance(specifications, list) or not all(isinstance(item, dict) for item in specifications):
            raise MalformedError("faults must be a list of objects")
        self._faults.extend(specifications)
        return JSONResponse({"faults": self._faults.inside()}, 201)

    async def clear_faults(self, request: Request) -> Response:
        self._faults.clear()
        return await self.faults(request)

    async def reset(self, _: Request) -> Response:
        self._world.forget()
        self._faults.clear()
        return JSONResponse({})


async def _refuse(_: Request, refusal: Exception) -> Response:
    return JSONResponse({"message": str(refusal)}, getattr(refusal, "status", 400))


def _changed(settings: Settings, changes: dict[str, Any]) -> Settings:
    for name, value in changes.items():
        if name not in _ACCEPTABLE or not _ACCEPTABLE[name](value):
            raise MalformedError(f"{name} is not acceptable")
    return replace(settings, **changes)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


_ACCEPTABLE: dict[str, Callable[[Any], bool]] = {
    "key": lambda value: isinstance(value, str),
    "limit": lambda value: _is_number(value) and isinstance(value, int),
    "window": lambda value: _is_number(value) and value > 0,
    "scope": lambda value: value in ("account", "resource"),
    "latency": _is_number,
    "max_upload": lambda value: _is_number(value) and isinstance(value, int),
}

"""The HTTP face: `/livez`, `/readyz`, `/metrics`, `/status`, and `/` that points to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from product_live_worker.ops.health import Check, Health, verdict
from product_live_worker.ops.status import Status, check_line
from product_live_worker.telemetry.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from starlette.requests import Request

FRONT = """\
product-live-worker {version} on {platform}
{verdict}

/status   everything, as JSON
/readyz   whether work goes on as it should, and if not, why and what to do
/livez    whether the process gets on at all
/metrics  for Prometheus
"""


def create_app(health: Health, status: Status, metrics: Metrics) -> Starlette:
    """Build the application; it only reads."""

    async def livez(_: Request) -> Response:
        return _answer(health.live())

    async def readyz(_: Request) -> Response:
        return _answer(health.ready())

    async def metrics_text(_: Request) -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def status_document(_: Request) -> Response:
        return JSONResponse(status.document(), headers={"Cache-Control": "no-store"})

    async def front(_: Request) -> Response:
        text = FRONT.format(version=status.version, platform=status.platform, verdict=verdict(health.ready()))
        return PlainTextResponse(text)

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", metrics_text),
            Route("/status", status_document),
            Route("/", front),
        ]
    )


def _answer(checks: list[Check]) -> Response:
    ok = all(check.ok for check in checks)
    body = {"ok": ok, "verdict": verdict(checks), "checks": [check_line(check) for check in checks]}
    return JSONResponse(body, status_code=200 if ok else 503, headers={"Cache-Control": "no-store"})

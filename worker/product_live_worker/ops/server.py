"""The HTTP face: `/livez`, `/readyz`, `/metrics`, `/status`, and the operator's page at `/`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from product_live_worker.ops.health import Check, Health, verdict
from product_live_worker.ops.page.routes import Page
from product_live_worker.ops.status import Status, check_line
from product_live_worker.telemetry.metrics import CONTENT_TYPE, Metrics
from product_live_worker.telemetry.redaction import Secrets, redacted

if TYPE_CHECKING:
    from starlette.requests import Request

FRONT = """\
product-live-worker {version} on {platform}
{verdict}
{cure}
{running} running, {claimed} claimed, {reports_waiting} to report, {undeliverable} undeliverable; \
{used} of {limit} requests used

/         this, for a browser: the operator's page
/status   everything, as JSON
/readyz   whether work goes on as it should, and if not, why and what to do
/livez    whether the process gets on at all
/metrics  for Prometheus
"""


def create_app(health: Health, status: Status, metrics: Metrics, page: Page, secrets: Secrets) -> Starlette:
    """Build the application; `secrets` gives what no answer may hold."""

    async def livez(_: Request) -> Response:
        return answer(health.live())

    async def readyz(_: Request) -> Response:
        return answer(health.ready())

    async def metrics_text(_: Request) -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def status_document(request: Request) -> Response:
        return as_json(status.document(request.query_params.get("task", "")))

    async def front(request: Request) -> Response:
        if "text/html" in request.headers.get("Accept", ""):
            return await page.front(request)
        document = status.document()
        told = next((check for check in document["checks"] if "cure" in check), None)
        counts = {**document["executions"], "used": document["budget"]["used"], "limit": document["budget"]["limit"]}
        text = FRONT.format(
            version=status.version,
            platform=status.platform,
            verdict=document["verdict"],
            cure=told["cure"] if told else "",
            **counts,
        )
        return PlainTextResponse(
            redacted(text, secrets()).encode("utf-8", "backslashreplace"), headers={"Vary": "Accept"}
        )

    def answer(checks: list[Check]) -> Response:
        ok = all(check.ok for check in checks)
        body = {"ok": ok, "verdict": verdict(checks), "checks": [check_line(check) for check in checks]}
        return as_json(body, 200 if ok else 503)

    def as_json(value: Any, code: int = 200) -> Response:
        # Written in ASCII: half a character, as the platform may send it, could be written in no other way.
        text = redacted(json.dumps(value, separators=(",", ":")), secrets())
        return Response(text, code, media_type="application/json", headers={"Cache-Control": "no-store"})

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", metrics_text),
            Route("/status", status_document),
            Route("/", front),
            *page.routes(),
        ]
    )

"""The section `[connections.<name>]` of an Informatica organization, and how its session is had and ended."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Literal

import anyio
from pydantic import Field, SecretStr, model_validator

from product_live_handlers.informatica.client import InformaticaClient, Signed, explain
from product_live_handlers.remote_http import (
    Answer,
    Connection,
    HostUrl,
    LoginRefused,
    Refused,
    RemoteError,
    Session,
    Wire,
    a_host_url,
    first_text,
    open_wire,
)
from product_live_handlers.remote_job import Clock

IDLE = 25 * 60.0
"""Seconds without a request after which a session is not used again; Informatica ends it after 30 minutes."""
EARLY = 60.0
"""Seconds before its end at which a session that ends by itself is not used any more."""
LEAVING = 3.0
"""Seconds for the logout."""


class InformaticaConnection(Connection):
    """An organization, and who we are there."""

    login_url: HostUrl
    """https://<pod>.informaticacloud.com, as dm-us.informaticacloud.com"""
    username: str = Field(min_length=1)
    password: SecretStr
    auth: Literal["v2", "v3", "ids"] = "v3"
    """Which of the three logins; "ids" needs base_url."""
    product: str = "Integration Cloud"
    """v3: the product whose address counts."""
    base_url: HostUrl | None = None
    """Where the API is (…/saas); by default what the login says."""
    code_task_url: HostUrl | None = None
    """Where code tasks are; by default the same without /saas."""
    cancel_path: str | None = Field(default=None, pattern=r"^/.*\{job_id\}")
    """How a code task's job is cancelled, as /disnext/api/v1/CodeTask/Cancel/{job_id}: no document says it."""

    @model_validator(mode="after")
    def _complete(self) -> InformaticaConnection:
        if self.auth == "ids" and self.base_url is None:
            raise ValueError("auth = 'ids' needs base_url: that login does not say where the API is")
        return self


LOGINS = {
    "v2": "/ma/api/v2/user/login",
    "v3": "/saas/public/core/v3/login",
    "ids": "/identity-service/api/v1/Login",
}


async def _login(connection: InformaticaConnection, wire: Wire, clock: Clock) -> tuple[Signed, float]:
    body: dict[str, Any] = {"@type": "login"} if connection.auth == "v2" else {}
    body |= {"username": connection.username, "password": connection.password.get_secret_value()}
    url = f"{connection.login_url}{LOGINS[connection.auth]}"
    try:
        answer = await wire.send("POST", url, headers={}, content=body)
    except Refused as refused:
        raise LoginRefused(f"the login is refused: {refused}", status=refused.status, code=refused.code) from None
    name, base = _said(connection, answer)
    base = connection.base_url or base
    if not name or not base:
        _, text, _ = explain(answer.status, answer.body)
        raise LoginRefused(wire.clean(f"the login gave no session. {text}"), status=answer.status)
    try:
        base = a_host_url(base)
    except ValueError as error:
        raise LoginRefused(f"the login gave an address for the API that {error}", status=answer.status) from None
    until = _until(name) or _moment(answer.body, "sessionExpireTime")
    root = connection.code_task_url or base.removesuffix("/saas")
    lasts = IDLE if until is None else max(1.0, until - clock.now() - EARLY)
    return Signed(name, base, root, idle=IDLE if until is None else None), lasts


def _said(connection: InformaticaConnection, answer: Answer) -> tuple[str, str]:
    """Give the session's id, and where the API is."""
    body = answer.body if isinstance(answer.body, dict) else {}
    if connection.auth == "v2":
        return first_text(body, ("icSessionId",)), first_text(body, ("serverUrl",))
    if connection.auth == "ids":
        return first_text(body, ("sessionId",)), ""
    products = body.get("products") or []
    bases = [p.get("baseApiUrl") for p in products if isinstance(p, dict) and p.get("name") == connection.product]
    return first_text(body.get("userInfo"), ("sessionId",)), str(bases[0]) if bases and bases[0] else ""


def _until(name: str) -> float | None:
    """Give when a session ends whose id is a JWT, as an administrator may have it since 2025; None for any other."""
    parts = name.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "==")) if len(parts) == 3 else {}
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _moment(body: Any, name: str) -> float | None:
    try:
        return datetime.fromisoformat(first_text(body, (name,))).timestamp()
    except (ValueError, OverflowError):
        return None


@asynccontextmanager
async def open_informatica(connection: InformaticaConnection) -> AsyncIterator[InformaticaClient]:
    """Open an organization, for all executions that use it; the session is ended with it."""
    async with open_wire("Informatica", connection, explain) as wire:
        clock = Clock()
        session = Session(lambda: _login(connection, wire, clock), clock.now)
        client = InformaticaClient(
            wire,
            session,
            username=connection.username,
            login_url=connection.login_url,
            cancel_path=connection.cancel_path,
            auth=connection.auth,
        )
        try:
            yield client
        finally:
            with anyio.move_on_after(LEAVING, shield=True), suppress(RemoteError):
                await client.logout()

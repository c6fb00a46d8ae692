"""The section `[connections.<name>]` of a Commerce Cloud instance, and how its token is had."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote_plus

from pydantic import Field, SecretStr

from product_live_handlers.remote_http import (
    Connection,
    HostUrl,
    LoginRefused,
    Refused,
    Session,
    Wire,
    first_text,
    open_wire,
    seconds_of,
)
from product_live_handlers.remote_job import Clock
from product_live_handlers.salesforce.client import OcapiClient, explain

EARLY = 60.0
"""Seconds before its end at which a token is not used any more."""


class SalesforceConnection(Connection):
    """An instance, and the API client that we are there."""

    url: HostUrl
    """https://<host of the instance>"""
    ocapi_version: str = Field(default="v25_6", pattern=r"^v\d{2}_\d{1,2}$")
    base_path: str = Field(default="/s/-/dw/data", pattern=r"^(/[\w.-]+)*$")
    token_url: HostUrl = "https://account.demandware.com/dwsso/oauth2/access_token"  # noqa: S105 (an address)
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    scopes: tuple[str, ...] = ()


async def _token(connection: SalesforceConnection, wire: Wire) -> tuple[str, float]:
    form: dict[str, str] = {"grant_type": "client_credentials"}
    form |= {"scope": " ".join(connection.scopes)} if connection.scopes else {}
    # Written as in a form before they are encoded: RFC 6749, 2.3.1.
    pair = f"{quote_plus(connection.client_id)}:{quote_plus(connection.client_secret.get_secret_value())}"
    headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    try:
        answer = await wire.send("POST", connection.token_url, headers=headers, form=form)
    except Refused as refused:
        raise LoginRefused(f"the login is refused: {refused}", status=refused.status, code=refused.code) from None
    token = first_text(answer.body, ("access_token",))
    if not token:
        raise LoginRefused("the login gave no access_token", status=answer.status)
    return token, max(1.0, seconds_of(answer, "expires_in", 1799) - EARLY)


@asynccontextmanager
async def open_salesforce(connection: SalesforceConnection) -> AsyncIterator[OcapiClient]:
    """Open an instance, for all executions that use it."""
    async with open_wire("Commerce Cloud", connection, explain) as wire:
        session: Any = Session(lambda: _token(connection, wire), Clock().now)
        yield OcapiClient(
            f"{connection.url}{connection.base_path}/{connection.ocapi_version}",
            connection.ocapi_version,
            connection.client_id,
            wire,
            session,
        )

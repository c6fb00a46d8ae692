"""The section `[connections.<name>]` of a Snowflake account, and how it signs its requests."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import httpx
from pydantic import AfterValidator, Field, SecretStr, model_validator

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
from product_live_handlers.snowflake.client import SnowflakeClient, explain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

LIFETIME = 59 * 60
"""Seconds; Snowflake takes a key-pair token for an hour at most."""
RENEWED_AT = 0.8
"""The part of a token's life after which the next one is made."""
HEADER = "X-Snowflake-Authorization-Token-Type"
NO_CRYPTOGRAPHY = "auth = 'key_pair' needs the package cryptography: pip install 'product-live-worker[snowflake]'"


def _with_dashes(url: str) -> str:
    # A certificate's name has no underscores, and an account's may.
    found = httpx.URL(url)
    return str(found.copy_with(host=found.host.replace("_", "-"))).rstrip("/")


class SnowflakeConnection(Connection):
    """An account, and who we are there."""

    account_url: Annotated[HostUrl, AfterValidator(_with_dashes)]
    """https://<organization>-<account>.snowflakecomputing.com"""
    auth: Literal["key_pair", "pat", "oauth"] = "key_pair"
    account: str | None = None
    """key_pair: the account's identifier, as ORG-ACCOUNT; by default the first part of the host."""
    user: str | None = None
    """key_pair: the user's login name."""
    private_key: SecretStr | None = None
    """key_pair: the key as PEM (PKCS#8)."""
    private_key_passphrase: SecretStr | None = None
    token: SecretStr | None = None
    """pat: the programmatic access token. oauth: a token that somebody else renews."""
    token_url: HostUrl | None = None
    """oauth: where a token is had for client_id and client_secret."""
    client_id: str | None = None
    client_secret: SecretStr | None = None
    scope: str | None = None
    role: str | None = None
    warehouse: str | None = None
    """Lists of runs need one; the user's default otherwise."""
    sql: bool = False
    """Whether the SQL API may be used too: to cancel runs, and to find runs that ended over an hour ago."""
    read_timeout: float = Field(default=75.0, ge=60)
    """Snowflake holds a request for up to 45 s."""

    @model_validator(mode="after")
    def _complete(self) -> SnowflakeConnection:
        needed = {"key_pair": ("user", "private_key"), "pat": ("token",)}.get(self.auth, ())
        if self.auth == "oauth" and self.token is None:
            needed = ("token_url", "client_id", "client_secret")
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(f"auth = {self.auth!r} needs {', '.join(missing)}")
        if self.auth == "key_pair":
            self.key()
        return self

    def key(self) -> RSAPrivateKey:
        """Read the private key; raises ValueError, which does not show it."""
        try:
            from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415 (an extra)
            from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415 (the same)
        except ImportError:
            raise ValueError(NO_CRYPTOGRAPHY) from None
        assert self.private_key is not None  # noqa: S101 (validated)
        phrase = self.private_key_passphrase
        try:
            key: Any = load_pem_private_key(
                self.private_key.get_secret_value().encode(), phrase.get_secret_value().encode() if phrase else None
            )
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise ValueError("private_key is no RSA key in PEM, or its passphrase is another one")  # noqa: TRY004 (pydantic collects these)
        return key

    @property
    def account_name(self) -> str:
        """The account as a key-pair token names it: upper case, without a region."""
        return (self.account or httpx.URL(self.account_url).host).partition(".")[0].upper()


def key_pair_token(connection: SnowflakeConnection, now: float) -> str:
    """Make a JWT, signed with the user's private key."""
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 (an extra)
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415 (the same)

    key = connection.key()
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    subject = f"{connection.account_name}.{(connection.user or '').upper()}"
    print_ = base64.b64encode(hashlib.sha256(public).digest()).decode()
    claims = {"iss": f"{subject}.SHA256:{print_}", "sub": subject, "iat": int(now), "exp": int(now) + LIFETIME}
    signed = b".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    return (signed + b"." + _base64(key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


async def _headers(connection: SnowflakeConnection, wire: Wire, clock: Clock) -> tuple[Mapping[str, str], float]:
    """Give the headers that sign a request, and the seconds for which they can be used."""
    if connection.auth == "key_pair":
        token, lasts, kind = key_pair_token(connection, clock.now()), LIFETIME * RENEWED_AT, "KEYPAIR_JWT"
    elif connection.token is not None:
        kind = "PROGRAMMATIC_ACCESS_TOKEN" if connection.auth == "pat" else "OAUTH"
        token, lasts = connection.token.get_secret_value(), float("inf")
    else:
        token, lasts = await _client_credentials(connection, wire)
        kind = "OAUTH"
    return {"Authorization": f"Bearer {token}", HEADER: kind}, lasts


async def _client_credentials(connection: SnowflakeConnection, wire: Wire) -> tuple[str, float]:
    assert connection.token_url is not None  # noqa: S101 (validated)
    assert connection.client_secret is not None  # noqa: S101 (the same)
    form = {"grant_type": "client_credentials", "client_id": connection.client_id or ""}
    form |= {"client_secret": connection.client_secret.get_secret_value()}
    form |= {"scope": connection.scope} if connection.scope else {}
    try:
        answer = await wire.send("POST", connection.token_url, headers={}, form=form)
    except Refused as refused:
        raise LoginRefused(f"the login is refused: {refused}", status=refused.status, code=refused.code) from None
    token = first_text(answer.body, ("access_token",))
    if not token:
        raise LoginRefused("the login gave no access_token", status=answer.status)
    return token, max(1.0, seconds_of(answer, "expires_in", 600) * RENEWED_AT)


@asynccontextmanager
async def open_snowflake(connection: SnowflakeConnection) -> AsyncIterator[SnowflakeClient]:
    """Open an account, for all executions that use it."""
    async with open_wire("Snowflake", connection, explain) as wire:
        clock = Clock()
        session = Session(lambda: _headers(connection, wire, clock), clock.now)
        yield SnowflakeClient(
            connection.account_url,
            wire,
            session,
            role=connection.role,
            warehouse=connection.warehouse,
            sql=connection.sql,
        )

"""A handler's own settings, as the model that it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretBytes, SecretStr, field_validator

from product_live_worker import handler
from product_live_worker.model.errors import SettingsError
from product_live_worker.model.handler_settings import read_settings


class Account(BaseModel):
    user: str
    password: SecretStr


class Own(BaseModel):
    url: str
    size: int = 3
    account: Account | None = None
    token: SecretBytes | None = Field(None, alias="api-token")

    @field_validator("url")
    @classmethod
    def check(cls, url: str) -> str:
        """Refuse, repeating the value, as careless authors do."""
        if not url.startswith("https"):
            raise ValueError(f"{url} is not safe")
        return url


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


def problems(section: dict[str, Any]) -> tuple[str, ...]:
    """Give what is wrong with it."""
    with pytest.raises(SettingsError) as refused:
        read_settings(Own, section)
    return refused.value.problems


def test_without_a_model_the_section_is_as_it_is() -> None:
    """A dict of whatever TOML holds."""
    assert read_settings(None, {"a": {"file": "b"}}) == {"a": {"file": "b"}}


def test_secrets_come_from_files_wherever_the_model_wants_one(tmp_path: Path) -> None:
    """A name alone is text; `{ file = … }` is the text of the file, without the end of its line."""
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    here = {"file": str(file)}
    own = read_settings(Own, {"url": "https://x", "account": {"user": "u", "password": here}, "api-token": here})
    assert own.account.password.get_secret_value() == "s3cret"
    assert own.token.get_secret_value() == b"s3cret"
    assert "s3cret" not in repr(own)
    plain = read_settings(Own, {"url": "https://x", "account": {"user": "u", "password": "open"}})
    assert plain.account.password.get_secret_value() == "open"


def test_secrets_of_a_mapping_come_from_files_too(tmp_path: Path) -> None:
    """Each by its key; what is given as it is stays, and a file that is not there is named."""

    class Headers(BaseModel):
        headers: dict[str, SecretStr]

    (tmp_path / "key").write_text("hush\n")
    settings = read_settings(Headers, {"headers": {"X-Key": {"file": str(tmp_path / "key")}, "X-Kind": "plain"}})
    assert {name: value.get_secret_value() for name, value in settings.headers.items()} == {
        "X-Key": "hush",
        "X-Kind": "plain",
    }
    with pytest.raises(SettingsError, match=r"headers\.X-Key: the file '/nowhere' cannot be read"):
        read_settings(Headers, {"headers": {"X-Key": {"file": "/nowhere"}}})


def test_each_mistake_is_named() -> None:
    """Where it is, what is wrong, and what is allowed; never a value, which may be a secret."""
    told = problems({"url": "http://secret-host", "size": "many", "sise": 4, "account": {"user": "u", "pass": "x"}})
    assert told == (
        "sise: there is no such setting; there are url, size, account, api-token",
        "account.pass: there is no such setting; there are user, password",
        "url: … is not safe (found text)",
        "size: Input should be a valid integer, unable to parse string as an integer (found text)",
        "account.password: Field required",
    )


@pytest.mark.parametrize(
    ("file", "reason"),
    [("/no/such/secret", "No such file or directory"), (7, "it is no text"), ("/", "Is a directory")],
)
def test_a_file_that_cannot_be_read_is_named(file: Any, reason: str) -> None:
    """Once, and not again as an empty password."""
    (told,) = problems({"url": "https://x", "account": {"user": "u", "password": {"file": file}}})
    assert told.startswith("account.password: the file ")
    assert f"cannot be read ({reason})" in told


def test_a_model_may_allow_whatever_comes() -> None:
    """Who says so gets it."""
    assert read_settings(Loose, {"a": 1}).model_dump() == {"a": 1}


def test_settings_are_a_model() -> None:
    """Anything else is refused by the decorator."""
    with pytest.raises(TypeError, match="settings is a pydantic model"):
        handler("x", settings=dict)  # type: ignore[arg-type]

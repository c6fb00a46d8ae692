"""Where settings are read: systemd's places under the TOML file under the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from product_live_worker.model.errors import SettingsError
from product_live_worker.settings.mistakes import KNOWN, Mistakes, path_of
from product_live_worker.settings.tree import Api, Http, Settings
from product_live_worker.settings.values import SHORTEST_TOKEN, usable_key

CONFIG_FILE = Path("config/worker.toml")
CONFIG_VARIABLE = "PLW_CONFIG"
SECRETS = frozenset({"PLW_API__KEY", "PLW_STATE__URL"})
"""Environment variables that are, or may hold, a secret."""
CREDENTIAL = "product_live_api_key"
"""The file of the API key in `$CREDENTIALS_DIRECTORY`, where systemd puts what LoadCredential= names."""

_NO_KEY = (
    f"api.key: found none; set PLW_API__KEY in the environment, or api.key_file to the path of a file that holds the "
    f"key, or let systemd pass the credential {CREDENTIAL}"
)


def load(config: Path | None, environ: MutableMapping[str, str], *, require_key: bool = True) -> Settings:
    """Read the settings: the environment wins over the file, and the file over the defaults.

    The file is `config`, else the one that PLW_CONFIG names, else ./config/worker.toml when it is there. PLW_API__KEY
    and PLW_STATE__URL are taken out of `environ`. Raises SettingsError with a line for each problem.
    """
    variables = _take_variables(environ)
    named = variables.pop(CONFIG_VARIABLE, "")
    file = config or Path(named or CONFIG_FILE)
    given = _over(_file_values(file, optional=not (config or named)), _variable_values(variables))
    given = _over(_systemd_values(environ, given), given)
    mistakes = Mistakes(file, variables)
    problems = mistakes.in_names() + _key_problems(given.get("api", {}), mistakes, require_key=require_key)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems += mistakes.in_values(error)
    if problems:
        raise SettingsError(*problems)
    if require_key:
        api_key(settings.api)
    return settings


def admin_token(http: Http) -> str | None:
    """Give the operators' token as its file has it now; None where there is none, or none that could be used."""
    try:
        return _admin_token(http)
    except SettingsError:
        return None


def check_admin_token(http: Http) -> None:
    """Raise SettingsError for a token that could not be used."""
    _admin_token(http)


def known_secrets(settings: Settings) -> tuple[str, ...]:
    """Give what nothing may show: API key, operators' token and passwords, as far as they can be read now."""
    try:
        key: str | None = api_key(settings.api)
    except SettingsError:
        key = None
    # A short password is a word that lines are made of; the address itself is shown nowhere.
    passwords = (password for password in settings.state.passwords if len(password) >= 8)
    return tuple(secret for secret in (key, admin_token(settings.http), *passwords) if secret is not None)


def api_key(api: Api) -> str:
    """Give the API key, read afresh when it stands in a file; raises SettingsError."""
    if api.key is not None:
        return api.key.get_secret_value()
    if api.key_file is None:
        raise SettingsError(_NO_KEY)
    return _secret_in(api.key_file, "api", "key_file")


def _admin_token(http: Http) -> str | None:
    if http.admin_token_file is None:
        return None
    token = _secret_in(http.admin_token_file, "http", "admin_token_file")
    if len(token) < SHORTEST_TOKEN:
        allowed = KNOWN["http", "admin_token_file"].description
        raise SettingsError(f"http.admin_token_file: found a token of {len(token)} characters; allowed is {allowed}")
    return token


def _secret_in(file: Path, *path: str) -> str:
    try:
        return usable_key(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        reason = "it is no text"
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = f"it holds {error}"
    # A bare name of nothing may be the secret itself, put into the wrong setting.
    bare = not (file.parent.name or file.suffix or file.exists())
    shown = "a name without a folder" if bare else file
    raise SettingsError(f"{'.'.join(path)}: found {shown} ({reason}); allowed is {KNOWN[path].description}")


def _take_variables(environ: MutableMapping[str, str]) -> dict[str, str]:
    """Copy what is ours in the environment, and take secrets out: whatever this process starts would inherit them."""
    variables = {name.upper(): value for name, value in environ.items() if name.upper().startswith("PLW_")}
    for name in [name for name in environ if name.upper() in SECRETS]:
        del environ[name]
    return variables


def _file_values(file: Path, *, optional: bool) -> dict[str, Any]:
    try:
        # Windows editors begin a file with a byte order mark, which TOML does not know.
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        if optional:
            return {}
        raise SettingsError(f"{file}: there is no such settings file (--config or PLW_CONFIG names it)") from error
    except OSError as error:
        raise SettingsError(f"{file}: the settings file cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: the settings file is not written in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: the settings file is not valid TOML: {error}") from error


def _variable_values(variables: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in variables.items() if path_of(name) in KNOWN}
    return source()


def _systemd_values(environ: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Where systemd lets a service keep its state, and where it put the service's credentials."""
    values = {}
    if state := environ.get("STATE_DIRECTORY", "").split(os.pathsep)[0]:
        values["state"] = {"url": f"sqlite:///{Path(state, 'worker.db').as_posix()}"}
    if credentials := environ.get("CREDENTIALS_DIRECTORY"):
        key_file = Path(credentials, CREDENTIAL)
        if key_file.exists() and not _keys(given.get("api", {})):
            values["api"] = {"key_file": str(key_file)}
    return values


def _key_problems(api: object, mistakes: Mistakes, *, require_key: bool) -> list[str]:
    if len(_keys(api)) > 1:
        key, key_file = mistakes.name("api", "key"), mistakes.name("api", "key_file")
        return [f"{key_file}: found beside {key}; allowed is one of them"]
    return [_NO_KEY] if require_key and isinstance(api, dict) and not _keys(api) else []


def _keys(api: object) -> set[str]:
    return api.keys() & {"key", "key_file"} if isinstance(api, dict) else set()


def _over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree of sections over another; what is no section stays, to be complained about."""
    both = {**upper, **lower}
    for name in upper.keys() & lower.keys():
        if isinstance(lower[name], dict):
            both[name] = {**lower[name], **upper[name]} if isinstance(upper[name], dict) else upper[name]
    return both

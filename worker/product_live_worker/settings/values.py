"""The kinds of values that settings have: how one is read, and the words for what is allowed.

An operator never sees the texts of the errors raised here, except those about the key: the words of `allow` are
what a line about a mistake ends with.
"""

from __future__ import annotations

import re
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

SHORTEST_TOKEN = 16
"""Characters of the token that lets people act: fewer could be tried out."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"b": 1, "kb": 1000, "mb": 1_000_000, "gb": 1_000_000_000}


def seconds(value: object) -> float:
    """Read a duration: `"500ms"`, `"30s"`, `"5m"`, `"2h"`, `"7d"`, or a number of seconds; raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = isinstance(value, str) and re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d)?", value.strip())
    if not match:
        raise ValueError("no duration")
    return float(match[1]) * _UNITS[match[2] or "s"]


def size(value: object) -> int:
    """Read a size in bytes: a whole number, or a text such as `"500kB"`, `"1MB"` or `"2GB"`; raises ValueError."""
    match = re.fullmatch(r"([0-9]+) ?(B|kB|MB|GB)?", str(value).strip(), re.IGNORECASE)
    if isinstance(value, bool) or not match:
        raise ValueError("no size")
    return int(match[1]) * _SIZES[(match[2] or "B").lower()]


def usable_key(text: str) -> str:
    """Strip an API key; raises ValueError that says what is wrong with it, without showing it."""
    key = text.strip()
    if not key:
        raise ValueError("an empty text")
    if not key.isascii():
        raise ValueError("a text with a character outside of ASCII")
    if not key.isprintable():
        raise ValueError("a text of several lines, or with a control character in it")
    return key


def allow(words: str, **limits: Any) -> Any:
    """Say what is allowed, in words for a person and in limits for pydantic."""
    return Field(description=words, **limits)


def _number(value: object) -> object:
    # pydantic would read `true` as 1.
    if isinstance(value, bool):
        raise ValueError("no number")  # noqa: TRY004 (pydantic collects ValueErrors)
    return value


def _word(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _limit(value: int) -> int:
    # Below 4, a poll and the report that it may oblige us to would leave no room for anything else.
    if 0 < value < 4:
        raise ValueError("too small")
    return value


def _platform(value: str) -> str:
    url = urlsplit(value.strip())
    host = url.hostname or ""
    written = f"[{host}]" if ":" in host else host
    plain = re.fullmatch(r"[!-~]+", url.geturl()) and re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", written)
    private = url.scheme == "https" or (url.scheme == "http" and is_loopback(host))
    if not plain or not private or "@" in url.netloc or url.query or url.fragment or url.port == 0:
        raise ValueError("no usable address")
    usual = url.port in (None, 443 if url.scheme == "https" else 80)
    return f"{url.scheme}://{written}{'' if usual else f':{url.port}'}{url.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _public(value: str) -> str:
    url = urlsplit(value.strip())
    plain = re.fullmatch(r"https?://[A-Za-z0-9.:\[\]_-]+(/[!-~]*)?", url.geturl())
    if not plain or not url.hostname or "@" in url.netloc or url.query or url.fragment or url.port == 0:
        raise ValueError("no usable address")
    return url.geturl().rstrip("/")


def _database(value: str) -> str:
    # One @ at most: of a password that has another in it, a part would be taken for the host, and named in messages.
    if re.fullmatch(r"postgresql://[^@/?#\s]*(@[^@/?#\s]*)?(/[^@/?#\s]*)?(\?[^@#\s]*)?", value):
        return value
    path = value.removeprefix("sqlite:///")
    if path in ("", value, ":memory:") or "?" in path:
        raise ValueError("no usable database")
    return value


def _scheduler(value: str) -> str:
    value = value.strip()
    if not re.fullmatch(r"(tcp|tls)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", value):
        raise ValueError("no address of a scheduler")
    return value


def without_password(url: str) -> str:
    """Blank the password in the address of a database, wherever it may stand."""
    return re.sub(r"(?<=password=)[^&]*", "***", re.sub(r"(?<=//)([^:@/]*):[^@/]*(?=@)", r"\1:***", url))


def passwords(url: str) -> tuple[str, ...]:
    """Give the password in the address of a database, as it is written there and as it is meant."""
    written = re.findall(r"(?<=//)[^:@/]*:([^@/]*)(?=@)|(?<=password=)([^&]*)", url)
    return tuple({form for pair in written for text in pair if text for form in (text, unquote(text))})


def _listening(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        ip_address(value)
    return value


def _certificates(path: Path) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError as error:
        raise ValueError("no certificates") from error
    return path


def _hosts(value: object) -> object:
    """Read names of hosts: a list, or in a variable a text with commas; raises ValueError."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError("no list")  # noqa: TRY004 (pydantic collects ValueErrors)
    found = tuple(str(name).strip().lower() for name in names if str(name).strip())
    if not all(re.fullmatch(r"(\*\.)?[a-z0-9._-]+|[0-9a-f:.]+", name) for name in found):
        raise ValueError("no host")
    return found


def _log_path(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
        raise ValueError("no path")
    return value


def _secret(value: SecretStr) -> SecretStr:
    return SecretStr(usable_key(value.get_secret_value()))


DURATION = 'a duration such as "500ms", "30s", "5m", "2h" or "7d", or a number of seconds'
COUNT = "a whole number from 1"

Seconds = Annotated[float, BeforeValidator(seconds), allow(f"{DURATION}; at most 3650d", ge=0, le=3650 * 86400.0)]
"""A duration, kept as seconds."""
Positive = Annotated[Seconds, allow(f"{DURATION}; above 0, at most 3650d", gt=0)]
"""A duration that is not 0."""
Flag = Annotated[bool, allow("true or false")]
Word = BeforeValidator(_word)
"""Lets a word from a closed set be written in capitals, as levels often are."""
Whole = Annotated[int, BeforeValidator(_number)]
Count = Annotated[Whole, allow(COUNT, ge=1)]
Share = Annotated[float, BeforeValidator(_number), allow("a number above 0, at most 1", gt=0, le=1)]
Limit = Annotated[Whole, AfterValidator(_limit), allow("0 (no limit) or a whole number from 4", ge=0)]
Port = Annotated[Whole, allow("a whole number from 0 (a free port) to 65535", ge=0, le=65535)]
Size = Annotated[
    int, BeforeValidator(size), allow('a number of bytes, or "500kB", "1MB"; at most "10MB"', ge=1, le=10_000_000)
]
"""A size, kept as bytes."""
FileSize = Annotated[
    int, BeforeValidator(size), allow('a number of bytes, or "500kB", "1MB", "2GB"; at most "1000GB"', ge=1, le=10**12)
]
"""The same for files, which are larger."""
Hosts = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_hosts),
    allow('a list of host names without ports, as ["files.example.com", "*.example.org"]'),
]
Folder = Annotated[Path | None, allow("the path of a directory that the worker may make or write to")]
LogPath = Annotated[str, AfterValidator(_log_path), allow('a path of the API, as "/v1/data_factory/logs"')]
PlatformUrl = Annotated[
    str,
    AfterValidator(_platform),
    allow("https://HOST, with port and path if need be, without user and query (http: only to this machine itself)"),
]
DaskScheduler = Annotated[
    Annotated[str, AfterValidator(_scheduler)] | None,
    allow("tcp://HOST:PORT or tls://HOST:PORT, the address of a Dask scheduler"),
]
PublicUrl = Annotated[
    Annotated[str, AfterValidator(_public)] | None,
    allow("https://HOST, with port and path if need be, without user and query: the address as others reach it"),
]
CallbackPort = Annotated[Port | None, allow("a whole number from 0 (a free port) to 65535")]
DatabaseUrl = Annotated[
    str,
    AfterValidator(_database),
    allow("sqlite:///PATH, the path being that of a file, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
]
Host = Annotated[
    str, AfterValidator(_listening), allow("an address of this machine without a port, as 127.0.0.1, ::1 or 0.0.0.0")
]
Key = Annotated[
    Annotated[SecretStr, AfterValidator(_secret)] | None, allow("the key of Product-Live: one line of ASCII characters")
]
KeyFile = Annotated[Path | None, allow("the path of a readable file that holds the API key and nothing else")]
TokenFile = Annotated[
    Path | None,
    allow(f"the path of a readable file that holds the operators' token, {SHORTEST_TOKEN} characters or more"),
]
CaFile = Annotated[
    Annotated[Path, AfterValidator(_certificates)] | None, allow("the path of a readable file of CA certificates (PEM)")
]

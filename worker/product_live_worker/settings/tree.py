"""Every setting of the worker, as one frozen tree, with its default. Durations are seconds, sizes bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from product_live_worker.model.execution import OnCrash
from product_live_worker.model.task import TaskSettings
from product_live_worker.settings.values import (
    COUNT,
    DURATION,
    CaFile,
    CallbackPort,
    Count,
    DaskScheduler,
    DatabaseUrl,
    FileSize,
    Flag,
    Folder,
    Host,
    Hosts,
    Key,
    KeyFile,
    Limit,
    LogPath,
    PlatformUrl,
    Port,
    Positive,
    PublicUrl,
    Seconds,
    Share,
    Size,
    TokenFile,
    Word,
    allow,
    is_loopback,
    passwords,
    without_password,
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Api(_Section):
    """Where Product-Live is, and the key to it."""

    base_url: PlatformUrl = "https://api.product-live.com"
    key: Key = None
    key_file: KeyFile = None
    ca_file: CaFile = None
    connect_timeout: Positive = 5.0
    total_timeout: Positive = 20.0


class Budget(_Section):
    """How many requests Product-Live may get from us, and how polls share them."""

    requests_per_minute: Limit = 50
    window: Positive = 60.0
    scope: Annotated[Literal["account", "resource"], Word] = "account"
    idle_share: Share = 0.5
    max_staleness: Positive = 60.0


class State(_Section):
    """The journal: where it is, and what it keeps."""

    url: DatabaseUrl = Field(default="sqlite:///state/worker.db", repr=False)
    retention: Seconds = 7 * 86400.0
    keep_payloads: Flag = False
    max_crashes: Count = 3
    lease: Positive = 30.0

    @property
    def shown_url(self) -> str:
        """The address as it may be shown: without a password."""
        return without_password(self.url)

    @property
    def passwords(self) -> tuple[str, ...]:
        """What no log line may hold."""
        return passwords(self.url)


class Http(_Section):
    """Where the worker answers its operators, and other systems that call back."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    admin_token_file: TokenFile = None
    public_url: PublicUrl = None
    callback_port: CallbackPort = None


class Drain(_Section):
    """The orderly end."""

    timeout: Seconds = 30.0


class Execution(_Section):
    """What a handler may use up."""

    max_stuck_threads: Count = 4
    max_output: Size = 1_000_000
    workdir: Folder = None
    dask_scheduler: DaskScheduler = None


class Files(_Section):
    """What `context.files` may move, and where from."""

    max_download: FileSize = 1_000_000_000
    max_upload: FileSize = 100_000_000
    hosts: Hosts = ()


class Log(_Section):
    """What is logged, and how it is written."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Word] = "info"
    format: Annotated[Literal["auto", "text", "json"], Word] = "auto"
    platform: Flag = True
    platform_path: LogPath = "/v1/data_factory/logs"


class Task(_Section):
    """The section of one task; where it says nothing, the handler's decorator does."""

    handler: Annotated[str | None, allow("the name of an installed handler", min_length=1)] = None
    concurrency: Annotated[Count | None, allow(COUNT)] = None
    timeout: Annotated[Positive | None, allow(f"{DURATION}; above 0, at most 3650d")] = None
    on_crash: Annotated[OnCrash | None, allow('"fail" or "rerun"')] = None
    watch: Annotated[Positive | None, allow(f"{DURATION}; above 0, at most 3650d")] = None
    settings: Annotated[dict[str, Any], allow("a section of values for the handler")] = Field(default_factory=dict)


class Settings(BaseSettings):
    """All settings; `load` reads them."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, env_prefix="PLW_", env_nested_delimiter="__"
    )

    api: Api = Api()
    budget: Budget = Budget()
    state: State = State()
    http: Http = Http()
    drain: Drain = Drain()
    execution: Execution = Execution()
    files: Files = Files()
    log: Log = Log()
    connections: dict[str, Annotated[dict[str, Any], allow("a section of values for the handlers that use it")]] = (
        Field(default_factory=dict)
    )
    tasks: dict[str, Task] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing behind the caller's back: `load` says which environment and which file count."""
        return (init_settings,)

    def task_settings(self) -> dict[str, TaskSettings]:
        """Give the sections of the tasks in the words of the model."""
        return {name: TaskSettings(**dict(section)) for name, section in self.tasks.items()}

    def workdir(self) -> Path:
        """Give where executions get their directories: beside the journal, unless the settings say otherwise."""
        if self.execution.workdir is not None:
            return self.execution.workdir.absolute()
        # A journal that is no file of this machine has no place beside it.
        here = Path(self.state.url.removeprefix("sqlite:///")).parent if self.state.url.startswith("sqlite:") else None
        place = here or Path(os.environ.get("STATE_DIRECTORY", "state").split(os.pathsep)[0])
        # Handlers get it, and may be anywhere.
        return place.absolute() / "work"

    def warnings(self) -> tuple[str, ...]:
        """Give a line for each setting that is allowed, but may not do what was meant."""
        return tuple(_doubts(self))


def _doubts(settings: Settings) -> Iterator[str]:
    api, budget, drain, http = settings.api, settings.budget, settings.drain, settings.http
    if http.public_url and http.callback_port is None:
        yield "http.public_url: nobody listens there; set http.callback_port, to which its callbacks are led"
    if http.callback_port is not None and not http.public_url:
        yield "http.callback_port: nobody is told of it; set http.public_url, the address as other systems reach it"
    for name, file in (("api.key_file", api.key_file), ("http.admin_token_file", http.admin_token_file)):
        if file and os.name == "posix" and file.exists() and file.stat().st_mode & stat.S_IROTH:
            yield f"{name}: every user of this machine can read {file}; chmod 600 it"
    if http.admin_token_file and not is_loopback(http.host):
        yield (
            f"http.admin_token_file: who signs in from elsewhere sends the token unencrypted to {http.host}; "
            f"put a proxy with TLS before it"
        )
    if api.connect_timeout > api.total_timeout:
        yield (
            f"api.connect_timeout: {api.connect_timeout:g} s have no effect; "
            f"api.total_timeout ends a request after {api.total_timeout:g} s"
        )
    if drain.timeout <= api.total_timeout:
        yield (
            f"drain.timeout: {drain.timeout:g} s may end before the last request has its answer; "
            f"make it longer than api.total_timeout ({api.total_timeout:g} s)"
        )
    if budget.requests_per_minute and budget.window < 60:
        yield (
            f"budget.window: {budget.requests_per_minute} requests in {budget.window:g} s "
            f"are more than {budget.requests_per_minute} a minute"
        )

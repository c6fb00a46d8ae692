"""Handlers from installed plugins, and which of the account's tasks each serves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, NamedTuple

from product_live_worker.model.errors import RegistryError, SettingsError
from product_live_worker.model.handler import Handler
from product_live_worker.model.task import ServedTask, TaskSettings

GROUP = "product_live_worker.handlers"


@dataclass(frozen=True, slots=True)
class Installed:
    """A handler, and the entry point that registers it."""

    handler: Handler
    plugin: EntryPoint

    @property
    def distribution(self) -> tuple[str, str] | None:
        """The name and the version of the package that it comes from, where that is known."""
        return (self.plugin.dist.name, self.plugin.dist.version) if self.plugin.dist else None


def load(plugins: Iterable[EntryPoint] | None = None) -> dict[str, Handler]:
    """Load the handlers of all installed plugins, by name; raises RegistryError naming the plugin at fault.

    `plugins` are entry points of the group `product_live_worker.handlers`, by default all that are installed.
    """
    return {name: found.handler for name, found in load_installed(plugins).items()}


def load_installed(plugins: Iterable[EntryPoint] | None = None) -> dict[str, Installed]:
    """Do as `load` does, and give where each handler comes from too."""
    found: dict[str, Installed] = {}
    for plugin in sorted(entry_points(group=GROUP) if plugins is None else plugins, key=_origin):
        handler = _load(plugin)
        if handler.name in found:
            raise RegistryError(
                f"two plugins bring a handler named {handler.name!r}: {_origin(found[handler.name].plugin)} and "
                f"{_origin(plugin)}. Uninstall one, or give its handler another name"
            )
        found[handler.name] = Installed(handler, plugin)
    return found


def _load(plugin: EntryPoint) -> Handler:
    try:
        found = plugin.load()
    except (Exception, SystemExit) as error:
        raise RegistryError(
            f"the plugin {_origin(plugin)} cannot be loaded: {type(error).__name__}: {error}. Mend or uninstall it"
        ) from error
    if not isinstance(found, Handler):
        what = "a function without @handler" if inspect.isfunction(found) else type(found).__name__
        raise RegistryError(
            f"the plugin {_origin(plugin)} is no handler but {what}; put @handler(…) above the function"
        )
    return found


def _origin(plugin: EntryPoint) -> str:
    distribution = f"{plugin.dist.name} {plugin.dist.version}, " if plugin.dist else ""
    return f"{distribution}{plugin.value}"


Connections = Mapping[str, Mapping[str, Any]]
"""The sections `[connections.<name>]`, as they stand."""


def assign(
    tasks: Mapping[str, str],
    handlers: Mapping[str, Handler],
    sections: Mapping[str, TaskSettings],
    connections: Connections = MappingProxyType({}),
) -> tuple[dict[str, ServedTask], tuple[str, ...]]:
    """Match the account's tasks (key → id) to handlers; gives those served, by key, and a line for each problem.

    Each section names a task by key or id. Without any section, a task is matched to the handler of the same name,
    but never to one declared `explicit=True`.
    """
    if not sections:
        return _by_name(tasks, handlers, connections)
    served: dict[str, ServedTask] = {}
    problems: list[str] = []
    keys = {identifier: key for key, identifier in tasks.items()}
    for name, section in sections.items():
        key = name if name in tasks else keys.get(name)
        handler = handlers.get(section.handler or key or name)
        if key is None:
            problems.append(f"the account has no task {name!r}; it has {_names(tasks)}")
        elif handler is None:
            problems.append(
                f"no handler named {section.handler or key!r} is installed for the task {key!r}; "
                f"installed are {_names(handlers)}"
            )
        elif key in served:
            problems.append(f"the task {key!r} has two sections, one by its key and one by its id {tasks[key]!r}")
        else:
            _add(served, problems, _Match(key, tasks[key], handler, section, name), connections)
    return served, tuple(problems)


def _by_name(
    tasks: Mapping[str, str], handlers: Mapping[str, Handler], connections: Connections
) -> tuple[dict[str, ServedTask], tuple[str, ...]]:
    served: dict[str, ServedTask] = {}
    problems: list[str] = []
    for key, handler in handlers.items():
        if key in tasks and not handler.explicit:
            _add(served, problems, _Match(key, tasks[key], handler, TaskSettings(), key), connections)
    return served, tuple(problems) if served or problems else (_nothing(tasks, handlers),)


class _Match(NamedTuple):
    key: str
    identifier: str
    handler: Handler
    section: TaskSettings
    name: str
    """What the section is called."""


def _add(served: dict[str, ServedTask], problems: list[str], match: _Match, connections: Connections) -> None:
    handler, section = match.handler, match.section
    try:
        settings, connection = read_for(match.name, handler, section, connections)
    except SettingsError as error:
        problems += error.problems
        return
    served[match.key] = ServedTask(
        id=match.identifier,
        key=match.key,
        handler=handler,
        concurrency=section.concurrency or handler.concurrency,
        timeout=section.timeout or handler.timeout,
        on_crash=section.on_crash or handler.on_crash,
        watch=section.watch,
        settings=settings,
        connection=connection,
    )


def read_for(name: str, handler: Handler, section: TaskSettings, connections: Connections) -> tuple[Any, Any]:
    """Give a section's settings and the connection that they name, as the handler wants both; raises SettingsError."""
    try:
        settings = handler.read_settings(section.settings)
    except SettingsError as error:
        # Named as their writer knows them.
        raise SettingsError(*(f"tasks.{name}.settings.{problem}" for problem in error.problems)) from None
    return settings, handler.read_connection(settings, connections)


def _nothing(tasks: Mapping[str, str], handlers: Mapping[str, Handler]) -> str:
    matching = [name for name, handler in handlers.items() if not handler.explicit]
    return f"no task of the account has a handler of its name: tasks are {_names(tasks)}, handlers {_names(matching)}"


def _names(names: Iterable[str]) -> str:
    known = sorted(names)
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    return (", ".join(repr(name) for name in known[:20]) + more) or "none"

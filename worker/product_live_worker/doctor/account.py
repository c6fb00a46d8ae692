"""The account beside the settings and handlers: what is served, in time, and how soon it is picked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from product_live_worker import registry
from product_live_worker.doctor.finding import Finding
from product_live_worker.executors.connections import check_connections
from product_live_worker.flow.catalogue import cut_short
from product_live_worker.model.handler import Handler
from product_live_worker.model.task import ServedTask
from product_live_worker.parts import long_enough, new_schedule, task_settings
from product_live_worker.product_live.wire import Task as Definition
from product_live_worker.settings import Settings


def matched(
    settings: Settings, handlers: Mapping[str, Handler], definitions: Sequence[Definition]
) -> tuple[dict[str, ServedTask], tuple[str, ...]]:
    """Give the tasks that would be served, and a line for each that would not."""
    sections = task_settings(settings, handlers)
    return registry.assign({task.key: task.id for task in definitions}, handlers, sections, settings.connections)


def account(
    settings: Settings, definitions: Sequence[Definition], served: Mapping[str, ServedTask], problems: Sequence[str]
) -> Iterator[Finding]:
    """Look at the account's tasks as they came from the platform, and at what would serve them."""
    number = f"{len(definitions)} task{'' if len(definitions) == 1 else 's'}"
    yield Finding.ok("key", f"it is accepted; the account has {number}")
    known = {task.key: task for task in definitions}
    for task in served.values():
        yield from _task(replace(task, platform_timeout=known[task.key].longest_wait), known[task.key])
    for problem in problems:
        yield Finding.fail(
            "tasks", problem, "Correct the [tasks] sections, or create the task (tasks plan, tasks apply)."
        )
    if lines := cut_short(served.values(), settings.drain.timeout):
        yield Finding.warn("drain", f"drain.timeout: {'; '.join(lines)}", long_enough(served.values()))
    yield from _budget(settings, served)


async def connections(served: Mapping[str, ServedTask]) -> list[Finding]:
    """Have each connection that a task names say whether it can be used."""
    found = await check_connections(served.values())
    return [Finding("ok" if good else "fail", "connections", text) for good, text in found]


def _task(task: ServedTask, definition: Definition) -> Iterator[Finding]:
    subject = f"task {task.key}"
    waits = (
        f"the platform waits {task.platform_timeout:g} s" if task.platform_timeout else "the platform waits for ever"
    )
    yield Finding.ok(
        subject, f"handler {task.handler.name}, {task.concurrency} at once, {task.longest:g} s each; {waits}"
    )
    if task.longest < task.timeout:
        yield Finding.warn(
            subject,
            f"its handler may take {task.timeout:g} s, and gets {task.longest:g} s: {waits}",
            f"`tasks apply {task.key}` sets responseTimeoutSeconds to what the handler needs, or shorten its timeout.",
        )
    if not definition.response_timeout_seconds:
        yield _never_back(subject, task, definition)
    if task.watch is not None and task.watch >= task.longest:
        text = f"watch: after {task.watch:g} s its handler has ended at the latest, so it is never looked at"
        yield Finding.warn(subject, text, "Make watch shorter than the timeout, or leave it out.")


def _never_back(subject: str, task: ServedTask, definition: Definition) -> Finding:
    """Say that a claim would not come back, were the platform's answer to a poll lost on the way."""
    ends = f"its timeoutSeconds ({definition.timeout_seconds:g} s) ends it, or the whole job"
    until = f"until {ends}" if definition.timeout_seconds else "for ever"
    return Finding.warn(
        subject,
        f"it has no responseTimeoutSeconds on the platform: an execution whose claim is lost on the wire blocks its "
        f"pipeline {until}",
        f"Set it there (`tasks apply {task.key}`), above the handler's timeout ({task.timeout:g} s).",
    )


def _budget(settings: Settings, served: Mapping[str, ServedTask]) -> Iterator[Finding]:
    budget, tasks = settings.budget, len(served)
    if not tasks:
        return
    schedule = new_schedule(settings, chance=lambda: 0.5)
    schedule.serve(served)
    longest = max(schedule.waits().values())
    of = f"{budget.requests_per_minute} requests in {budget.window:g} s" if budget.requests_per_minute else "no limit"
    yield Finding.ok("budget", f"{of}; an execution is picked up after {longest:.0f} s at the latest by plan")
    if not budget.requests_per_minute:
        return
    needed, allowed = tasks / budget.max_staleness, budget.idle_share * budget.requests_per_minute / budget.window
    if needed > allowed:
        yield Finding.warn(
            "budget",
            f"{tasks} tasks cannot each be polled every {budget.max_staleness:g} s within budget.idle_share: "
            f"each will be polled every {tasks / allowed:.0f} s",
            "Serve fewer tasks, or raise idle_share or max_staleness.",
        )

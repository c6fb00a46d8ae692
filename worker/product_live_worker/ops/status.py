"""The status document: the one source of `/status` and of everything that shows the worker's state.

It asks nobody: what it says of the database is what the board has last seen, so it costs no request and no wait.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TypedDict

from product_live_worker.executors.in_process import InProcess
from product_live_worker.executors.perform import Executor
from product_live_worker.flow.schedule import Plan, Schedule
from product_live_worker.model.action import ALL, Action
from product_live_worker.model.execution import IN_HAND, Execution, State
from product_live_worker.model.task import ServedTask
from product_live_worker.ops.document import (
    SCHEMA,
    ActionLine,
    BudgetPart,
    CheckLine,
    Condition,
    Counts,
    Failures,
    HandlerSeconds,
    InHand,
    InHandLine,
    NextPoll,
    PauseLine,
    Reports,
    StatusDocument,
    TaskLine,
    Undeliverable,
    WorkerLine,
)
from product_live_worker.ops.health import Check, Health, verdict
from product_live_worker.product_live.budget import Budget
from product_live_worker.telemetry.history import MINUTES, History, TaskHistory
from product_live_worker.telemetry.redaction import cut

TASKS = 40
EXECUTIONS = 25
FAILURES = 20
WORKERS = 50
ACTIONS = 15
REQUESTS = 120
"""Of each so many at most are shown; the counts are of all."""
TEXT = 300
"""Characters of a text that somebody else has written, at most."""


@dataclass(frozen=True)
class Status:
    """Writes the document from the stages as they are now."""

    health: Health
    schedule: Schedule
    executors: Mapping[str, Executor]
    processes: InProcess
    history: History
    version: str
    platform: str
    budget: Budget
    started_at: float

    def document(self, task: str = "") -> StatusDocument:
        """Give the document; with `task`, of tasks and executions those alone whose task's key has it in it."""
        checks, board = self.health.ready(), self.health.journal.board
        tasks = [one for key, one in self.health.catalogue.tasks.items() if task in key]
        shown = self._chosen(tasks)
        return {
            "schema": SCHEMA,
            "version": self.version,
            "platform": self.platform,
            "worker": self.health.journal.holder,
            "started_at": moment(self.started_at),
            "now": moment(time.time()),
            "ready": all(check.ok for check in checks),
            "condition": self._condition(checks),
            "verdict": verdict(checks),
            "checks": [check_line(check) for check in checks],
            "draining": self.health.draining or None,
            "pauses": [pause_line(pause) for pause in board.pauses()],
            "last_successful_poll_at": _moment(self.health.poller.succeeded_at),
            "poll_overdue_seconds": round(self.health.poller.overdue(), 3),
            "budget": self._budget(),
            "tasks": self._tasks(shown),
            "tasks_left_out": len(tasks) - len(shown),
            "handler_processes": self.processes.count(),
            "executions": self._counts(),
            **self._executions(task),
            "failures": self._failures(task),
            "undeliverable": self._undeliverable(task),
            "workers": self._workers(),
            "actions": [action_line(action) for action in reversed(board.actions[-ACTIONS:])],
        }

    def _condition(self, checks: list[Check]) -> Condition:
        if self.health.draining:
            return "stopping"
        if not all(check.ok for check in checks):
            return "unwell"
        if self.health.journal.board.paused(ALL):
            return "paused"
        return "notice" if any(check.notable for check in checks) else "well"

    def _budget(self) -> BudgetPart:
        budget, now = self.budget, time.time()
        frees_in = budget.frees_in()
        return {
            "limit": budget.limit,
            "allowed": budget.allowed(),
            "used": budget.used(),
            "reserved": budget.reserved(),
            "window_seconds": budget.window,
            "next_slot_frees_in_seconds": None if frees_in is None else round(max(0.0, frees_in), 3),
            "held_off_seconds": round(budget.held_off(), 3),
            "waiting": dict(budget.waiting()),
            "requests": [
                {
                    "sent_at": moment(request.at),
                    "seconds_ago": round(max(0.0, now - request.at), 3),
                    "purpose": request.purpose,
                    "operation": request.operation,
                    "code": request.code,
                    "seconds": round(request.seconds, 3),
                }
                for request in self.history.of_window()[-REQUESTS:]
            ],
        }

    def _chosen(self, tasks: list[ServedTask]) -> list[ServedTask]:
        """Give those of which there is the most to say, in the order of their keys."""
        if len(tasks) <= TASKS:
            return sorted(tasks, key=lambda task: task.key)
        board, journal, past = self.health.journal.board, self.health.journal, self.history.tasks
        nothing = TaskHistory()

        def interest(task: ServedTask) -> tuple[int, bool, int, int, int]:
            known = past.get(task.key, nothing)
            # What is given up has failed: the others need not be asked.
            stuck = self.executors[task.handler.isolation].overdue(task.key) if known.failed else 0
            paused, in_hand = bool(board.paused(task.key)), journal.in_hand(task.key)
            return stuck, paused, in_hand, known.failed, known.completed

        return sorted(sorted(tasks, key=interest, reverse=True)[:TASKS], key=lambda task: task.key)

    def _tasks(self, shown: list[ServedTask]) -> list[TaskLine]:
        waits, now = self.schedule.waits(), time.monotonic()
        plans = self.schedule.plans(now)
        return [self._task(task, plans[task.key], waits[task.key], now) for task in shown]

    def _task(self, task: ServedTask, plan: Plan, bound: float, now: float) -> TaskLine:
        past = self.history.tasks.get(task.key) or TaskHistory()
        pause = self.health.journal.board.paused(task.key)
        return {
            "key": task.key,
            "id": task.id,
            "handler": task.handler.name,
            "concurrency": task.concurrency,
            "in_hand": self.health.journal.in_hand(task.key),
            "overdue_threads": self.executors[task.handler.isolation].overdue(task.key),
            "timeout_seconds": task.longest,
            "on_crash": task.on_crash,
            "paused": None if pause is None else pause_line(pause),
            "next_poll": self._next_poll(task.key, plan, now),
            "pickup_delay_expected_seconds": round(self.schedule.expected(task.key), 3),
            "pickup_delay_bound_seconds": round(bound, 3),
            "polled_at": _moment(past.polled_at),
            "last_claim_at": _moment(past.claimed_at),
            "polls": past.polls,
            "hits": past.hits,
            "completed": past.completed,
            "failed": past.failed,
            "handler_seconds": _handler_seconds(past),
            "last_hour": _last_hour(past),
        }

    def _next_poll(self, task: str, plan: Plan, now: float) -> NextPoll:
        poller, held_off = self.health.poller, self.budget.held_off()
        if why := self._not_polled(task):
            return {"in_seconds": None, "why": why}
        if held_off and plan.at <= now + held_off:
            return {"in_seconds": round(held_off, 3), "why": "the platform has asked to wait (429)"}
        if poller.waits_for_budget and plan.at <= now:
            return {"in_seconds": None, "why": "as soon as the budget has a slot for it"}
        at = max(plan.at, poller.not_before)
        failed = at > plan.at or task in poller.failing()
        why = "after an outage: " + cut(poller.outage.reason, TEXT) if failed else plan.why
        return {"in_seconds": round(max(0.0, at - now), 3), "why": why}

    def _not_polled(self, task: str) -> str:
        """Say why the task is not polled at all just now, or give an empty text."""
        health, pause = self.health, self.health.journal.board.paused(task)
        if health.draining:
            return "the worker is stopping"
        if why := health.poller.paused() or (pause and pause.told()) or health.dispatcher.without_place(task):
            return why
        return "all its slots are taken" if health.dispatcher.free(task) <= 0 else ""

    def _counts(self) -> Counts:
        journal = self.health.journal
        running = journal.count(State.RUNNING)
        return {
            "claimed": journal.total_in_hand() - running,
            "running": running,
            "reports_waiting": journal.reports_waiting(),
            "undeliverable": journal.undeliverable,
        }

    def _executions(self, task: str) -> _Executions:
        in_hand, more_in_hand = self._first(IN_HAND, task)
        waiting, more_waiting = self._first({State.SETTLED}, task)
        return {
            "in_hand": {"shown": [self._in_hand(one) for one in in_hand], "left_out": more_in_hand},
            "reports": {
                "shown": [
                    {
                        "id": one.id,
                        "task": one.task,
                        "correlation_id": _short(one.correlation_id),
                        "settled_at": _moment(one.settled_at),
                        "status": None if one.outcome is None else one.outcome.status.value,
                        "code": None if one.outcome is None else _short(one.outcome.code),
                        "attempts": one.attempts,
                        "trouble": _short(one.trouble) or None,
                    }
                    for one in waiting
                ],
                "left_out": more_waiting,
            },
        }

    def _first(self, states: Collection[State], task: str) -> tuple[list[Execution], int]:
        """Give the first executions in these states, and how many there are beside them."""
        journal = self.health.journal
        total = sum(journal.count(state) for state in states)
        if not total:
            return [], 0
        found = (one for one in journal.open_executions() if one.state in states and task in one.task)
        first = list(islice(found, EXECUTIONS))
        # All that are left are counted one by one only where not all are meant.
        return first, sum(1 for _ in found) if task else total - len(first)

    def _in_hand(self, one: Execution) -> InHandLine:
        task, line = self.health.catalogue.tasks.get(one.task), self.history.lines.get(one.id)
        deadline = None
        if task is not None and one.started_at is not None:
            deadline = one.started_at + task.may_run(one.started_at - one.claimed_at)
        return {
            "id": one.id,
            "task": one.task,
            "state": one.state.value,
            "correlation_id": _short(one.correlation_id),
            "claimed_at": moment(one.claimed_at),
            "started_at": _moment(one.started_at),
            "deadline_at": _moment(deadline),
            "checkpoint": one.checkpoint is not None,
            "crashes": one.crashes,
            "last_line": None if line is None else {"at": moment(line.at), "level": line.level, "text": line.text},
        }

    def _failures(self, task: str) -> Failures:
        found = [one for one in reversed(self.history.failures.values()) if task in one.task]
        return {
            "shown": [
                {
                    "id": one.execution,
                    "task": one.task,
                    "correlation_id": _short(one.correlation),
                    "at": moment(one.at),
                    "code": cut(one.code, TEXT),
                    "message": cut(one.message, TEXT),
                }
                for one in found[:FAILURES]
            ],
            "left_out": max(0, len(found) - FAILURES),
        }

    def _undeliverable(self, task: str) -> Undeliverable:
        board = self.health.journal.board
        found = [one for one in board.undeliverable if task in one.task]
        shown = found[:FAILURES]
        return {
            "shown": [
                {
                    "id": one.id,
                    "task": one.task,
                    "correlation_id": _short(one.correlation_id),
                    "settled_at": _moment(one.settled_at),
                    "trouble": cut(one.trouble, TEXT),
                }
                for one in shown
            ],
            "left_out": (len(found) if task else max(len(found), self.health.journal.undeliverable)) - len(shown),
        }

    def _workers(self) -> list[WorkerLine]:
        journal = self.health.journal
        return [
            {
                "name": worker.holder,
                "this": worker.holder == journal.holder,
                "lease_left_seconds": round(worker.lease_left, 1),
                # Of this one it is known at once; of the others, as the last survey has found it.
                "open": journal.unreported() if worker.holder == journal.holder else worker.open,
            }
            for worker in islice(journal.board.workers, WORKERS)
        ]


class _Executions(TypedDict):
    in_hand: InHand
    reports: Reports


def moment(seconds: float) -> str:
    """Write a Unix time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def check_line(check: Check) -> CheckLine:
    """Write a check; its cure only where there is something to cure."""
    line: CheckLine = {"name": check.name, "ok": check.ok, "notable": check.notable, "reason": check.reason}
    return line if check.ok and not check.notable else {**line, "cure": check.cure}


def pause_line(pause: Action) -> PauseLine:
    """Write a pause."""
    return {
        "task": pause.subject or None,
        "who": pause.who,
        "why": pause.why,
        "since": moment(pause.at),
        "until": _moment(pause.until),
    }


def action_line(action: Action) -> ActionLine:
    """Write an action."""
    return {
        "at": moment(action.at),
        "who": action.who,
        "verb": action.verb,
        "subject": action.subject,
        "why": action.why,
        "until": _moment(action.until),
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else moment(seconds)


def _short(text: str | None) -> str | None:
    return None if text is None else cut(text, TEXT)


def _handler_seconds(past: TaskHistory) -> HandlerSeconds:
    ordered = sorted(past.durations)
    return {
        "p50": _at(ordered, 0.5),
        "p95": _at(ordered, 0.95),
        "longest": _at(ordered, 1.0),
        "calls": len(ordered),
    }


def _at(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


def _last_hour(past: TaskHistory) -> list[tuple[int, int, int]]:
    now = int(time.time() // 60)
    return [(max(0, now - minute), done, failed) for minute, done, failed in past.minutes if now - minute < MINUTES]

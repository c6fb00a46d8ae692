"""The status document: the one source of `/status` and of everything that shows the worker's state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from product_live_worker.executors.in_process import InProcess
from product_live_worker.executors.perform import Executor
from product_live_worker.flow.schedule import Plan, Schedule
from product_live_worker.model.execution import Execution, State
from product_live_worker.ops.health import Check, Health, verdict
from product_live_worker.product_live.budget import Budget

SHOWN = 100
"""Executions listed at most; the counts are of all."""


@dataclass(frozen=True)
class Status:
    """Writes the document from the stages as they are now."""

    health: Health
    schedule: Schedule
    executors: Mapping[str, Executor]
    processes: InProcess
    version: str
    platform: str
    budget: Budget
    started_at: float

    def document(self) -> dict[str, Any]:
        """Give the document; every moment is ISO 8601 in UTC, every duration in seconds."""
        checks = self.health.ready()
        return {
            "version": self.version,
            "platform": self.platform,
            "started_at": moment(self.started_at),
            "now": moment(time.time()),
            "ready": all(check.ok for check in checks),
            "verdict": verdict(checks),
            "checks": [check_line(check) for check in checks],
            "draining": self.health.draining or None,
            "last_successful_poll_at": moment(self.health.poller.succeeded_at),
            "poll_overdue_seconds": round(self.health.poller.overdue(), 3),
            "budget": {
                "limit": self.budget.limit,
                "allowed": self.budget.allowed(),
                "used": self.budget.used(),
                "window_seconds": self.budget.window,
            },
            "tasks": self._tasks(),
            "handler_processes": self.processes.count(),
            "executions": self._executions(),
        }

    def _tasks(self) -> list[dict[str, Any]]:
        waits, now = self.schedule.waits(), time.monotonic()
        plans = self.schedule.plans(now)
        journal = self.health.journal
        return [
            {
                "key": task.key,
                "id": task.id,
                "handler": task.handler.name,
                "concurrency": task.concurrency,
                "in_hand": journal.in_hand(task.key),
                "overdue_threads": self.executors[task.handler.isolation].overdue(task.key),
                "timeout_seconds": task.longest,
                "on_crash": task.on_crash,
                "next_poll": self._next_poll(task.key, plans[task.key], now),
                "pickup_delay_expected_seconds": round(self.schedule.expected(task.key), 3),
                "pickup_delay_bound_seconds": round(waits[task.key], 3),
            }
            for task in self.health.catalogue.tasks.values()
        ]

    def _next_poll(self, task: str, plan: Plan, now: float) -> dict[str, Any]:
        poller = self.health.poller
        if self.health.draining:
            return {"in_seconds": None, "why": "the worker is stopping"}
        if paused := poller.paused():
            return {"in_seconds": None, "why": paused}
        if self.health.dispatcher.free(task) <= 0:
            return {"in_seconds": None, "why": "all its slots are taken"}
        at = max(plan.at, poller.not_before)
        why = "after an outage: " + poller.outage.reason if at > plan.at else plan.why
        return {"in_seconds": round(max(0.0, at - now), 3), "why": why}

    def _executions(self) -> dict[str, Any]:
        journal = self.health.journal
        states = Counter(execution.state for execution in journal.open_executions())
        first = [_line(execution) for _, execution in zip(range(SHOWN), journal.open_executions(), strict=False)]
        return {
            "claimed": states[State.CLAIMED],
            "running": states[State.RUNNING],
            "reports_waiting": states[State.SETTLED],
            "undeliverable": journal.undeliverable,
            "open": first,
        }


def moment(seconds: float | None) -> str | None:
    """Write a Unix time as ISO 8601 in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def check_line(check: Check) -> dict[str, Any]:
    """Write a check; its cure only where there is something to cure."""
    return {"name": check.name, "ok": check.ok, "reason": check.reason, **({} if check.ok else {"cure": check.cure})}


def _line(execution: Execution) -> dict[str, Any]:
    return {
        "id": execution.id,
        "task": execution.task,
        "state": execution.state.value,
        "correlation_id": execution.correlation_id,
        "claimed_at": moment(execution.claimed_at),
        "started_at": moment(execution.started_at),
        "settled_at": moment(execution.settled_at),
        "attempts": execution.attempts,
        "trouble": execution.trouble or None,
    }

"""What an execution costs, as a ratio in one run; the figures are in benchmarks/."""

from __future__ import annotations

import sys

import pytest
from benchmarks.scale import Scale
from benchmarks.scenarios.no_limit import bare_costs, worker_costs

pytestmark = pytest.mark.anyio
EXECUTIONS = 400
MOST = 3.5
"""Times the bare loop's processor time; the goal is 3 over 2000 executions, and so few pay more for the first ones."""
ROUNDS = 3
"""What else runs on the machine only adds, so one good round of these shows what is possible."""


@pytest.mark.timeout(180)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processor time is read from /proc")
async def test_an_execution_costs_little_more_than_its_two_requests() -> None:
    """Journal, budget, validation, log and metrics included, the processor works at most 3.5 times as long."""
    ratios: list[float] = []
    while not ratios or (ratios[-1] > MOST and len(ratios) < ROUNDS):
        _, worker = await worker_costs(Scale(6.0), executions=EXECUTIONS)
        _, bare = await bare_costs(Scale(6.0), executions=EXECUTIONS)
        ratios.append(worker / bare)
    assert min(ratios) <= MOST

"""Round robin: idle polls evenly spaced over the tasks in turn, a task that had work is asked again at once.

python -m benchmarks.peers.round_robin URL KEY SECONDS TASK…
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

import httpx


async def main(url: str, key: str, spacing: float, keys: list[str]) -> None:
    """Serve the tasks with these keys."""
    async with httpx.AsyncClient(base_url=url, headers={"X-Api-Key": key}, trust_env=False, timeout=20) as http:
        listed = await http.get("/v1/data_factory/tasks", params={"size": "100"})
        tasks = [one["id"] for one in listed.json()["data"] if one["key"] in keys]
        due = time.monotonic()
        async with asyncio.TaskGroup() as reports:
            for task in itertools.cycle(tasks):
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due += spacing
                while (answer := await http.get(f"/v1/data_factory/tasks/{task}/poll")).status_code == 200:
                    reports.create_task(report(http, answer.json()))


async def report(http: httpx.AsyncClient, execution: dict[str, dict[str, int]]) -> None:
    """Run and report one execution."""
    output = {"result": 2 ** execution["input"]["power"]}
    body = {"id": execution["id"], "status": "COMPLETED", "output": output}
    await http.patch(f"/v1/data_factory/task_executions/{execution['id']}", json=body)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]))

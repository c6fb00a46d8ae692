"""The plain loop: poll every task every few seconds, run, report. No budget, no journal, a refusal is ignored.

python -m benchmarks.peers.plain_loop URL KEY SECONDS TASK…
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import httpx


async def serve(http: httpx.AsyncClient, task: str, every: float) -> None:
    """Poll one task for ever."""
    while True:
        with contextlib.suppress(httpx.HTTPError):
            await once(http, task)
        await asyncio.sleep(every)


async def once(http: httpx.AsyncClient, task: str) -> None:
    """Poll, and do what there is to do."""
    answer = await http.get(f"/v1/data_factory/tasks/{task}/poll")
    if answer.status_code == 200:
        execution = answer.json()
        output = {"result": 2 ** execution["input"]["power"]}
        body = {"id": execution["id"], "status": "COMPLETED", "output": output}
        await http.patch(f"/v1/data_factory/task_executions/{execution['id']}", json=body)


async def main(url: str, key: str, every: float, keys: list[str]) -> None:
    """Serve the tasks with these keys."""
    async with httpx.AsyncClient(base_url=url, headers={"X-Api-Key": key}, trust_env=False, timeout=20) as http:
        listed = await http.get("/v1/data_factory/tasks", params={"size": "100"})
        async with asyncio.TaskGroup() as loops:
            for task in listed.json()["data"]:
                if task["key"] in keys:
                    loops.create_task(serve(http, task["id"], every))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]))

"""Prometheus and Alertmanager, for real, on the files of deploy/prometheus, in quicker time."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from product_live_worker.listener import listen
from support.debian import unpacked
from support.processes import Running, running

if TYPE_CHECKING:
    from starlette.requests import Request

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
TOOLS = ROOT / "build" / "deploy-tools"
TIMES = 60
"""How much quicker the time of the files goes in the tests: a minute of theirs is a second."""
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def tool(name: str, package: str) -> str:
    """Give the path of a program of Debian's newest suite."""
    return str(unpacked(package, TOOLS) / "usr" / "bin" / name)


def quickened(text: str, times: int = TIMES) -> str:
    """Give the very same file with every duration so many times shorter: `for: 5m`, `[1h]`, `group_wait: 30s`.

    Nothing else of it is touched: what is tested are the expressions, labels, routes and inhibitions that are shipped.
    """

    def shorter(duration: re.Match[str]) -> str:
        return f"{duration[1]}{int(duration[2]) * _SECONDS[duration[3]] * 1000 // times}ms"

    return re.sub(r"(: |\[)(\d+)([smh])(?=[\]\s])", shorter, text)


@dataclass
class Monitoring:
    """What Prometheus answers, and what the webhooks of the receivers have been told."""

    url: str
    told: list[tuple[str, str, str]] = field(default_factory=list)
    """Receiver, status and name of each alert, in the order of their arrival."""

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Give the series that an expression has now."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as http:
            answer = await http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])

    async def holds(self, expression: str) -> None:
        """Wait until an expression has a series."""
        while not await self.query(expression):  # noqa: ASYNC110 (what is waited for is another process)
            await anyio.sleep(0.2)

    def firing(self) -> set[tuple[str, str]]:
        """Give all that ever fired: receiver and alert, without the prefix that all names have."""
        return {(receiver, alert) for receiver, status, alert in self.told if status == "firing"}

    def resolved(self) -> set[str]:
        """Give what has ended since."""
        return {alert for _, status, alert in self.told if status == "resolved"}


@asynccontextmanager
async def monitoring(folder: Path, *targets: str, times: int = TIMES) -> AsyncIterator[Monitoring]:
    """Run Prometheus and Alertmanager over these workers, so many times quicker, while the block runs."""
    watched = Monitoring(f"http://127.0.0.1:{free_port()}")
    alertmanager = f"127.0.0.1:{free_port()}"

    async def hear(request: Request) -> Response:
        for alert in json.loads(await request.body())["alerts"]:
            name = alert["labels"]["alertname"].removeprefix("ProductLiveWorker")
            watched.told.append((request.path_params["receiver"], alert["status"], name))
        return Response()

    async with listen(Starlette(routes=[Route("/{receiver}", hear, methods=["POST"])]), "127.0.0.1", 0) as hook:
        _write(folder / "alertmanager.yml", times, {"localhost:9099": f"127.0.0.1:{hook}"})
        _write(folder / "rules.yml", times, {})
        of_workers = ", ".join(f'"{target}"' for target in targets)
        _write(folder / "prometheus.yml", times, {"localhost:9093": alertmanager, '"localhost:8080"': of_workers})
        scraping = (
            tool("prometheus", "prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=prometheus",
            f"--web.listen-address={watched.url.removeprefix('http://')}",
        )
        alerting = (
            *_with_its_templates("prometheus-alertmanager"),
            tool("prometheus-alertmanager", "prometheus-alertmanager"),
            "--config.file=alertmanager.yml",
            "--storage.path=alertmanager",
            f"--web.listen-address={alertmanager}",
            "--cluster.listen-address=",
        )
        async with running(cwd=folder, variables={}, program=scraping) as prometheus:
            await _answers(watched.url, prometheus)
            # Prometheus looks for its targets for five seconds, in whatever pace: too long for the quickened rules.
            await watched.holds(f"count(up == 1) == {len(targets)}")
            await watched.holds('absent(ALERTS{alertstate="firing"})')
            async with running(cwd=folder, variables={}, program=alerting) as sending:
                await _answers(f"http://{alertmanager}", sending)
                yield watched


def _with_its_templates(package: str) -> tuple[str, ...]:
    """Give the command that lets a program see the files it has under /usr/share, without installing it."""
    share = unpacked(package, TOOLS) / "usr" / "share"
    script = 'mount -t overlay -o lowerdir="$0:/usr/share" overlay /usr/share && exec "$@"'
    return "unshare", "--mount", "sh", "-c", script, str(share)


async def _answers(url: str, program: Running) -> None:
    while not await _is_ready(url):
        assert program.process.returncode is None, program.output
        await anyio.sleep(0.05)


async def _is_ready(url: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"{url}/-/ready")).status_code == 200
    except httpx.TransportError:
        return False


def _write(target: Path, times: int, replaced: dict[str, str]) -> None:
    text = quickened((PROMETHEUS / target.name).read_text(encoding="utf-8"), times)
    for shipped, here in replaced.items():
        assert shipped in text, f"{target.name} no longer has {shipped}"
        text = text.replace(shipped, here)
    target.write_text(text, encoding="utf-8")


def free_port() -> int:
    """Find a port that nobody listens on, and that no connection of somebody else's is given meanwhile."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port

"""Gateways that die at every point: each accepted request has its one result, which its owner reads elsewhere."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow_worker.demo.processes import free_port
from tests.support.azurite import azurite
from tests.support.gateway import gateway_document, gateway_queues, worker_of_gateway
from tests.support.system import System, running_system

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL"),
]

POINTS = (
    *("before-add", "after-put_state", "after-send", "before-put_result", "before-put_state", "after-sync"),
    *("after-put_result", "before-complete", "after-complete", "after-get", "before-get", "after-changes"),
    *("after-add", "before-send", "after-mark_sent", "before-sync", "before-mark_sent"),
)
SEQUENCES = (POINTS[::2], POINTS[1::2])
"""The points at which each of the two replicas dies, one after another. It starts again each time."""
MAX_REQUESTS = 600
CONCURRENCY = 4


@dataclass
class Deaths:
    """The replicas, and the points at which they have died."""

    urls: list[str]
    points: list[str] = field(default_factory=list)
    surviving: int = 0
    """The number of replicas that do not die any more."""


@dataclass
class Owner:
    """A caller that starts requests, reads their results, and goes to the other replica whenever one fails."""

    deaths: Deaths
    client: httpx.AsyncClient
    results: dict[str, Any] = field(default_factory=dict)
    turn: int = 0

    async def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Repeat until a replica answers with something else than a failure."""
        while True:
            self.turn += 1
            try:
                response = await self.client.request(method, self.deaths.urls[self.turn % 2] + path, **more)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if response.status_code not in (429, 503):
                return response
            await asyncio.sleep(0.1)

    async def start_and_read(self, number: int) -> None:
        flow = "slow-report" if number % 4 == 0 else "create-quote"  # only a slow call has a state
        body = {"customer": f"Contoso {number}", "amount": number + 1}
        key = {"Idempotency-Key": f'"key-{number}"'}
        posted = await self.request("POST", f"/v1/flows/{flow}/requests", json=body, headers=key)
        assert posted.status_code in (200, 202), posted.text
        path = httpx.URL(posted.headers["Location"]).path
        while (answer := await self.request("GET", f"{path}?wait=5")).status_code != 200:
            assert answer.status_code == 202, answer.text
        self.results[path] = answer.json()


@asynccontextmanager
async def replicas(system: System, store: dict[str, Any]) -> AsyncIterator[Deaths]:
    arguments, deaths = [], Deaths([])
    for number, points in enumerate(SEQUENCES):
        port = free_port()
        file = system.folder / f"replica-{number}.json"
        file.write_text(json.dumps(gateway_document(system, port=port, store=store)), encoding="utf-8")
        arguments.append(f"{file}:{','.join((*points, 'never'))}")
        deaths.urls.append(f"http://127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.crashing_gateway", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    watching = asyncio.create_task(watch_deaths(process, deaths))
    try:
        yield deaths
    finally:
        process.stdin.close()
        await watching
        await process.wait()


async def watch_deaths(process: asyncio.subprocess.Process, deaths: Deaths) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        match line.decode().split():
            case ["ended", point]:
                deaths.points.append(point)
            case ["begun", "never"]:
                deaths.surviving += 1


@pytest.mark.parametrize("backend", ["sqlite", "table"])
async def test_every_accepted_request_has_its_one_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str
) -> None:
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(running_system(monkeypatch, gateway_queues()))
        store: dict[str, Any] = {"path": str(tmp_path / "gateway.sqlite3")}
        if backend == "table":
            tables = await stack.enter_async_context(azurite(tmp_path))
            store = {"backend": "table", "table_connection_string": tables.connection_string}
        await stack.enter_async_context(system.worker(worker_of_gateway(system)))
        deaths = await stack.enter_async_context(replicas(system, store))
        client = httpx.AsyncClient(headers={"Authorization": f"Bearer {system.claim()}"}, timeout=30)
        owner = Owner(deaths, await stack.enter_async_context(client))
        numbers = iter(range(MAX_REQUESTS))

        async def keep_starting() -> None:
            for number in numbers:
                await owner.start_and_read(number)
                if deaths.surviving == len(deaths.urls):
                    return

        await asyncio.gather(*(keep_starting() for _ in range(CONCURRENCY)))
        assert sorted(deaths.points) == sorted(point for points in SEQUENCES for point in points)
        assert not [result for result in owner.results.values() if result["status"] != "succeeded"]
        for path, result in owner.results.items():  # both replicas agree
            assert [(await owner.request("GET", path)).json() for _ in range(2)] == [result, result]
        calls = [call for flow in ("create-quote", "slow-report") for call in await system.calls(flow)]
        times = Counter(json.dumps(call["body"], sort_keys=True) for call in calls)
        assert set(times.values()) == {1}
        assert len(times) == len(owner.results)

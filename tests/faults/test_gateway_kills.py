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

START = "/v1/flows/create-quote/requests"
POINTS = (
    *("before-add", "after-add", "after-send", "after-mark_sent"),
    *("before-put_result", "after-put_result", "after-sync", "after-get", "after-changes"),
)
MAX_REQUESTS = 150
CONCURRENCY = 4


@dataclass
class Replica:
    """A gateway in a process."""

    point: str
    url: str
    is_alive: bool = True


@dataclass
class Owner:
    """A caller that starts requests, reads their results, and goes to another replica whenever one fails."""

    replicas: list[Replica]
    client: httpx.AsyncClient
    outputs: dict[int, Any] = field(default_factory=dict)
    turn: int = 0

    async def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Repeat until a replica answers with something else than a failure."""
        while True:
            alive = [replica for replica in self.replicas if replica.is_alive]
            self.turn += 1
            try:
                response = await self.client.request(method, alive[self.turn % len(alive)].url + path, **more)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
                continue
            if response.status_code not in (429, 503):
                return response
            await asyncio.sleep(0.1)

    async def start_and_read(self, number: int) -> None:
        body = {"customer": f"Contoso {number}", "amount": number + 1}
        posted = await self.request("POST", START, json=body, headers={"Idempotency-Key": f'"key-{number}"'})
        assert posted.status_code in (200, 202), posted.text
        path = httpx.URL(posted.headers["Location"]).path
        while True:
            answer = await self.request("GET", f"{path}?wait=5")
            if answer.status_code == 200:
                break
            assert answer.status_code == 202, answer.text
        self.outputs[number] = answer.json()
        for replica in self.replicas:  # the survivors agree
            if replica.point == "never":
                again = await self.client.get(replica.url + path)
                assert again.json() == answer.json()


@asynccontextmanager
async def replicas(system: System, store: dict[str, Any]) -> AsyncIterator[list[Replica]]:
    arguments, started = [], {}
    for point in (*POINTS, "never"):
        port = free_port()
        document = gateway_document(system, port=port, store=store)
        file = system.folder / f"{point}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        arguments.append(f"{file}:{point}")
        started[point] = Replica(point, f"http://127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.crashing_gateway", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    watching = asyncio.create_task(watch_deaths(process, started))
    try:
        async with httpx.AsyncClient() as client:
            for replica in started.values():
                await until_listening(client, replica)
        yield list(started.values())
    finally:
        process.stdin.close()
        await watching
        await process.wait()


async def watch_deaths(process: asyncio.subprocess.Process, started: dict[str, Replica]) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        started[line.decode().split()[1]].is_alive = False


async def until_listening(client: httpx.AsyncClient, replica: Replica) -> None:
    """Return once the replica answers, or is dead already: some points come at the start."""
    async with asyncio.timeout(60):
        while replica.is_alive:
            try:
                await client.get(f"{replica.url}/openapi.json")
                return
            except httpx.TransportError:
                await asyncio.sleep(0.1)


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
        gateways = await stack.enter_async_context(replicas(system, store))
        client = httpx.AsyncClient(headers={"Authorization": f"Bearer {system.claim()}"}, timeout=30)
        owner = Owner(gateways, await stack.enter_async_context(client))
        numbers = iter(range(MAX_REQUESTS))

        async def keep_starting() -> None:
            for number in numbers:
                await owner.start_and_read(number)
                if [replica.point for replica in gateways if replica.is_alive] == ["never"]:
                    return

        await asyncio.gather(*(keep_starting() for _ in range(CONCURRENCY)))
        assert [replica.point for replica in gateways if replica.is_alive] == ["never"]
        assert not [result for result in owner.outputs.values() if result["status"] != "succeeded"]
        calls = Counter(json.dumps(call["body"], sort_keys=True) for call in await system.calls("create-quote"))
        assert set(calls.values()) == {1}
        assert len(calls) == len(owner.outputs)

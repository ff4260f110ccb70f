"""Measures how soon after its publication a result is readable through every replica of a gateway.

The benchmark is the worker: it publishes results on the reply queue. Any of the two replicas may receive a result, so a
caller waits at each of them. The later of the two answers came through the other replica, by the changes of the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from pydantic import SecretStr

from bench.summary import Summary
from flow_contracts.message import Message
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import ServiceBus
from flow_worker.access.gateway_message_ids import prefix_of
from flow_worker.demo import gateway as front
from flow_worker.demo.environment import ROLE, SETTINGS, EmulatorClient, running_emulator, worker_environment
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import ServiceBusSettings
from tests.support.azurite import azurite, is_installed

MAX_P99_SECONDS = 1.0
STORES = ("sqlite", "table")
_REQUESTS, _REPLIES = "flow-requests-gateway", "flow-replies-gateway"
_CONCURRENCY = 8
_WARM_UP = 16
_SETTLED_SECONDS = 0.05
"""A caller waits this long before the result comes: its wait has reached the store."""

FLOW = "create-quote"
_START = f"/v1/flows/{FLOW}/requests"
_ACCEPTED = 202

Wait = Callable[[aiohttp.ClientSession, str], Coroutine[Any, Any, float]]
Settings = Callable[[EmulatorClient, front.GatewayPorts], str]
"""Returns the settings of a gateway in TOML, with the group `[gateway.store]` at the end."""


@dataclass(frozen=True, slots=True)
class Row:
    """The seconds from publication to the last of the two answers."""

    store: str
    long_poll: Summary
    stream: Summary

    @property
    def is_good(self) -> bool:
        """Whether the goal is reached."""
        return max(self.long_poll.p99, self.stream.p99) <= MAX_P99_SECONDS

    def lines(self) -> list[str]:
        """Return the row for people."""
        named = (("long poll", self.long_poll), ("events", self.stream))
        return [
            f"any replica      {summary.median * 1000:6.0f} ms p50, {summary.p99 * 1000:.0f} ms p99 from publication "
            f"to the result, {name}, store {self.store} (goal: p99 at most {MAX_P99_SECONDS * 1000:g})"
            for name, summary in named
        ]


async def measure(settings: Settings, count: int) -> list[Row]:
    """Measure `count` results of each kind in each store; in a table only if Azurite is installed."""
    rows = []
    for store in STORES if is_installed() else STORES[:1]:
        async with _running(settings, store) as stage:
            await asyncio.gather(*(stage.one(_poll) for _ in range(_WARM_UP)))
            polls = await stage.many(_poll, count)
            streams = await stage.many(_stream, count)
            rows.append(Row(store, Summary.of(polls), Summary.of(streams)))
    return rows


@dataclass
class _Stage:
    replicas: list[aiohttp.ClientSession]
    bus: ServiceBus
    turn: int = 0

    async def many(self, wait: Wait, count: int) -> list[float]:
        taken: list[float] = []

        async def repeat() -> None:
            while len(taken) < count:
                taken.append(await self.one(wait))

        await asyncio.gather(*(repeat() for _ in range(_CONCURRENCY)))
        return taken[:count]

    async def one(self, wait: Wait) -> float:
        """Start a request at one replica, wait at both, publish; return the time to the last answer."""
        self.turn += 1
        async with self.replicas[self.turn % len(self.replicas)].post(_START, json=None) as answer:
            document = await answer.json()
            if answer.status != _ACCEPTED:
                raise RuntimeError(f"the gateway answered {answer.status}: {document}")
        request_id = document["id"]
        waits = [asyncio.create_task(wait(replica, request_id)) for replica in self.replicas]
        await asyncio.sleep(_SETTLED_SECONDS)
        began = time.perf_counter()
        await self.bus.send(_REPLIES, _result(request_id))
        return max(await asyncio.gather(*waits)) - began


async def _poll(replica: aiohttp.ClientSession, request_id: str) -> float:
    async with replica.get(f"/v1/requests/{request_id}", params={"wait": "60"}) as answer:
        document = await answer.json()
    return _arrived(document["status"])


async def _stream(replica: aiohttp.ClientSession, request_id: str) -> float:
    async with replica.get(f"/v1/requests/{request_id}/events") as answer:
        text = await answer.text()
    return _arrived("succeeded" if "event: result" in text else "pending")


def _arrived(status: str) -> float:
    now = time.perf_counter()
    if status != "succeeded":
        raise RuntimeError(f"a request has the status {status}")
    return now


def _result(request_id: str) -> Message:
    message_id = prefix_of(_REQUESTS) + request_id
    result = FlowResult(
        status=Status.SUCCEEDED, flow=FLOW, output=1, correlation_id=request_id, request_message_id=message_id
    )
    return result.to_message(request_id, timedelta(hours=1))


@asynccontextmanager
async def _running(settings: Settings, store: str) -> AsyncIterator[_Stage]:
    """Run an emulator and two gateways with one store."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="flow-worker-bench-")))
        emulator = stack.enter_context(running_emulator(folder))
        shared = f'path = "{(folder / "gateway.sqlite3").as_posix()}"'
        if store == "table":
            tables = await stack.enter_async_context(azurite(folder))
            shared = f'backend = "table"\ntable_connection_string = "{tables.connection_string}"'
        urls = [_start(stack, folder / name, emulator, settings, shared) for name in ("one", "two")]
        headers = {"Authorization": f"Bearer {emulator.mint('ada', ROLE)}"}
        replicas = [await stack.enter_async_context(aiohttp.ClientSession(url, headers=headers)) for url in urls]
        connection = ServiceBusSettings(connection_string=SecretStr(emulator.connection_string))
        yield _Stage(replicas, await stack.enter_async_context(open_service_bus(connection)))


def _start(stack: AsyncExitStack, folder: Path, emulator: EmulatorClient, settings: Settings, store: str) -> str:
    """Start a gateway; return its URL."""
    folder.mkdir()
    ports = front.GatewayPorts.free()
    text = settings(emulator, ports).replace(f'path = "{front.STORE_FILE}"', store)
    text = text.replace(front.KEY_FILE, (folder.parent / front.KEY_FILE).as_posix())
    (folder / SETTINGS).write_text(text, encoding="utf-8")
    process = stack.enter_context(front.running_gateway(folder, worker_environment(emulator)))
    front.wait_until_ready(process, ports, folder)
    return ports.url

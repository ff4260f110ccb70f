"""Killed and stopped processes lose no request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from flow_contracts.client import FlowClient, FlowClientSync
from flow_worker.demo.environment import ROLE
from flow_worker.demo.processes import free_port
from tests.support.processes import start_emulator, start_worker, wait_ready

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_worker_reconnects_after_its_broker_was_killed_and_restarted(tmp_path: Path, cleanup: ExitStack) -> None:
    amqp_port, http_port, health_port = free_port(), free_port(), free_port()
    first, emulator = start_emulator(tmp_path, amqp_port, http_port)
    cleanup.callback(first.kill)
    worker = start_worker(tmp_path, emulator, health_port)
    cleanup.callback(worker.kill)
    wait_ready(worker, health_port)

    first.kill()
    wait_ready(worker, health_port, ready=False)
    second, emulator = start_emulator(tmp_path, amqp_port, http_port)
    cleanup.callback(second.kill)
    wait_ready(worker, health_port)

    with FlowClientSync.from_connection_string(emulator.connection_string) as client:
        sent = client.submit("notify-team", {}, claim=emulator.mint("ada", ROLE))
        assert client.wait(sent, timeout=120).status == "succeeded"
    assert worker.stop() == 0
    assert second.stop() == 0


async def test_sigterm_during_a_burst_loses_no_request(tmp_path: Path, cleanup: ExitStack) -> None:
    count = 120
    broker, emulator = await asyncio.to_thread(start_emulator, tmp_path)
    cleanup.callback(broker.kill)
    health_port = free_port()
    first = start_worker(tmp_path, emulator, health_port)
    cleanup.callback(first.kill)
    await asyncio.to_thread(wait_ready, first, health_port)
    slow_down = {"delay_seconds": 0.2}
    async with httpx.AsyncClient() as http:
        await http.put(f"{emulator.web_url}/emulator/flows/create-quote", json=slow_down)
    claim = await asyncio.to_thread(emulator.mint, "ada", ROLE)

    async with (
        FlowClient.from_connection_string(emulator.connection_string) as client,
        client.background() as background,
    ):
        sent = [
            await background.submit("create-quote", {"customer": "x", "amount": n + 1}, claim=claim)
            for n in range(count)
        ]
        await background.wait(sent[0], timeout=120)
        assert await asyncio.to_thread(first.stop) == 0
        done_before = await depth(emulator.web_url)
        second = start_worker(tmp_path, emulator, health_port)
        cleanup.callback(second.kill)
        results = await asyncio.gather(*(background.wait(one, timeout=120) for one in sent[1:]))
    assert done_before > 0, "the first worker did them all: the burst was too small to be interrupted"
    assert [result.status for result in results] == ["succeeded"] * (count - 1)
    async with httpx.AsyncClient() as http:
        calls = (await http.get(f"{emulator.web_url}/emulator/flows/create-quote/calls")).json()["calls"]
    assert len(calls) == count  # none lost, none called twice
    assert await asyncio.to_thread(second.stop) == 0


async def depth(web_url: str) -> int:
    """Return the number of active requests."""
    async with httpx.AsyncClient() as http:
        counts = (await http.get(f"{web_url}/emulator/queues")).json()
    waiting: int = counts["flow-requests"]["active"]
    return waiting

"""A burst of unproven requests holds nobody up for long, and each of its requests gets its one result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from flow_contracts.message import Message
from flow_contracts.request import CONTRACT
from flow_contracts.servicebus import ConnectionString, ServiceBus, ServiceBusUnavailable
from flow_contracts.servicebus.receiver import Receiver
from flow_worker.app import Ports, assembled
from flow_worker.runtime.burst import Sorting
from tests.support.system import System, running_system, short_lock, until

pytestmark = pytest.mark.timeout(120)

COUNT = 200
BODIES = (
    {"flow": "create-quote"},
    {"flow": "create-quote", "claim": "junk"},
    {"flow": "create-quote", "claim": "a.b.c"},
)
"""Without a claim, and with two that prove nothing."""


@pytest.fixture
async def system(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    async with running_system(monkeypatch, short_lock(5)) as running:
        yield running


async def send_burst(system: System, *, good_at: int | None = None) -> None:
    """Send unproven requests, and a proven one among them."""
    messages = [burst_message(json.dumps(BODIES[n % len(BODIES)]), f"burst-{n}") for n in range(COUNT)]
    if good_at is not None:
        good = {"flow": "create-quote", "input": {"customer": "x", "amount": 1}, "claim": system.claim()}
        messages.insert(good_at, burst_message(json.dumps(good), "good"))
    async with ServiceBus(ConnectionString(system.emulator.connection_string)) as bus:
        for start in range(0, len(messages), 100):
            await bus.send_all("flow-requests", messages[start : start + 100])


def burst_message(body: str, message_id: str) -> Message:
    return Message(
        body=body.encode(),
        content_type="application/json",
        message_id=message_id,
        correlation_id=message_id,
        application_properties={"contract": CONTRACT},
    )


async def until_answered(system: System, count: int) -> None:
    """Wait until all requests have left their queues; there is one result for each."""
    await until(lambda: not system.depth("active") and not system.depth("active", "flow-continuations"), 60)
    await until(lambda: system.depth("active", "flow-replies") >= count, 60)
    assert system.depth("active", "flow-replies") == count
    assert system.depth("dead_lettered") == 0


@contextmanager
def counted_receives(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    counts: list[int] = []
    receive = Receiver.receive_many

    async def receive_many(self: Receiver, max_messages: int, wait_seconds: float) -> Any:
        deliveries = await receive(self, max_messages, wait_seconds)
        counts.append(len(deliveries))
        return deliveries

    monkeypatch.setattr(Receiver, "receive_many", receive_many)
    yield counts


async def test_each_request_of_a_burst_gets_its_result_and_so_does_a_proven_one_in_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted_receives(monkeypatch) as counts:
        await send_burst(system, good_at=COUNT // 2)
        async with system.worker():
            await until_answered(system, COUNT + 1)
    assert max(counts) > 1
    assert sum(counts) > COUNT / 2
    assert len(await system.calls("create-quote")) == 1


async def test_a_worker_that_is_lost_while_refusals_wait_loses_none(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send_burst(system)
    lost = asyncio.Event()

    async def answer(sorting: Sorting) -> None:
        lost.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(Sorting, "_answer", answer)
        async with assembled(system.settings()) as supervisor:
            running = asyncio.create_task(supervisor.run())
            await asyncio.wait_for(lost.wait(), 30)
            running.cancel()
            await asyncio.wait([running])
    assert system.depth("active", "flow-replies") < COUNT
    async with system.worker():
        await until_answered(system, COUNT)


async def test_a_stop_answers_the_refusals_that_wait(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.Event()
    sort = Sorting._sort
    kept: list[Sorting] = []

    async def noticed(self: Sorting, deliveries: Any) -> None:
        await sort(self, deliveries)
        if self._waiting.refusals:
            kept.append(self)
            waiting.set()

    monkeypatch.setattr(Sorting, "_sort", noticed)
    await send_burst(system)
    async with system.worker():
        await asyncio.wait_for(waiting.wait(), 30)
    assert kept
    assert not any(sorting._waiting.refusals for sorting in kept)
    # Each message that left the request queue has its result; the others were not begun.
    assert system.depth("active", "flow-replies") == COUNT - system.depth("active")


async def test_a_queue_that_takes_no_batch_gets_each_result_alone(system: System) -> None:
    await send_burst(system)
    async with assembled(system.settings(), without_batches) as supervisor:
        running = asyncio.create_task(supervisor.run())
        await until_answered(system, COUNT)
        supervisor.stop()
        await running


def without_batches(ports: Ports) -> Ports:
    """Return ports whose queues take no batches, as partitioned queues with sessions do."""
    bus: Any = ports.bus

    async def refuse(*_: object) -> None:
        raise ServiceBusUnavailable("the messages of a batch must have one session")

    bus.send_all = refuse
    return replace(ports, bus=bus)

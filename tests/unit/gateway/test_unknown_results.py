"""A result of a request that the gateway's store does not have goes back for another gateway, and is never deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from flow_contracts.gateway_replies import RequestProgress
from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.result import FlowResult, Status
from flow_contracts.servicebus import Delivery
from flow_worker.gateway import reader as reader_module
from flow_worker.gateway.reader import UNKNOWN_DELIVERIES, ReplyReader
from flow_worker.gateway.store.port import PrincipalId, RequestRecord, RequestState, StateName, StoredRequest
from flow_worker.gateway.waiters import Waiters
from flow_worker.telemetry.health import LaneHealth
from tests.support.memory_gateway_store import MemoryGatewayStore

QUEUE = "flow-replies-gateway"
NOW = datetime(2026, 5, 4, tzinfo=UTC)


@dataclass
class Broker:
    """A queue that delivers an abandoned message again, to the receiver that asks next."""

    active: list[ReceivedMessage] = field(default_factory=list)
    dead: list[tuple[str, str]] = field(default_factory=list)
    completed: int = 0

    @asynccontextmanager
    async def receiver(self, _queue: str) -> AsyncIterator[Broker]:
        yield self

    async def receive(self) -> Delivery | None:
        await asyncio.sleep(0)
        if not self.active:
            return None
        return Delivery(self.active.pop(0), raw=cast(Any, None), lock_ends_at=float("inf"))

    async def complete(self, _: Delivery) -> None:
        self.completed += 1

    async def abandon(self, delivery: Delivery) -> None:
        message = delivery.message
        self.active.append(replace(message, delivery_count=message.delivery_count + 1))

    async def dead_letter(self, _: Delivery, reason: str, description: str) -> None:
        self.dead.append((reason, description))

    @property
    def is_empty(self) -> bool:
        return not self.active

    def add(self, message: Message) -> None:
        received = ReceivedMessage(
            body=message.body,
            application_properties=message.application_properties,
            correlation_id=message.correlation_id,
            enqueued_at=NOW,
        )
        self.active.append(received)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_GIVE_BACK_PAUSE_SECONDS", 0.001)


def gateway(broker: Broker, *request_ids: str) -> tuple[ReplyReader, MemoryGatewayStore]:
    store = MemoryGatewayStore()
    for each in request_ids:
        record = RequestRecord(each, PrincipalId("tenant", "ada"), None, "create-quote", "digest", NOW)
        store.requests[each] = StoredRequest(record, RequestState(StateName.QUEUED, NOW))
    reader = ReplyReader(
        f"{QUEUE}#0",
        QUEUE,
        bus=cast(Any, broker),
        store=store,
        waiters=Waiters(max_count=1),
        health=LaneHealth(QUEUE),
        reconnect_max_seconds=1,
    )
    return reader, store


async def process(reader: ReplyReader, broker: Broker) -> bool:
    """Let the reader process one delivery; return whether there was one."""
    delivery = await broker.receive()
    if delivery is None:
        return False
    await reader._process(cast(Any, broker), delivery)
    return True


def result(request_id: str = "request") -> Message:
    answer = FlowResult(
        status=Status.SUCCEEDED, output=1, correlation_id=request_id, request_message_id=request_id, flow="create-quote"
    )
    return answer.to_message(request_id, timedelta(hours=1))


async def test_another_gateway_gets_the_result_that_the_first_one_does_not_know() -> None:
    broker = Broker()
    other, _ = gateway(broker)
    own, store = gateway(broker, "request")
    broker.add(result())
    for reader in (other, other, other, other, own):  # a queue that takes its receivers in turn
        assert await process(reader, broker)
    assert store.requests["request"].result is not None
    assert broker.is_empty
    assert (broker.completed, broker.dead) == (1, [])


async def test_a_result_that_no_gateway_knows_ends_in_the_dead_letter_queue(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    reader, _ = gateway(broker)
    broker.add(result())
    deliveries = 0
    while await process(reader, broker):
        deliveries += 1
    assert deliveries == UNKNOWN_DELIVERIES < 10  # the queue's maximum, after which Service Bus gives the reason
    assert [reason for reason, _ in broker.dead] == ["request_unknown"]
    assert broker.completed == 0
    events = [getattr(each, "event", "") for each in caplog.records]
    assert events == ["gateway.result_returned", "gateway.result_unknown"]


async def test_a_reader_pauses_for_the_first_of_many_unknown_results_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the loss of a store, thousands of unknown results may stand before the results that somebody waits for."""
    monkeypatch.setattr(reader_module, "_GIVE_BACK_PAUSE_SECONDS", 0.2)
    broker = Broker()
    reader, _ = gateway(broker)
    for number in range(20):
        broker.add(result(f"request-{number}"))
    async with asyncio.timeout(2):  # 28 s if each of the 140 returns paused
        while await process(reader, broker):
            pass
    assert len(broker.dead) == 20


async def test_a_stopping_gateway_gives_an_unknown_result_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_GIVE_BACK_PAUSE_SECONDS", 60.0)
    broker = Broker()
    reader, _ = gateway(broker)
    broker.add(result())
    reader.stop()
    async with asyncio.timeout(2):
        assert await process(reader, broker)
    assert len(broker.active) == 1


async def test_a_state_of_an_unknown_request_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next state follows, and a state is worth less than a delivery."""
    broker = Broker()
    reader, store = gateway(broker)

    async def late(*_: object) -> bool:
        return False

    monkeypatch.setattr(store, "put_state", late)
    broker.add(RequestProgress(request="nobody", state="calling", at=NOW).to_message())
    assert await process(reader, broker)
    assert (broker.completed, broker.dead, broker.active) == (1, [], [])

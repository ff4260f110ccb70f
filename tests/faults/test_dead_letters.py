"""What the broker itself gives up is answered once, and stays in the dead-letter queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pydantic import JsonValue

from contracts.result import FlowResult
from tests.support.stage import WAIT, Stage, configured, running_stage, until

QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    properties = {"MaxDeliveryCount": 1, "LockDuration": "PT5S"}
    async with running_stage(monkeypatch, configured({"flow-requests": properties})) as running:
        yield running


def outcome(result: FlowResult | None) -> tuple[str, str | None]:
    assert result is not None, "no result came"
    return result.status, result.error.code if result.error else None


async def test_a_request_that_expired_in_the_queue_is_answered_so(stage: Stage) -> None:
    async with stage.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=stage.claim(), time_to_live=timedelta(milliseconds=50))
        unclaimed = await client.submit("create-quote", QUOTE, time_to_live=timedelta(milliseconds=50))
        await until(lambda: stage.depth("dead_lettered") == 2)
        async with stage.worker():
            assert outcome(await client.take(sent, WAIT)) == ("expired", "request_expired")
            assert outcome(await client.take(unclaimed, WAIT)) == ("expired", "request_expired")
        async with stage.worker():  # it looks through the dead letters once more
            await asyncio.sleep(1)
        assert await client.poll(sent) is None
    assert stage.depth("dead_lettered") == 2
    assert await stage.calls("create-quote") == []


async def test_a_request_that_was_delivered_too_often_has_failed(stage: Stage) -> None:
    requests = stage.emulator.broker.find("flow-requests")
    async with stage.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=stage.claim())
        await _take_and_drop(stage)
        await until(lambda: stage.depth("dead_lettered") == 1)
        async with stage.worker():
            assert outcome(await client.take(sent, WAIT)) == ("failed", "deliveries_exceeded")
    assert requests.peek(0, 1, None) == []
    assert await stage.calls("create-quote") == []


async def test_a_request_whose_call_was_lost_with_its_worker_is_unknown(stage: Stage) -> None:
    """The lock goes while the flow runs, the broker gives up: the worker at the call tells, nobody else."""
    await stage.put("flows/create-quote", {"delay_seconds": 1.5})
    requests = stage.emulator.broker.find("flow-requests")
    async with stage.worker(), stage.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=stage.claim())
        async with asyncio.timeout(WAIT):
            while not await stage.calls("create-quote"):  # noqa: ASYNC110 - the flow can only be asked
                await asyncio.sleep(0.02)
        requests.expire_locks()
        await until(lambda: stage.depth("dead_lettered") == 1)
        assert outcome(await client.take(sent, WAIT)) == ("succeeded", None)
        await asyncio.sleep(1)  # the watch comes round
        assert await client.poll(sent) is None
    assert len(await stage.calls("create-quote")) == 1


async def _take_and_drop(stage: Stage) -> None:
    """Receive the request once and leave it, so that the broker gives it up."""
    from azure.servicebus.aio import ServiceBusClient

    async with (
        ServiceBusClient.from_connection_string(stage.emulator.connection_string) as client,
        client.get_queue_receiver("flow-requests") as receiver,
    ):
        [message] = await receiver.receive_messages(max_wait_time=10)
        await receiver.abandon_message(message)

"""A request that the broker dead-letters gets one result, and stays in the dead-letter queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from pydantic import JsonValue

from flow_contracts.result import FlowResult
from flow_worker.service_bus import open_service_bus
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST
from servicebus_emulator.servicebus.faults import FaultPoint, InjectedRefusal
from tests.support.system import WAIT, JsonObject, System, configured, dead_letters, running_system, until
from tests.support.undecodable import undecodable_request

QUOTE: JsonValue = {"customer": "Contoso", "amount": 1}


@pytest.fixture(params=[False, True], ids=["numbers-kept", "renumbered"])
async def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[System]:
    """A broker that keeps the sequence numbers of dead letters, as the service seems to do, and one that does not."""
    properties = {"MaxDeliveryCount": 1, "LockDuration": "PT60S", "RenumberDeadLetters": request.param}
    window = {"DuplicateDetectionHistoryTimeWindow": "PT0.1S"}  # the tests look for what it would hide
    async with running_system(
        monkeypatch, configured({"flow-requests": properties, "flow-replies": window})
    ) as running:
        yield running


def outcome(result: FlowResult | None) -> tuple[str, str | None]:
    assert result is not None, "no result came"
    return result.status, result.error.code if result.error else None


async def test_a_request_that_expired_in_the_queue_ends_expired(system: System) -> None:
    async with system.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=system.claim(), time_to_live=timedelta(milliseconds=50))
        unclaimed = await client.submit("create-quote", QUOTE, time_to_live=timedelta(milliseconds=50))
        await until(lambda: system.depth("dead_lettered") == 2)
        async with system.worker():
            assert outcome(await client.take(sent, WAIT)) == ("expired", "request_expired")
            assert outcome(await client.take(unclaimed, WAIT)) == ("expired", "request_expired")
        async with system.worker():  # it looks through the dead letters once more
            await asyncio.sleep(1)
        assert system.depth("active", "flow-replies") == 0, "no copy came"
    assert system.depth("dead_lettered") == 2
    assert await system.calls("create-quote") == []


async def test_a_request_that_was_delivered_too_often_ends_failed(system: System) -> None:
    requests = system.emulator.broker.find("flow-requests")
    async with system.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        await _take_and_drop(system)
        await until(lambda: system.depth("dead_lettered") == 1)
        async with system.worker():
            assert outcome(await client.take(sent, WAIT)) == ("failed", "deliveries_exceeded")
    assert requests.peek(0, 1, None) == []
    assert await system.calls("create-quote") == []


async def test_a_request_that_is_dead_lettered_after_a_later_one_gets_its_result(system: System) -> None:
    """A broker that keeps the numbers puts the earlier request before the one that the watch answered first."""
    async with system.client() as client, _receiver(system) as receiver:
        early = await client.submit("create-quote", QUOTE, claim=system.claim())
        late = await client.submit("create-quote", QUOTE, claim=system.claim())
        messages = [(await receiver.receive_messages(max_wait_time=10))[0] for _ in range(2)]
        await receiver.abandon_message(messages[1])
        await until(lambda: system.depth("dead_lettered") == 1)
        async with system.worker():
            assert outcome(await client.take(late, WAIT)) == ("failed", "deliveries_exceeded")
            await receiver.abandon_message(messages[0])
            assert outcome(await client.take(early, WAIT)) == ("failed", "deliveries_exceeded")
            await _rounds(system, 2)
        async with system.worker():
            await _rounds(system, 2)
        assert [await client.poll(sent) for sent in (early, late)] == [None, None]


async def test_requests_of_a_queue_that_was_created_again_get_their_results(system: System) -> None:
    """The queue assigns the same sequence numbers once more, while the watch runs on."""
    await system.put("flows/create-quote", {"delay_seconds": 60})
    broker = system.emulator.broker
    one_lane = system.settings(request_queues=[{"name": "flow-requests", "lanes": 1}], shutdown_grace_seconds=0.2)
    short = timedelta(milliseconds=50)
    async with system.client() as client, system.worker(one_lane):
        await client.submit("create-quote", QUOTE, claim=system.claim())  # occupies the lane
        async with asyncio.timeout(WAIT):
            while not await system.calls("create-quote"):  # noqa: ASYNC110 - the flow can only be asked
                await asyncio.sleep(0.02)
        for _ in range(2):
            for count in (1, 2):
                sent = await client.submit("create-quote", QUOTE, claim=system.claim(), time_to_live=short)
                assert outcome(await client.take(sent, WAIT)) == ("expired", "request_expired")
                assert system.depth("dead_lettered") == count
            settings = broker.find("flow-requests").settings
            broker.delete("flow-requests")
            broker.create(settings)


async def test_a_published_request_whose_settlement_is_lost_is_not_published_again(system: System) -> None:
    """Service Bus dead-letters the request after its delivery; the watch must recognize it under either number."""
    requests = system.emulator.broker.find("flow-requests")
    async with system.client() as client:
        async with system.worker():
            first = await client.submit("create-quote", QUOTE, claim=system.claim())
            assert outcome(await client.take(first, WAIT)) == ("succeeded", None)
            refusals = system.emulator.broker.faults.refusals
            refusals.append(InjectedRefusal(FaultPoint.SETTLE, MESSAGE_LOCK_LOST, "Lost.", "flow-requests", 1))
            sent = await client.submit("create-quote", QUOTE, claim=system.claim())
            assert outcome(await client.take(sent, WAIT)) == ("succeeded", None)
            await until(lambda: not refusals)
            requests.expire_locks()
            await until(lambda: system.depth("dead_lettered") == 1)
            await asyncio.sleep(0.2)  # the window of duplicate detection
            await _rounds(system, 2)
        async with system.worker():
            await _rounds(system, 2)
        assert await client.poll(sent) is None
    assert len(await system.calls("create-quote")) == 2


async def test_a_request_that_is_dead_lettered_during_its_call_is_answered_by_the_calling_lane(system: System) -> None:
    """The lock expires while the flow runs, and the broker dead-letters the request: only the lane publishes."""
    await system.put("flows/create-quote", {"delay_seconds": 1.5})
    requests = system.emulator.broker.find("flow-requests")
    async with system.worker(), system.client() as client:
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        async with asyncio.timeout(WAIT):
            while not await system.calls("create-quote"):  # noqa: ASYNC110 - the flow can only be asked
                await asyncio.sleep(0.02)
        requests.expire_locks()
        await until(lambda: system.depth("dead_lettered") == 1)
        assert outcome(await client.take(sent, WAIT)) == ("succeeded", None)
        await asyncio.sleep(1)  # the watch comes round
        assert system.depth("active", "flow-replies") == 0, "no copy came"
    assert len(await system.calls("create-quote")) == 1


async def test_a_dead_letter_whose_continuation_does_not_fit_gets_one_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The lock expires during the call, Service Bus dead-letters the request, and the flow asks for a retry."""
    queues: dict[str, JsonObject] = {
        "flow-requests": {"MaxDeliveryCount": 1, "LockDuration": "PT60S"},
        "flow-continuations": {"MaxMessageSizeInKilobytes": 1},
    }
    async with running_system(monkeypatch, configured(queues)) as system:
        throttled = {"kind": "throttle", "retry_after": "1"}
        await system.put("flows/typed", {"delay_seconds": 1.5, "faults": [throttled], "input_schema": None})
        requests = system.emulator.broker.find("flow-requests")
        async with system.worker(), system.client() as client:
            sent = await client.submit("typed", "x" * 2000, claim=system.claim())
            async with asyncio.timeout(WAIT):
                while not await system.calls("typed"):  # noqa: ASYNC110 - the flow can only be asked
                    await asyncio.sleep(0.02)
            requests.expire_locks()
            await until(lambda: system.depth("dead_lettered") == 1)
            assert outcome(await client.take(sent, WAIT)) == ("failed", "continuation_too_large")
            await asyncio.sleep(1)  # the watch polls the dead-letter queue in the meantime
            assert system.depth("active", "flow-replies") == 0, "no copy came"
        async with open_service_bus(system.settings().servicebus) as bus:
            [dead_letter] = await dead_letters(bus, "flow-requests")
        assert dead_letter.reason == "MaxDeliveryCountExceeded"
    assert not [record for record in caplog.records if getattr(record, "event", None) == "dead_letter.postponed"]


async def test_undecodable_dead_letters_are_answered_and_do_not_delay_the_others(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK fails the peek of a whole page with a body that is nested too deeply, whatever its place in the page."""
    async with system.client() as client, _sender(system) as sender:
        await sender.send_messages(undecodable_request("deep-0", ttl_ms=50))
        sent = await client.submit("create-quote", QUOTE, claim=system.claim(), time_to_live=timedelta(milliseconds=50))
        for number in (1, 2):
            await sender.send_messages(undecodable_request(f"deep-{number}", ttl_ms=50))
        await until(lambda: system.depth("dead_lettered") == 4)
        async with system.worker():
            assert outcome(await client.take(sent, WAIT)) == ("expired", "request_expired")
            for number in range(3):
                assert outcome(await client.take(f"deep-{number}", WAIT)) == ("refused", "malformed_request")
            await asyncio.sleep(1)  # it looks once more
    published = [record for record in caplog.records if getattr(record, "event", None) == "dead_letter.undecodable"]
    assert [getattr(record, "fields", {})["message_id"] for record in published] == ["deep-0", "deep-1", "deep-2"]
    assert not [record for record in caplog.records if getattr(record, "event", None) == "periodic_task.failed"]


async def test_an_undecodable_request_is_refused_at_its_first_delivery(system: System) -> None:
    one_lane = system.settings(request_queues=[{"name": "flow-requests", "lanes": 1}])
    async with system.client() as client, _sender(system) as sender:
        await sender.send_messages(undecodable_request("deep"))
        sent = await client.submit("create-quote", QUOTE, claim=system.claim())
        async with system.worker(one_lane):
            refused = await client.take("deep", WAIT)
            assert outcome(refused) == ("refused", "malformed_request")
            assert refused is not None
            assert refused.error is not None
            assert "data section" in refused.error.message
            assert outcome(await client.take(sent, WAIT)) == ("succeeded", None)
    assert (system.depth("active"), system.depth("dead_lettered")) == (0, 0)


async def test_the_probe_takes_an_undecodable_message_as_an_answer_of_the_broker(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    settings = system.settings().servicebus.model_copy(update={"probe_interval_seconds": 0, "receive_wait_seconds": 1})
    async with open_service_bus(settings) as bus, bus.receiver("flow-requests") as receiver, _sender(system) as sender:
        await sender.send_messages(undecodable_request("deep", scheduled_in=timedelta(hours=1)))
        assert await receiver.receive() is None
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "the SDK failed to decode"
        await sender.send_messages(ServiceBusMessage("next", message_id="next"))
        delivery = None
        while delivery is None:
            delivery = await receiver.receive()
        assert delivery.message.message_id == "next"


@asynccontextmanager
async def _receiver(system: System) -> AsyncIterator[ServiceBusReceiver]:
    async with (
        ServiceBusClient.from_connection_string(system.emulator.connection_string) as client,
        client.get_queue_receiver("flow-requests") as receiver,
    ):
        yield receiver


async def _rounds(system: System, count: int) -> None:
    """Wait while the watch inspects the request queue's dead letters: each round peeks at them."""
    dead_letters = system.emulator.broker.find("flow-requests/$deadletterqueue")
    peek, seen = dead_letters.peek, 0

    def counting(number: int, count: int, session_id: str | None) -> list[BrokeredMessage]:
        nonlocal seen
        page = peek(number, count, session_id)
        seen += not page
        return page

    dead_letters.peek = counting  # type: ignore[method-assign]  # no other event announces a round
    await until(lambda: seen > count)
    dead_letters.peek = peek  # type: ignore[method-assign]


@asynccontextmanager
async def _sender(system: System) -> AsyncIterator[ServiceBusSender]:
    async with (
        ServiceBusClient.from_connection_string(system.emulator.connection_string) as client,
        client.get_queue_sender("flow-requests") as sender,
    ):
        yield sender


async def _take_and_drop(system: System) -> None:
    """Receive the request once and abandon it, so that the broker dead-letters it."""
    async with (
        ServiceBusClient.from_connection_string(system.emulator.connection_string) as client,
        client.get_queue_receiver("flow-requests") as receiver,
    ):
        [message] = await receiver.receive_messages(max_wait_time=10)
        await receiver.abandon_message(message)

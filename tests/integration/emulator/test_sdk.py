"""The unmodified azure-servicebus SDK works with the emulator as with Service Bus: the asyncio clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageSizeExceededError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST
from servicebus_emulator.servicebus.faults import FaultPoint
from tests.support.emulator import Bus, emulator
from tests.support.receiving import receive

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUES = (
    QueueSettings("plain", max_delivery_count=3),
    QueueSettings("short", lock_seconds=2, max_delivery_count=2),
    QueueSettings("unique", requires_duplicate_detection=True),
    QueueSettings("sessions", requires_session=True),
    QueueSettings("brief-sessions", requires_session=True, lock_seconds=2),
    QueueSettings("expiring", default_ttl_seconds=1, dead_letter_on_expiration=True),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[Bus]:
    async with emulator(*QUEUES) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(bus: Bus) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sender(client: ServiceBusClient) -> AsyncIterator[ServiceBusSender]:
    async with client.get_queue_sender("plain") as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver(client: ServiceBusClient) -> AsyncIterator[ServiceBusReceiver]:
    async with client.get_queue_receiver("plain") as one:
        yield one


async def send(client: ServiceBusClient, queue: str, *messages: ServiceBusMessage) -> None:
    async with client.get_queue_sender(queue) as one:
        for message in messages:
            await one.send_messages(message)


async def test_a_message_arrives_as_it_was_sent(
    sender: ServiceBusSender, receiver: ServiceBusReceiver, bus: Bus
) -> None:
    sent = ServiceBusMessage(
        b"body",
        message_id="m-1",
        correlation_id="c-1",
        content_type="text/plain",
        subject="subject",
        reply_to="replies",
        reply_to_session_id="rs",
        to="to",
        application_properties={"number": 1, "text": "ä", "yes": True},
        time_to_live=timedelta(minutes=5),
    )
    await sender.send_messages(sent)
    (got,) = await receiver.receive_messages(max_wait_time=5)
    assert b"".join(got.body) == b"body"
    assert (got.message_id, got.correlation_id, got.content_type, got.subject) == (
        "m-1",
        "c-1",
        "text/plain",
        "subject",
    )
    assert (got.reply_to, got.reply_to_session_id, got.to) == ("replies", "rs", "to")
    assert got.application_properties == {b"number": 1, b"text": "ä".encode(), b"yes": True}
    assert (got.delivery_count, got.time_to_live, got.state) == (0, timedelta(minutes=5), ServiceBusMessageState.ACTIVE)
    assert got.expires_at_utc == got.enqueued_time_utc + timedelta(minutes=5)  # type: ignore[operator]  # set by the broker
    assert got.locked_until_utc is not None
    assert got.locked_until_utc > datetime.now(UTC)
    await receiver.complete_message(got)
    assert bus.broker.counts()["plain"]["active"] == 0


async def test_every_settlement_has_its_effect(
    sender: ServiceBusSender, receiver: ServiceBusReceiver, client: ServiceBusClient, bus: Bus
) -> None:
    batch = await sender.create_message_batch()
    for name in ("complete", "abandon", "defer", "dead-letter"):
        batch.add_message(ServiceBusMessage(name))
    await sender.send_messages(batch)
    messages = {str(got): got for got in await receive(receiver, 4)}
    assert list(messages) == ["complete", "abandon", "defer", "dead-letter"]
    await receiver.complete_message(messages["complete"])
    await receiver.abandon_message(messages["abandon"])
    await receiver.defer_message(messages["defer"])
    await receiver.dead_letter_message(messages["dead-letter"], reason="why", error_description="because")
    assert bus.broker.counts()["plain"] == {"active": 1, "deferred": 1, "scheduled": 0, "dead_lettered": 1}

    (again,) = await receiver.receive_messages(max_wait_time=5)
    assert (str(again), again.delivery_count) == ("abandon", 1)
    await receiver.complete_message(again)
    number = messages["defer"].sequence_number
    assert number is not None
    (deferred,) = await receiver.receive_deferred_messages(number)
    await receiver.complete_message(deferred)
    async with client.get_queue_receiver("plain", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as below:
        (dead,) = await below.receive_messages(max_wait_time=5)
        assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("why", "because")
        await below.complete_message(dead)
    assert set(bus.broker.counts()["plain"].values()) == {0}


async def test_a_message_is_scheduled_cancelled_and_peeked(
    sender: ServiceBusSender, receiver: ServiceBusReceiver, bus: Bus
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    later = datetime.now(UTC) + timedelta(hours=1)
    numbers = await sender.schedule_messages([ServiceBusMessage("soon")], soon)
    cancelled = await sender.schedule_messages([ServiceBusMessage("never")], later)
    peeked = await receiver.peek_messages(10, sequence_number=numbers[0])
    assert [(str(one), one.state) for one in peeked] == [
        ("soon", ServiceBusMessageState.SCHEDULED),
        ("never", ServiceBusMessageState.SCHEDULED),
    ]
    await sender.cancel_scheduled_messages(cancelled)
    with pytest.raises(ServiceBusError):
        await sender.cancel_scheduled_messages(cancelled)
    (got,) = await receiver.receive_messages(max_wait_time=10)
    assert str(got) == "soon"
    await receiver.complete_message(got)
    assert bus.broker.counts()["plain"]["scheduled"] == 0


async def test_a_lock_is_renewed_and_lost_and_the_message_is_dead_lettered(client: ServiceBusClient, bus: Bus) -> None:
    await send(client, "short", ServiceBusMessage("x"))
    async with client.get_queue_receiver("short") as one:
        (got,) = await one.receive_messages(max_wait_time=5)
        until = got.locked_until_utc
        renewed = await one.renew_message_lock(got)
        assert until is not None
        assert renewed >= until
        await asyncio.sleep(2.2)  # longer than the lock duration
        with pytest.raises(MessageLockLostError):
            await one.complete_message(got)
        (again,) = await one.receive_messages(max_wait_time=5)
        assert again.delivery_count == 1
        await one.abandon_message(again)
        assert bus.broker.counts()["short"] == {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 1}


async def test_a_refused_settlement_raises_its_own_error(client: ServiceBusClient, bus: Bus) -> None:
    await send(client, "unique", ServiceBusMessage("x"))
    async with client.get_queue_receiver("unique") as one:
        (got,) = await one.receive_messages(max_wait_time=5)
        bus.broker.faults.refuse(FaultPoint.SETTLE, MESSAGE_LOCK_LOST, times=1)
        with pytest.raises(MessageLockLostError):
            await one.complete_message(got)


async def test_receive_and_delete_and_duplicate_detection_work(client: ServiceBusClient, bus: Bus) -> None:
    before = bus.broker.counts()["unique"]["active"]
    await send(client, "unique", *(ServiceBusMessage("x", message_id="same") for _ in range(3)))
    assert bus.broker.counts()["unique"]["active"] == before + 1
    deleting = client.get_queue_receiver("unique", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    async with deleting as one:
        (got,) = await one.receive_messages(max_wait_time=5)
        assert got.message_id == "same"
    assert bus.broker.counts()["unique"]["active"] == before


async def test_an_expired_message_is_dead_lettered(client: ServiceBusClient, bus: Bus) -> None:
    await send(client, "expiring", ServiceBusMessage("x"))
    async with asyncio.timeout(60):
        while bus.broker.counts()["expiring"]["dead_lettered"] == 0:  # noqa: ASYNC110 - the broker's timer has no event
            await asyncio.sleep(0.05)
    assert bus.broker.counts()["expiring"]["active"] == 0


async def test_messages_up_to_the_limit_are_accepted_and_larger_ones_are_rejected(
    sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    await sender.send_messages(ServiceBusMessage(b"x" * 250_000))
    (got,) = await receiver.receive_messages(max_wait_time=5)
    assert len(b"".join(got.body)) == 250_000
    await receiver.complete_message(got)
    with pytest.raises(MessageSizeExceededError):
        await sender.send_messages(ServiceBusMessage(b"x" * 300_000))
    await sender.send_messages(ServiceBusMessage("the link still works"))
    (got,) = await receiver.receive_messages(max_wait_time=5)
    await receiver.complete_message(got)


async def test_a_session_is_locked_has_state_and_is_received_in_order(client: ServiceBusClient) -> None:
    await send(client, "sessions", *(ServiceBusMessage(text, session_id="a") for text in ("one", "two")))
    async with client.get_queue_receiver("sessions", session_id="a") as held:
        assert held.session.session_id == "a"
        assert [str(one) for one in await held.peek_messages(5)] == ["one", "two"]
        await held.session.set_state(b"state")
        assert await held.session.get_state() == b"state"
        assert await held.session.renew_lock() > datetime.now(UTC)
        with pytest.raises(SessionCannotBeLockedError):
            async with client.get_queue_receiver("sessions", session_id="a"):
                pass
        got = await receive(held, 2)
        assert [str(one) for one in got] == ["one", "two"]
        await held.complete_message(got[0])
        await held.complete_message(got[1])


async def test_a_receiver_waits_for_the_next_session(client: ServiceBusClient) -> None:
    async def accept() -> str:
        async with client.get_queue_receiver("sessions", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20) as held:
            (got,) = await held.receive_messages(max_wait_time=5)
            await held.complete_message(got)
            return str(held.session.session_id)

    waiting = asyncio.create_task(accept())
    await send(client, "sessions", ServiceBusMessage("x", session_id="late"))
    assert await waiting == "late"
    with pytest.raises(OperationTimeoutError):
        async with client.get_queue_receiver("sessions", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1):
            pass


async def test_a_session_whose_lock_ended_is_lost(client: ServiceBusClient) -> None:
    await send(client, "brief-sessions", ServiceBusMessage("x", session_id="a"))
    async with client.get_queue_receiver("brief-sessions", session_id="a") as held:
        await asyncio.sleep(2.5)  # longer than the lock duration
        with pytest.raises(SessionLockLostError):
            await held.receive_messages(max_wait_time=2)


async def refusal(opened: AbstractAsyncContextManager[object]) -> ServiceBusError:
    """Return the error that opening a sender or receiver raises."""
    with pytest.raises(ServiceBusError) as error:
        async with opened:
            pass
    return error.value


async def test_missing_entities_and_forbidden_operations_raise_the_services_errors(client: ServiceBusClient) -> None:
    *missing, unlike, like = await asyncio.gather(
        refusal(client.get_queue_receiver("not-there")),
        refusal(client.get_queue_sender("not-there")),
        refusal(client.get_queue_receiver("sessions")),
        refusal(client.get_queue_receiver("plain", session_id="a")),
    )
    assert [type(error) for error in missing] == [ServiceBusAuthenticationError] * 2  # as at the service
    assert ["404" in str(error.inner_exception) for error in missing] == [True] * 2
    assert "amqp:not-allowed" in str(unlike)
    assert "amqp:not-allowed" in str(like)
    with pytest.raises(ServiceBusError, match="amqp:not-allowed"):
        await send(client, "sessions", ServiceBusMessage("no session"))


async def test_queue_names_ignore_case(client: ServiceBusClient, bus: Bus) -> None:
    before = bus.broker.counts()["plain"]["active"]
    await send(client, "PLAIN", ServiceBusMessage("x"))
    assert bus.broker.counts()["plain"]["active"] == before + 1

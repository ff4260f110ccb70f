"""Receiving with azure-servicebus: prefetch, iteration, concurrent sessions, deferral and close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType

from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from tests.support.emulator import Bus, emulator
from tests.support.receiving import receive

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUES = (
    QueueSettings("bodies"),
    QueueSettings("many"),
    QueueSettings("closing"),
    QueueSettings("deferring"),
    QueueSettings("mixed"),
    QueueSettings("sessions", requires_session=True),
    QueueSettings("listed", requires_session=True),
)
EMPTY = {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 0}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[Bus]:
    async with emulator(*QUEUES) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(bus: Bus) -> AsyncIterator[ServiceBusClient]:
    async with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


class Senders:
    """A sender for each queue, opened at its first use: the SDK needs a second to open and close one."""

    def __init__(self, client: ServiceBusClient) -> None:
        self._client = client
        self._opened: dict[str, ServiceBusSender] = {}

    async def __call__(self, queue: str, messages: list[ServiceBusMessage] | list[AmqpAnnotatedMessage]) -> None:
        """Send messages to a queue."""
        if queue not in self._opened:
            self._opened[queue] = self._client.get_queue_sender(queue)
        await self._opened[queue].send_messages(messages)

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._opened.values()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def send(client: ServiceBusClient) -> AsyncIterator[Senders]:
    senders = Senders(client)
    yield senders
    await senders.close()


def numbers(messages: Sequence[ServiceBusReceivedMessage]) -> list[int]:
    """Return the messages' sequence numbers."""
    return [one.sequence_number or 0 for one in messages]


# --- without sessions --------------------------------------------------------------------------------------------


async def test_every_kind_of_body_arrives_as_it_was_sent(client: ServiceBusClient, send: Senders) -> None:
    sent = [
        AmqpAnnotatedMessage(data_body=[b"in", b"parts"]),
        AmqpAnnotatedMessage(value_body={"answer": 42, "nested": [True, None, 1.5]}),
        AmqpAnnotatedMessage(sequence_body=[[1, "two"], [3]]),
    ]
    await send("bodies", sent)
    async with client.get_queue_receiver("bodies") as receiver:
        got = await receive(receiver, 3)
        assert [one.body_type for one in got] == [
            AmqpMessageBodyType.DATA,
            AmqpMessageBodyType.VALUE,
            AmqpMessageBodyType.SEQUENCE,
        ]
        data, value, sequence = (one.body for one in got)
        assert list(data) == [b"in", b"parts"]
        assert value == {b"answer": 42, b"nested": [True, None, 1.5]}
        assert list(sequence) == [[1, b"two"], [3]]
        for one in got:
            await receiver.complete_message(one)


async def test_a_prefetching_receiver_iterates_over_more_messages_than_its_prefetch_count(
    client: ServiceBusClient, send: Senders, bus: Bus
) -> None:
    await send("many", [ServiceBusMessage(str(number)) for number in range(120)])
    seen = []
    async with client.get_queue_receiver("many", prefetch_count=30, max_wait_time=1) as receiver:
        async for one in receiver:
            seen.append(str(one))
            await receiver.complete_message(one)
    assert seen == [str(number) for number in range(120)]
    assert bus.broker.counts()["many"] == EMPTY


async def test_two_receivers_share_a_queue_without_duplicates(
    client: ServiceBusClient, send: Senders, bus: Bus
) -> None:
    deleting = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    async with (
        client.get_queue_receiver("many", receive_mode=deleting, max_wait_time=5) as left,
        client.get_queue_receiver("many", receive_mode=deleting, max_wait_time=5) as right,
    ):
        waiting = [asyncio.create_task(one.receive_messages(20, max_wait_time=5)) for one in (left, right)]
        await send("many", [ServiceBusMessage(str(number)) for number in range(40)])
        got = [str(one) for part in await asyncio.gather(*waiting) for one in part]
        for one in (left, right):
            if len(got) < 40:
                got += [str(more) for more in await one.receive_messages(40 - len(got), max_wait_time=1)]
    assert sorted(got, key=int) == [str(number) for number in range(40)]
    assert bus.broker.counts()["many"] == EMPTY


async def test_closing_releases_prefetched_messages_without_counting_a_delivery(
    client: ServiceBusClient, send: Senders, bus: Bus
) -> None:
    await send("closing", [ServiceBusMessage(str(number)) for number in range(10)])
    async with client.get_queue_receiver("closing", prefetch_count=9) as receiver:
        [first] = await receiver.receive_messages(1, max_wait_time=5)
        await receiver.complete_message(first)
    async with client.get_queue_receiver("closing") as receiver:
        rest = await receive(receiver, 9)
        assert sorted(str(one) for one in rest) == [str(number) for number in range(1, 10)]
        assert {one.delivery_count for one in rest} == {0}
        for one in rest:
            await receiver.complete_message(one)
    assert bus.broker.counts()["closing"] == EMPTY


async def test_deferred_messages_can_be_settled_in_every_way(client: ServiceBusClient, send: Senders, bus: Bus) -> None:
    await send("deferring", [ServiceBusMessage(str(number)) for number in range(5)])
    async with client.get_queue_receiver("deferring") as receiver:
        for one in await receive(receiver, 5):
            await receiver.defer_message(one)
        complete, abandon, dead_letter, defer, last = await receiver.receive_deferred_messages([1, 2, 3, 4, 5])
        await receiver.complete_message(complete)
        await receiver.abandon_message(abandon)
        await receiver.dead_letter_message(dead_letter, reason="why", error_description="because")
        await receiver.defer_message(defer)
        assert await receiver.renew_message_lock(last) > datetime.now(UTC)
        await receiver.complete_message(last)
        [again] = await receiver.receive_deferred_messages(2)
        assert again.delivery_count == 2  # one deferral and one abandonment
        await receiver.complete_message(again)
    assert bus.broker.counts()["deferring"] == EMPTY | {"deferred": 1, "dead_lettered": 1}
    deleting = client.get_queue_receiver("deferring", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    async with deleting:
        assert numbers(await deleting.receive_deferred_messages(4)) == [4]
    below = client.get_queue_receiver("deferring", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    async with below:
        [peeked] = await below.peek_messages(5)
        assert (peeked.dead_letter_reason, peeked.dead_letter_error_description) == ("why", "because")
        [dead] = await below.receive_messages(max_wait_time=5)
        await below.complete_message(dead)
    assert bus.broker.counts()["deferring"] == EMPTY


async def test_a_message_can_be_settled_by_another_receiver(client: ServiceBusClient, send: Senders, bus: Bus) -> None:
    await send("mixed", [ServiceBusMessage("x")])
    async with client.get_queue_receiver("mixed") as one:
        [got] = await one.receive_messages(max_wait_time=5)
    async with client.get_queue_receiver("mixed") as other:
        await other.complete_message(got)
    assert bus.broker.counts()["mixed"] == EMPTY


async def test_a_message_may_carry_its_scheduled_enqueue_time(client: ServiceBusClient, send: Senders) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1)
    await send("mixed", [ServiceBusMessage("later", scheduled_enqueue_time_utc=due)])
    async with client.get_queue_receiver("mixed") as receiver:
        [got] = await receiver.receive_messages(max_wait_time=10)
        assert got.enqueued_time_utc is not None
        assert got.enqueued_time_utc >= due - timedelta(milliseconds=2)
        await receiver.complete_message(got)


# --- with sessions -----------------------------------------------------------------------------------------------


async def test_next_available_sessions_differ_and_closing_one_releases_it(
    client: ServiceBusClient, send: Senders
) -> None:
    await send("sessions", [ServiceBusMessage(name, session_id=name) for name in ("one", "two")])
    async with AsyncExitStack() as stack:
        held = [
            await stack.enter_async_context(
                client.get_queue_receiver("sessions", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5)
            )
            for _ in range(2)
        ]
        assert [one.session.session_id for one in held] == ["one", "two"]
        assert len(await held[0].receive_messages(max_wait_time=5)) == 1
        [kept] = await held[1].receive_messages(max_wait_time=5)
        await held[1].complete_message(kept)
    async with client.get_queue_receiver("sessions", session_id="one") as again:
        [got] = await again.receive_messages(max_wait_time=5)
        assert (str(got), got.delivery_count) == ("one", 0)
        await again.complete_message(got)


async def test_messages_of_a_session_can_be_settled_in_every_way(
    client: ServiceBusClient, send: Senders, bus: Bus
) -> None:
    names = ("complete", "abandon", "defer", "dead-letter")
    await send("sessions", [ServiceBusMessage(name, session_id="s") for name in names])
    async with client.get_queue_receiver("sessions", session_id="s") as receiver:
        complete, abandon, defer, dead_letter = await receive(receiver, 4)
        await receiver.complete_message(complete)
        await receiver.abandon_message(abandon)
        await receiver.defer_message(defer)
        await receiver.dead_letter_message(dead_letter, reason="why")
        [again] = await receiver.receive_messages(max_wait_time=5)
        assert (str(again), again.delivery_count) == ("abandon", 1)
        await receiver.complete_message(again)
        [deferred] = await receiver.receive_deferred_messages(numbers([defer]))
        await receiver.complete_message(deferred)
    async with client.get_queue_receiver("sessions", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as below:
        [dead] = await below.receive_messages(max_wait_time=5)
        assert (dead.session_id, dead.dead_letter_reason) == ("s", "why")
        await below.complete_message(dead)
    assert bus.broker.counts()["sessions"] == EMPTY


async def test_a_session_can_be_received_in_receive_and_delete_mode(
    client: ServiceBusClient, send: Senders, bus: Bus
) -> None:
    await send("sessions", [ServiceBusMessage(text, session_id="d") for text in "ab"])
    deleting = client.get_queue_receiver(
        "sessions", session_id="d", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE
    )
    async with deleting:
        assert [str(one) for one in await receive(deleting, 2)] == ["a", "b"]
    assert bus.broker.counts()["sessions"] == EMPTY


async def test_messages_can_be_scheduled_into_a_session(client: ServiceBusClient, send: Senders) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1)
    await send("sessions", [ServiceBusMessage("later", session_id="timed", scheduled_enqueue_time_utc=due)])
    async with client.get_queue_receiver("sessions", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20) as receiver:
        assert receiver.session.session_id == "timed"
        [got] = await receiver.receive_messages(max_wait_time=5)
        await receiver.complete_message(got)


async def test_sessions_are_listed_by_page_and_by_the_time_their_state_was_set(
    client: ServiceBusClient, send: Senders
) -> None:
    names = [f"{number:03}" for number in range(230)]
    await send("listed", [ServiceBusMessage("x", session_id=name) for name in names])
    assert [name async for name in client.list_queue_sessions("listed")] == names
    before = datetime.now(UTC) - timedelta(seconds=1)
    async with client.get_queue_receiver("listed", session_id="with state") as receiver:
        await receiver.session.set_state("text")
        recent = client.list_queue_sessions("listed", state_updated_after=before)
        assert [name async for name in recent] == ["with state"]
        await receiver.session.set_state(None)
        assert await receiver.session.get_state() is None
        assert [name async for name in client.list_queue_sessions("listed", state_updated_after=before)] == []

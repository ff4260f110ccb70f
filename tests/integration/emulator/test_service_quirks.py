"""Service quirks from the documentation and from the SDKs' live tests, as azure-servicebus sees them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.exceptions import MessageNotFoundError

from servicebus_emulator.testing import EmulatedServiceBus, QueueSettings, running_service_bus_in_thread
from tests.support.receiving import receive_blocking

EMPTY = {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 0}


@pytest.fixture(scope="module")
def bus() -> Iterator[EmulatedServiceBus]:
    with running_service_bus_in_thread(
        "plain", QueueSettings("expiring", dead_letter_on_expiration=True, default_ttl_seconds=600)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(bus: EmulatedServiceBus) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


def test_a_deferred_message_expires_only_when_a_receiver_requests_it(
    client: ServiceBusClient, bus: EmulatedServiceBus
) -> None:
    with client.get_queue_sender("expiring") as sender:
        sender.send_messages(ServiceBusMessage("x", time_to_live=timedelta(seconds=60)))
    with client.get_queue_receiver("expiring") as receiver:
        [got] = receiver.receive_messages(max_wait_time=5)
        assert got.sequence_number is not None
        receiver.defer_message(got)
        bus.advance(120)
        assert [str(one) for one in receiver.peek_messages(sequence_number=1)] == ["x"]
        assert bus.counts("expiring") == EMPTY | {"deferred": 1}
        with pytest.raises(MessageNotFoundError, match="it has expired"):
            receiver.receive_deferred_messages([got.sequence_number])
    assert bus.counts("expiring") == EMPTY | {"dead_lettered": 1}


def test_a_received_and_deleted_message_has_no_lock_token(client: ServiceBusClient) -> None:
    with client.get_queue_sender("plain") as sender:
        sender.send_messages(ServiceBusMessage(b"x" * 200_000))  # many frames
        sender.send_messages(ServiceBusMessage("y"))
    with client.get_queue_receiver("plain", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        got = receive_blocking(receiver, 2)
    assert [len(bytes(b"".join(one.body))) for one in got] == [200_000, 1]
    with pytest.warns(DeprecationWarning, match="message"):
        tags = [one.message.delivery_tag for one in got]
    assert tags == [None, None]


def test_a_message_carries_the_time_to_live_that_its_queue_sets(client: ServiceBusClient) -> None:
    minute, day = timedelta(minutes=1), timedelta(days=1)
    with client.get_queue_sender("expiring") as sender:
        sender.send_messages([ServiceBusMessage("x", time_to_live=ttl) for ttl in (None, minute, day)])
    with client.get_queue_receiver("expiring") as receiver:
        got = receive_blocking(receiver, 3)
        ceiling = timedelta(seconds=600)
        assert [one.time_to_live for one in got] == [ceiling, minute, ceiling]
        for one in got:
            receiver.complete_message(one)

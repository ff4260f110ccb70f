"""Details of deliveries and refusals as azure-servicebus sees them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
)
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    ServiceBusError,
)

from servicebus_emulator.servicebus.entities.queue_settings import QueueStatus
from servicebus_emulator.testing import EmulatedServiceBus, QueueSettings, running_service_bus_in_thread

MEGABYTE = 1024 * 1024
QUEUES = (
    QueueSettings("plain"),
    QueueSettings("large", max_message_bytes=4 * MEGABYTE),
    QueueSettings("closing"),
)


@pytest.fixture(scope="module")
def bus() -> Iterator[EmulatedServiceBus]:
    with running_service_bus_in_thread(*QUEUES) as running:
        yield running


@pytest.fixture(scope="module")
def client(bus: EmulatedServiceBus) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


@pytest.fixture(scope="module")
def sender(client: ServiceBusClient) -> Iterator[ServiceBusSender]:
    with client.get_queue_sender("plain") as one:
        yield one


@pytest.fixture(scope="module")
def receivers(client: ServiceBusClient) -> Iterator[dict[ServiceBusReceiveMode, ServiceBusReceiver]]:
    """One receiver for each mode. Without credit between two calls, neither takes messages of the other."""
    with (
        client.get_queue_receiver("plain") as keeping,
        client.get_queue_receiver("plain", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as deleting,
    ):
        yield {ServiceBusReceiveMode.PEEK_LOCK: keeping, ServiceBusReceiveMode.RECEIVE_AND_DELETE: deleting}


@pytest.mark.parametrize("mode", [ServiceBusReceiveMode.PEEK_LOCK, ServiceBusReceiveMode.RECEIVE_AND_DELETE])
def test_header_and_annotations_are_those_of_the_service(
    sender: ServiceBusSender,
    receivers: dict[ServiceBusReceiveMode, ServiceBusReceiver],
    mode: ServiceBusReceiveMode,
) -> None:
    locked = mode is ServiceBusReceiveMode.PEEK_LOCK
    sender.send_messages(ServiceBusMessage("x", time_to_live=timedelta(hours=1), partition_key="p"))
    [got] = receivers[mode].receive_messages(max_wait_time=5)
    if locked:
        receivers[mode].complete_message(got)
    raw = got.raw_amqp_message
    assert raw.header is not None
    assert (raw.header.delivery_count, raw.header.time_to_live, raw.header.durable) == (0, 3_600_000, None)
    assert set(raw.delivery_annotations or {}) == ({b"x-opt-lock-token"} if locked else set())
    assert set(raw.annotations or {}) == {
        b"x-opt-enqueued-time",
        b"x-opt-partition-key",
        b"x-opt-sequence-number",
        *({b"x-opt-locked-until"} if locked else ()),
    }


def test_annotations_and_footer_of_the_sender_arrive(
    sender: ServiceBusSender, receivers: dict[ServiceBusReceiveMode, ServiceBusReceiver]
) -> None:
    sent = AmqpAnnotatedMessage(
        data_body=b"x", annotations={"mine": 1}, delivery_annotations={"theirs": 2}, footer={"last": 3}
    )
    sender.send_messages(sent)
    [got] = receivers[ServiceBusReceiveMode.RECEIVE_AND_DELETE].receive_messages(max_wait_time=5)
    raw = got.raw_amqp_message
    assert (raw.annotations or {})[b"mine"] == 1
    assert raw.delivery_annotations == {b"theirs": 2}
    assert raw.footer == {b"last": 3}


def test_large_messages_arrive_where_the_queue_allows_them_and_batches_stay_limited(client: ServiceBusClient) -> None:
    with client.get_queue_sender("large") as large, client.get_queue_receiver("large") as receiver:
        large.send_messages(ServiceBusMessage(b"x" * 3 * MEGABYTE))
        [got] = receiver.receive_messages(max_wait_time=5)
        assert len(b"".join(got.body)) == 3 * MEGABYTE
        receiver.complete_message(got)
        assert large.create_message_batch().max_size_in_bytes == MEGABYTE
        with pytest.raises(MessageSizeExceededError):
            large.send_messages(ServiceBusMessage(b"x" * 5 * MEGABYTE))


def test_a_queue_that_is_disabled_while_in_use_reports_it(client: ServiceBusClient, bus: EmulatedServiceBus) -> None:
    with client.get_queue_sender("closing") as sender:
        sender.send_messages(ServiceBusMessage("x"))
        bus.update_queue("closing", status=QueueStatus.SEND_DISABLED)
        with pytest.raises(ServiceBusError):  # the SDK raises a general error if a link is detached while it sends
            sender.send_messages(ServiceBusMessage("x"))
    with pytest.raises(MessagingEntityDisabledError), client.get_queue_sender("closing"):
        pass
    with client.get_queue_receiver("closing") as receiver:
        assert len(receiver.receive_messages(max_wait_time=5)) == 1


def test_features_that_the_emulator_lacks_are_refused_by_name(client: ServiceBusClient) -> None:
    with (
        pytest.raises(ServiceBusError, match="Topics, subscriptions and rules are not supported"),
        client.get_subscription_receiver("topic", "subscription"),
    ):
        pass

"""Service quirks from the live tests of the JavaScript SDK, as azure-servicebus sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.exceptions import ServiceBusError

from servicebus_emulator.admin.authorization import write_rules
from servicebus_emulator.servicebus.access.policies import ALL_RIGHTS, Policy
from servicebus_emulator.testing import EmulatedServiceBus, QueueSettings, running_service_bus_in_thread
from tests.support.receiving import receive_blocking

QUEUES = ("deferring", "dead", "abandoned")


@pytest.fixture(scope="module")
def bus() -> Iterator[EmulatedServiceBus]:
    with running_service_bus_in_thread(*QUEUES, QueueSettings("sessions", requires_session=True)) as running:
        yield running


@pytest.fixture(scope="module")
def client(bus: EmulatedServiceBus) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


def send(client: ServiceBusClient, queue: str, message: ServiceBusMessage) -> None:
    with client.get_queue_sender(queue) as sender:
        sender.send_messages(message)


def number(message: ServiceBusReceivedMessage) -> int:
    assert message.sequence_number is not None
    return message.sequence_number


def test_each_deferral_counts_as_a_delivery(client: ServiceBusClient) -> None:
    send(client, "deferring", ServiceBusMessage("a"))
    with client.get_queue_receiver("deferring") as receiver:
        [first] = receive_blocking(receiver, 1)
        receiver.defer_message(first)
        [second] = receiver.receive_deferred_messages(number(first))
        receiver.defer_message(second)
        [third] = receiver.receive_deferred_messages(number(first))
        assert [one.delivery_count for one in (first, second, third)] == [0, 1, 2]
        receiver.complete_message(third)


def test_a_dead_letter_cannot_be_dead_lettered_again(client: ServiceBusClient) -> None:
    send(client, "dead", ServiceBusMessage("a"))
    with client.get_queue_receiver("dead") as receiver:
        receiver.dead_letter_message(receive_blocking(receiver, 1)[0])
    with client.get_queue_receiver("dead", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as below:
        with pytest.raises(ServiceBusError, match="cannot be dead-lettered again"):
            below.dead_letter_message(receive_blocking(below, 1)[0])
        [again] = receive_blocking(below, 1)  # the refusal unlocks the message at once, without counting
        assert again.delivery_count == 0
        below.complete_message(again)


def test_deliveries_of_dead_letters_are_not_counted(client: ServiceBusClient) -> None:
    send(client, "abandoned", ServiceBusMessage("a"))
    with client.get_queue_receiver("abandoned") as receiver:
        receiver.abandon_message(receive_blocking(receiver, 1)[0])
        receiver.dead_letter_message(receive_blocking(receiver, 1)[0])
    with client.get_queue_receiver("abandoned", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as below:
        below.abandon_message(receive_blocking(below, 1)[0])
        [again] = receive_blocking(below, 1)
        assert again.delivery_count == 1  # the count from the main queue
        below.complete_message(again)


def test_an_empty_session_id_allows_any_partition_key(client: ServiceBusClient) -> None:
    raw = ServiceBusMessage("a", session_id="")
    raw.raw_amqp_message.annotations = {b"x-opt-partition-key": "another"}
    send(client, "sessions", raw)
    with client.get_queue_receiver("sessions", session_id="", max_wait_time=5) as receiver:
        [got] = receive_blocking(receiver, 1)
        assert (str(got), got.session_id) == ("a", "")
        receiver.complete_message(got)


def test_a_policy_lists_its_rights_in_the_services_order() -> None:
    policy = Policy("all", ALL_RIGHTS, ("one", "two"), "orders")
    described = write_rules((policy,), created="2026-01-01T00:00:00Z", updated="2026-01-01T00:00:00Z")
    places = [described.index(f">{right}<") for right in ("Manage", "Send", "Listen")]
    assert places == sorted(places)

"""The `$management` node through azure-servicebus: settlement, listing and deferred messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSender
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusError, SessionLockLostError

from servicebus_emulator.testing import EmulatedServiceBus, QueueSettings, running_service_bus_in_thread
from tests.support.receiving import receive_blocking

EMPTY = {"active": 0, "deferred": 0, "scheduled": 0, "dead_lettered": 0}


@pytest.fixture(scope="module")
def bus() -> Iterator[EmulatedServiceBus]:
    with running_service_bus_in_thread("plain", QueueSettings("sessions", requires_session=True)) as running:
        yield running


@pytest.fixture(scope="module")
def client(bus: EmulatedServiceBus) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as one:
        yield one


@pytest.fixture(scope="module")
def sender(client: ServiceBusClient) -> Iterator[ServiceBusSender]:
    """A sender to the queue with sessions."""
    with client.get_queue_sender("sessions") as one:
        yield one


def test_a_message_is_settled_once_over_another_connection(client: ServiceBusClient, bus: EmulatedServiceBus) -> None:
    with client.get_queue_sender("plain") as sender:
        sender.send_messages([ServiceBusMessage(text) for text in ("complete", "abandon", "bury")])
    with client.get_queue_receiver("plain") as one:
        complete, abandon, bury = receive_blocking(one, 3)
    with client.get_queue_receiver("plain") as other:
        other.complete_message(complete)
        other.abandon_message(abandon)
        other.dead_letter_message(bury, reason="why")
        assert bus.counts("plain") == EMPTY | {"active": 1, "dead_lettered": 1}
        [again] = other.receive_messages(max_wait_time=5)
        assert (str(again), again.delivery_count) == ("abandon", 1)
        bus.expire_locks("plain")
        with pytest.raises(MessageLockLostError):
            other.renew_message_lock(again)


def test_deferred_messages_of_a_session_belong_to_its_holder_until_the_lock_is_lost(
    client: ServiceBusClient, sender: ServiceBusSender, bus: EmulatedServiceBus
) -> None:
    sender.send_messages([ServiceBusMessage("x", session_id="s"), ServiceBusMessage("y", session_id="other")])
    with client.get_queue_receiver("sessions", session_id="s") as holder:
        [got] = holder.receive_messages(max_wait_time=5)
        holder.defer_message(got)
        assert [str(one) for one in holder.peek_messages(9, sequence_number=1)] == ["x"]
        with pytest.raises(ServiceBusError, match="no deferred message 2"):
            holder.receive_deferred_messages([2])
        [deferred] = holder.receive_deferred_messages([1])
        bus.expire_locks("sessions")
        with pytest.raises(SessionLockLostError):
            holder.complete_message(deferred)
    assert bus.counts("sessions") == EMPTY | {"active": 1, "deferred": 1}


def test_a_session_id_may_be_empty(client: ServiceBusClient, sender: ServiceBusSender) -> None:
    sender.send_messages(ServiceBusMessage("nameless", session_id=""))
    assert "" in list(client.list_queue_sessions("sessions"))
    with client.get_queue_receiver("sessions", session_id="") as receiver:
        [got] = receiver.receive_messages(max_wait_time=5)
        assert str(got) == "nameless"
        receiver.session.set_state("state")
        assert receiver.session.get_state() == b"state"
        receiver.complete_message(got)

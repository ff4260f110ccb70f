"""The unmodified azure-servicebus SDK works with the emulator: the blocking clients, and a restart."""

from __future__ import annotations

from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage, ServiceBusSubQueue

from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from tests.support.emulator import emulator_in_thread
from tests.support.receiving import receive_blocking

QUEUES = (QueueSettings("plain"), QueueSettings("sessions", requires_session=True))


def test_the_blocking_client_sends_receives_settles_and_peeks() -> None:
    with emulator_in_thread(*QUEUES) as bus, ServiceBusClient.from_connection_string(bus.connection_string) as client:
        with client.get_queue_sender("plain") as sender, client.get_queue_receiver("plain") as receiver:
            sender.send_messages([ServiceBusMessage(name) for name in ("complete", "abandon", "dead-letter")])
            assert [str(one) for one in receiver.peek_messages(5)] == ["complete", "abandon", "dead-letter"]
            first, second, third = receive_blocking(receiver, 3)
            receiver.complete_message(first)
            receiver.renew_message_lock(second)
            receiver.abandon_message(second)
            receiver.dead_letter_message(third, reason="why")
            (again,) = receiver.receive_messages(max_wait_time=5)
            receiver.complete_message(again)
        with client.get_queue_receiver("plain", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as below:
            (dead,) = below.receive_messages(max_wait_time=5)
            assert dead.dead_letter_reason == "why"
            below.complete_message(dead)
        assert set(bus.broker.counts()["plain"].values()) == {0}


def test_the_blocking_client_receives_and_lists_sessions() -> None:
    with emulator_in_thread(*QUEUES) as bus, ServiceBusClient.from_connection_string(bus.connection_string) as client:
        with client.get_queue_sender("sessions") as sender:
            sender.send_messages([ServiceBusMessage("x", session_id=name) for name in ("a", "b")])
        assert sorted(client.list_queue_sessions("sessions")) == ["a", "b"]
        with client.get_queue_receiver("sessions", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5) as receiver:
            assert receiver.session.session_id == "a"
            (got,) = receiver.receive_messages(max_wait_time=5)
            receiver.complete_message(got)


def test_a_client_reconnects_to_a_restarted_emulator() -> None:
    with emulator_in_thread(*QUEUES) as bus:
        port = bus.port
        client = ServiceBusClient.from_connection_string(bus.connection_string)
        sender = client.get_queue_sender("plain")
        sender.send_messages(ServiceBusMessage("before"))
    with emulator_in_thread(*QUEUES, port=port) as bus, client, sender:
        sender.send_messages(ServiceBusMessage("after"))
        assert bus.broker.counts()["plain"]["active"] == 1

"""Checks of any version of azure-servicebus. Each public function is one check with one queue (see run.py).

With UAMQP=amqps or UAMQP=wss the SDK uses its old transport, the library uamqp, which requires TLS.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
    TransportType,
)
from azure.servicebus import aio as asynchronous
from azure.servicebus.exceptions import ServiceBusAuthenticationError

WAIT = 5
ReadyLine = dict[str, Any]


def _client_arguments(emulator: ReadyLine) -> ReadyLine:
    over = os.environ.get("UAMQP")
    if over is None:
        return {"conn_str": emulator["connection_string"], "retry_total": 0}
    address = emulator[f"{over}_url"].removesuffix("/$servicebus/websocket")
    return {
        # The emulator's flag selects plain TCP, which uamqp does not support.
        "conn_str": emulator["connection_string"].replace("UseDevelopmentEmulator=true;", ""),
        "retry_total": 0,
        "uamqp_transport": True,
        "transport_type": TransportType.AmqpOverWebsocket if over == "wss" else TransportType.Amqp,
        "custom_endpoint_address": address,  # uamqp ignores the port of the connection string
        "connection_verify": emulator["ca_certificate"],
    }


def _client(emulator: ReadyLine) -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(**_client_arguments(emulator))


def _asynchronous_client(emulator: ReadyLine) -> asynchronous.ServiceBusClient:
    return asynchronous.ServiceBusClient.from_connection_string(**_client_arguments(emulator))


def every_settlement_has_its_effect(emulator: ReadyLine, queue: str) -> None:
    with _client(emulator) as client:
        with client.get_queue_sender(queue) as sender:
            sender.send_messages(ServiceBusMessage("complete", application_properties={"n": 1}, message_id="m"))
            batch = sender.create_message_batch()
            for name in ("abandon", "defer", "dead-letter"):
                batch.add_message(ServiceBusMessage(name))
            sender.send_messages(batch)
        with client.get_queue_receiver(queue) as receiver:
            messages = {str(one): one for one in _receive(receiver, 4)}
            assert list(messages) == ["complete", "abandon", "defer", "dead-letter"]
            assert messages["complete"].application_properties == {b"n": 1}
            assert (messages["complete"].message_id, messages["complete"].delivery_count) == ("m", 0)
            receiver.complete_message(messages["complete"])
            receiver.abandon_message(messages["abandon"])
            receiver.defer_message(messages["defer"])
            receiver.dead_letter_message(messages["dead-letter"], reason="why", error_description="because")
            (again,) = _receive(receiver, 1)
            assert (str(again), again.delivery_count) == ("abandon", 1)
            receiver.complete_message(again)
            (deferred,) = receiver.receive_deferred_messages(messages["defer"].sequence_number)
            assert str(deferred) == "defer"
            receiver.complete_message(deferred)
            assert receiver.peek_messages() == []
        with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as below:
            (dead,) = _receive(below, 1)
            assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("why", "because")
            below.complete_message(dead)


def messages_are_scheduled_cancelled_and_deleted(emulator: ReadyLine, queue: str) -> None:
    with (
        _client(emulator) as client,
        client.get_queue_sender(queue) as sender,
        client.get_queue_receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver,
    ):
        kept, cancelled = sender.schedule_messages([ServiceBusMessage("kept"), ServiceBusMessage("not")], _in(60))
        sender.cancel_scheduled_messages(cancelled)
        assert [one.sequence_number for one in receiver.peek_messages(5)] == [kept]
        sender.cancel_scheduled_messages(kept)
        sender.schedule_messages(ServiceBusMessage("soon"), _in(1))
        assert [str(one) for one in _receive(receiver, 1)] == ["soon"]
        assert receiver.peek_messages(5) == []


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def a_lock_is_renewed(emulator: ReadyLine, queue: str) -> None:
    with _client(emulator) as client:
        with client.get_queue_sender(queue) as sender:
            sender.send_messages(ServiceBusMessage("slow"))
        with client.get_queue_receiver(queue) as receiver:
            (got,) = _receive(receiver, 1)
            before = got.locked_until_utc
            time.sleep(0.1)
            assert receiver.renew_message_lock(got) > before
            receiver.complete_message(got)


def a_session_has_one_receiver(emulator: ReadyLine, queue: str) -> None:
    with _client(emulator) as client:
        with client.get_queue_sender(queue) as sender:
            for name in ("a", "b"):
                sender.send_messages(ServiceBusMessage(f"of {name}", session_id=name))
        with client.get_queue_receiver(queue, session_id="b") as receiver:
            (got,) = _receive(receiver, 1)
            assert (str(got), got.session_id) == ("of b", "b")
            receiver.complete_message(got)
            before = receiver.session.locked_until_utc
            time.sleep(0.1)
            assert before is not None
            assert receiver.session.renew_lock() > before
            receiver.session.set_state(b"state")
            assert receiver.session.get_state() == b"state"
        with client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=WAIT) as receiver:
            assert receiver.session.session_id == "a"
            assert [str(one) for one in _receive(receiver, 1)] == ["of a"]


def a_wrong_queue_name_is_not_found(emulator: ReadyLine, _: str) -> None:
    with _client(emulator) as client:
        try:
            with client.get_queue_sender("no-such-queue") as sender:
                sender.send_messages(ServiceBusMessage("lost"))
        except ServiceBusAuthenticationError:
            return  # the service refuses tokens for a missing queue
    raise AssertionError("it was sent")


async def messages_are_settled_with_asyncio(emulator: ReadyLine, queue: str) -> None:
    async with _asynchronous_client(emulator) as client:
        async with client.get_queue_sender(queue) as sender:
            await sender.send_messages([ServiceBusMessage(name) for name in ("complete", "abandon", "dead-letter")])
        async with client.get_queue_receiver(queue) as receiver:
            messages = await _receive_asynchronously(receiver, 3)
            await receiver.complete_message(messages[0])
            await receiver.abandon_message(messages[1])
            await receiver.dead_letter_message(messages[2], reason="why")
            (again,) = await _receive_asynchronously(receiver, 1)
            assert (str(again), again.delivery_count) == ("abandon", 1)
            await receiver.complete_message(again)
        async with client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as below:
            (dead,) = await _receive_asynchronously(below, 1)
            assert (str(dead), dead.dead_letter_reason) == ("dead-letter", "why")
            await below.complete_message(dead)


async def a_session_is_received_with_asyncio(emulator: ReadyLine, queue: str) -> None:
    async with _asynchronous_client(emulator) as client:
        async with client.get_queue_sender(queue) as sender:
            await sender.send_messages(ServiceBusMessage("of s", session_id="s"))
        async with client.get_queue_receiver(queue, session_id="s") as receiver:
            (got,) = await _receive_asynchronously(receiver, 1)
            await receiver.complete_message(got)
            await receiver.session.set_state(b"state")
            assert await receiver.session.get_state() == b"state"


def _receive(receiver: Any, count: int) -> list[Any]:
    got: list[Any] = []
    while len(got) < count:
        some = receiver.receive_messages(count - len(got), max_wait_time=WAIT)
        assert some, f"{len(got)} of {count} messages came"
        got += some
    return got


async def _receive_asynchronously(receiver: Any, count: int) -> list[Any]:
    got: list[Any] = []
    while len(got) < count:
        some = await receiver.receive_messages(count - len(got), max_wait_time=WAIT)
        assert some, f"{len(got)} of {count} messages came"
        got += some
    return got

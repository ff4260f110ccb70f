"""Broken connections, forced detaches and a frozen broker, and the reaction of the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import ServiceBusConnectionError, ServiceBusError, SessionLockLostError

from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.transport.amqp_server import AmqpServer
from tests.support.emulator import HOST, Bus, emulator

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[Bus]:
    async with emulator(QueueSettings("plain"), QueueSettings("sessions", requires_session=True)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(bus: Bus) -> AsyncIterator[ServiceBusClient]:
    one = ServiceBusClient.from_connection_string(
        bus.connection_string, retry_total=8, retry_backoff_factor=0.2, retry_mode="fixed"
    )
    async with one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sender(client: ServiceBusClient) -> AsyncIterator[ServiceBusSender]:
    """One sender for all tests of the module: it must survive every outage."""
    async with client.get_queue_sender("plain") as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver(client: ServiceBusClient) -> AsyncIterator[ServiceBusReceiver]:
    """One receiver for all tests of the module."""
    async with client.get_queue_receiver("plain") as one:
        yield one


async def next_body(receiver: ServiceBusReceiver) -> str:
    """Receive and complete one message. Return its body."""
    [got] = await receiver.receive_messages(max_wait_time=10)
    await receiver.complete_message(got)
    return str(got)


async def test_links_that_are_detached_between_two_uses_are_attached_again(
    bus: Bus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    await sender.send_messages(ServiceBusMessage("before"))
    assert await next_body(receiver) == "before"

    bus.server.drop_connections()
    await sender.send_messages(ServiceBusMessage("after the connections broke"))
    assert await next_body(receiver) == "after the connections broke"

    bus.server.force_detach("PLAIN")
    await sender.send_messages(ServiceBusMessage("after the links were taken away"))
    assert await next_body(receiver) == "after the links were taken away"


async def test_a_waiting_receiver_survives_a_restart(
    bus: Bus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    waiting = asyncio.create_task(receiver.receive_messages(max_wait_time=20))
    await asyncio.sleep(0.5)  # until the receiver waits
    await bus.server.stop()
    await asyncio.sleep(0.5)  # until the client has found the port closed
    await bus.server.start(HOST, bus.port)
    await sender.send_messages(ServiceBusMessage("after"))
    got = await waiting or await receiver.receive_messages(max_wait_time=10)
    assert [str(one) for one in got] == ["after"]
    await receiver.complete_message(got[0])


async def test_a_message_lock_outlives_its_connection(
    bus: Bus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    await sender.send_messages(ServiceBusMessage("held"))
    [got] = await receiver.receive_messages(max_wait_time=10)
    bus.server.drop_connections()
    assert len(await receiver.peek_messages(5, sequence_number=1)) == 1
    await receiver.complete_message(got)
    assert bus.broker.counts()["plain"]["active"] == 0


async def test_a_session_receiver_does_not_recover_from_a_forced_detach(bus: Bus, client: ServiceBusClient) -> None:
    async with client.get_queue_receiver("sessions", session_id="s") as receiver:
        bus.server.force_detach("sessions")
        with pytest.raises((SessionLockLostError, ServiceBusConnectionError)):
            await receiver.receive_messages(max_wait_time=2)
    async with client.get_queue_receiver("sessions", session_id="s") as again:
        assert again.session.session_id == "s"


async def test_a_broken_connection_releases_its_session(bus: Bus, client: ServiceBusClient) -> None:
    async with client.get_queue_receiver("sessions", session_id="s"):
        bus.server.drop_connections()
        async with client.get_queue_receiver("sessions", session_id="s") as again:
            assert again.session.session_id == "s"


async def test_a_frozen_broker_appears_as_an_empty_queue_until_it_resumes(
    bus: Bus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    await sender.send_messages(ServiceBusMessage("before"))
    assert await next_body(receiver) == "before"
    bus.server.freeze()
    try:
        assert await receiver.receive_messages(max_wait_time=1) == []
    finally:
        bus.server.thaw()
    await sender.send_messages(ServiceBusMessage("after"))
    assert await next_body(receiver) == "after"


async def test_an_unreachable_broker_raises_a_retryable_error(bus: Bus) -> None:
    await bus.server.stop()
    try:
        hasty = ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0)
        async with hasty:
            with pytest.raises(ServiceBusError) as error:
                async with hasty.get_queue_sender("plain"):
                    pass
        assert isinstance(error.value, ServiceBusConnectionError)
    finally:
        await bus.server.start(HOST, bus.port)


async def test_the_port_is_free_after_stopping() -> None:
    async with emulator(QueueSettings("q")) as bus:
        port = bus.port
    server = AmqpServer(bus.broker)
    assert await server.start(HOST, port) == port
    await server.stop()

"""The number and the age of a pool's senders, each of which has its own connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest

from flow_contracts.message import Message
from flow_contracts.servicebus import (
    ConnectionString,
    LockLost,
    ServiceBus,
    ServiceBusMisconfigured,
    ServiceBusUnavailable,
)
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from tests.support.emulator import Bus, emulator

MESSAGE = Message(body=b"result")


def service_bus(emulated: Bus, max_senders: int = 32) -> ServiceBus:
    return ServiceBus(ConnectionString(emulated.connection_string), senders_per_queue=max_senders)


def client_ports(emulated: Bus) -> set[int]:
    """The client's port of each open connection to the broker."""
    sockets = psutil.Process().net_connections("tcp4")
    to_broker = [one for one in sockets if one.raddr and one.raddr.port == emulated.port]
    return {one.laddr.port for one in to_broker if one.status == "ESTABLISHED"}


async def send_at_once(bus: ServiceBus, count: int) -> None:
    await asyncio.gather(*(bus.send("q", MESSAGE) for _ in range(count)))


async def test_the_pool_opens_one_sender_for_each_concurrent_send_up_to_its_maximum() -> None:
    async with emulator(QueueSettings("q")) as emulated, service_bus(emulated, max_senders=3) as bus:
        for count, opened in ((1, 1), (2, 2), (9, 3), (1, 3)):
            await send_at_once(bus, count)
            assert len(client_ports(emulated)) == opened
        assert emulated.broker.counts()["q"]["active"] == 13


async def test_the_pool_replaces_senders_that_were_idle_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with emulator(QueueSettings("q")) as emulated, service_bus(emulated) as bus:
        await send_at_once(bus, 2)
        before = client_ports(emulated)
        await send_at_once(bus, 1)
        assert client_ports(emulated) == before
        monkeypatch.setattr("flow_contracts.servicebus.sender_pool._STALE_SECONDS", -1.0)
        await send_at_once(bus, 1)
        assert len(client_ports(emulated)) == 1
        assert not client_ports(emulated) & before


async def test_the_size_that_a_queue_takes_is_known_once_a_sender_is_open() -> None:
    async with emulator(QueueSettings("q", max_message_bytes=100_000)) as emulated, service_bus(emulated) as bus:
        assert bus.max_message_bytes("q") is None
        await bus.send("q", MESSAGE)
        assert bus.max_message_bytes("q") == 100_000


async def test_a_queue_that_was_created_again_is_not_reported_as_missing() -> None:
    """The old links are refused, as for a queue that does not exist."""
    async with emulator(QueueSettings("q")) as emulated, service_bus(emulated) as bus:
        await send_at_once(bus, 2)
        emulated.broker.delete("q")
        with pytest.raises(ServiceBusMisconfigured):
            await sent(bus)
        emulated.broker.create(QueueSettings("q"))
        await sent(bus)
        emulated.broker.delete("q")
        emulated.broker.create(QueueSettings("q"))
        await sent(bus)
        assert emulated.broker.counts()["q"]["active"] == 1


async def sent(bus: ServiceBus) -> None:
    """Send a message with the retries of a client: a broken link is no answer."""
    for _ in range(3):
        with suppress(ServiceBusUnavailable):
            return await bus.send("q", MESSAGE)
    raise AssertionError("the queue did not answer")


async def test_nothing_is_sent_if_the_check_before_the_send_raises() -> None:
    async def refuse() -> None:
        raise LockLost("another worker has the message")

    async with emulator(QueueSettings("q")) as emulated, service_bus(emulated) as bus:
        with pytest.raises(LockLost):
            await bus.send("q", MESSAGE, refuse)
        await bus.send("q", MESSAGE)
        assert emulated.broker.counts()["q"]["active"] == 1


@pytest.mark.parametrize("number", [0, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1])
async def test_integer_properties_of_any_size_arrive(number: int) -> None:
    message = replace(MESSAGE, application_properties={"number": number, "flag": True})
    async with emulator(QueueSettings("q")) as emulated, service_bus(emulated) as bus:
        await bus.send("q", message)
        async with bus.receiver("q") as receiver:
            delivery = await receiver.receive()
    assert delivery is not None
    assert delivery.message.application_properties == {"number": number, "flag": True}

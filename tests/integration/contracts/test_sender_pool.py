"""The number and the age of a pool's senders, each of which has its own connection."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from flow_contracts.message import Message
from flow_contracts.servicebus import ConnectionString, ServiceBus
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

"""How many senders there are, and for how long: each is a connection of its own."""

from __future__ import annotations

import asyncio

import psutil
import pytest
from pydantic import SecretStr

from flow_contracts.message import Message
from flow_worker.servicebus import ServiceBus
from flow_worker.settings import ServiceBusSettings
from servicebus_emulator.servicebus.config import QueueSettings
from tests.support.emulator import Bus, emulator

MESSAGE = Message(body=b"result")


def settings(bus: Bus, most: int = 32) -> ServiceBusSettings:
    return ServiceBusSettings(connection_string=SecretStr(bus.connection_string), senders_per_queue=most)


def connections(bus: Bus) -> set[int]:
    """The clients' ports of all that lead to the broker."""
    there = psutil.Process().net_connections("tcp4")
    return {one.laddr.port for one in there if one.raddr and one.raddr.port == bus.port and one.status == "ESTABLISHED"}


async def sent_at_once(to: ServiceBus, count: int) -> None:
    await asyncio.gather(*(to.send("q", MESSAGE) for _ in range(count)))


async def test_as_many_are_opened_as_send_at_once_and_no_more_than_may_be() -> None:
    async with emulator(QueueSettings("q")) as bus, ServiceBus(settings(bus, 3)) as to:
        for count, opened in ((1, 1), (2, 2), (9, 3), (1, 3)):
            await sent_at_once(to, count)
            assert len(connections(bus)) == opened
        assert bus.broker.counts()["q"]["active"] == 13


async def test_one_that_was_idle_for_long_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with emulator(QueueSettings("q")) as bus, ServiceBus(settings(bus)) as to:
        await sent_at_once(to, 2)
        before = connections(bus)
        await sent_at_once(to, 1)
        assert connections(bus) == before
        monkeypatch.setattr("flow_worker.servicebus.senders._STALE_SECONDS", -1.0)
        await sent_at_once(to, 1)
        assert len(connections(bus)) == 1
        assert not connections(bus) & before

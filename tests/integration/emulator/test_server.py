"""The server over raw sockets: other protocols, a partial handshake, a client that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from servicebus_emulator.amqp.framing import AMQP_HEADER, frame_header
from servicebus_emulator.amqp.performatives import (
    Attach,
    Begin,
    Flow,
    Open,
    Performative,
    Source,
    Target,
    encode_frame_body,
)
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from tests.support.emulator import HOST, Bus, emulator
from tests.unit.emulator.servicebus.rig import message

SECONDS = 10.0
MESSAGES = 300
MESSAGE_BYTES = 200_000


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    async with emulator(QueueSettings("plain")) as running:
        yield running


def frame(performative: Performative) -> bytes:
    body = encode_frame_body(performative)
    return frame_header(len(body), 0) + body


RECEIVER = AMQP_HEADER + b"".join(
    frame(performative)
    for performative in (
        Open("receiver", max_frame_size=65_536),
        Begin(None, 0, 1_000_000, 1_000_000),
        Attach("link", 0, True, source=Source("plain"), target=Target("here")),
        Flow(0, 1_000_000, 0, 1_000_000, handle=0, delivery_count=0, link_credit=1_000_000),
    )
)
"""The frames of a receiver up to its credit. A client may send them before it reads any answer (section 2.4.2)."""


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Read until the server closes the connection."""
    async with asyncio.timeout(SECONDS):
        return await reader.read()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x02\x01\x00\x00", AMQP_HEADER + b"\xff" * 64])
async def test_a_client_of_another_protocol_is_disconnected_and_others_are_served(bus: Bus, data: bytes) -> None:
    other_reader, other_writer = await asyncio.open_connection(HOST, bus.port)
    other_writer.write(AMQP_HEADER)
    assert await other_reader.readexactly(8) == AMQP_HEADER
    reader, writer = await asyncio.open_connection(HOST, bus.port)
    writer.write(data)
    assert (await until_closed(reader)).startswith(b"AMQP")
    other_writer.write(frame(Open("other")))
    async with asyncio.timeout(SECONDS):
        assert await other_reader.readexactly(4) != b""
    for stream in (writer, other_writer):
        stream.close()
        await stream.wait_closed()


async def test_a_client_that_disconnects_in_the_middle_of_a_frame_takes_no_message(bus: Bus) -> None:
    _, writer = await asyncio.open_connection(HOST, bus.port)
    writer.write(RECEIVER[:-3])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    bus.broker.find("plain").send([message("x")])
    assert bus.broker.counts()["plain"]["active"] == 1


async def not_reading(bus: Bus) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect a receiver with credit for all messages (60 megabytes) that does not read them."""
    reader, writer = await asyncio.open_connection(HOST, bus.port, limit=1024)
    writer.write(RECEIVER)
    async with asyncio.timeout(SECONDS):
        await reader.readexactly(8)
    for _ in range(MESSAGES // 10):
        bus.broker.find("plain").send([message("x" * MESSAGE_BYTES) for _ in range(10)])
        await asyncio.sleep(0)
    return reader, writer


async def test_a_client_that_does_not_read_gets_a_bounded_amount_until_it_reads(bus: Bus) -> None:
    reader, writer = await not_reading(bus)
    delivered = [
        message for message in bus.broker.find("plain").peek(1, MESSAGES, None) if message.lock_token is not None
    ]
    assert 0 < len(delivered) < MESSAGES
    received = 0
    async with asyncio.timeout(3 * SECONDS):
        while received < MESSAGES * MESSAGE_BYTES:
            received += len(await reader.read(1 << 20))
    writer.close()


async def test_stopping_does_not_wait_for_a_client_that_does_not_read(bus: Bus) -> None:
    _, writer = await not_reading(bus)
    async with asyncio.timeout(SECONDS):
        await bus.server.stop()
    writer.close()

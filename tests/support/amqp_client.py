"""A raw AMQP client over a socket or a WebSocket: it sends performatives and reads the answers."""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

import aiohttp

from servicebus_emulator.amqp.framing import AMQP_HEADER, Frame, FrameDecoder, ProtocolHeader
from servicebus_emulator.amqp.performatives import (
    Attach,
    Begin,
    Flow,
    Open,
    Performative,
    Source,
    Target,
    decode_performative,
)
from tests.unit.emulator.amqp.peer import framed

SECONDS = 10.0
T = TypeVar("T")


class Wire(Protocol):
    """A connection that carries bytes."""

    async def send(self, data: bytes) -> None:
        """Send all bytes."""

    async def receive(self) -> bytes:
        """Return the next bytes; empty at the end."""


class SocketWire:
    """A socket as a `Wire`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        return await self._reader.read(1 << 16)

    async def close(self) -> None:
        """Close the socket."""
        self._writer.close()
        await self._writer.wait_closed()


class WebSocketWire:
    """A WebSocket as a `Wire`. `largest` is the size of the largest message received."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.largest = 0

    async def send(self, data: bytes) -> None:
        await self.socket.send_bytes(data)

    async def receive(self) -> bytes:
        message = await self.socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            return b""
        self.largest = max(self.largest, len(message.data))
        return bytes(message.data)


class Client:
    """Sends the performatives of a test. It answers nothing by itself."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._decoder = FrameDecoder(2**32)
        self._decoder.expect_header()

    async def send(self, *performatives: Performative, header: bool = False) -> None:
        """Send performatives on channel 0; with `header`, the protocol header first."""
        await self.wire.send(
            (AMQP_HEADER if header else b"") + b"".join(framed(performative) for performative in performatives)
        )

    async def heartbeat(self) -> None:
        await self.wire.send(b"\x00\x00\x00\x08\x02\x00\x00\x00")

    async def open(self) -> Client:
        """Open and begin a session."""
        await self.send(Open("client"), Begin(None, 0, 1000, 1000), header=True)
        await self.receive(Begin)
        return self

    async def attach(self, queue: str, handle: int = 0, *, receives: bool = True) -> Client:
        """Attach a link to a queue, and wait for the answer."""
        here = Target("here") if receives else Target(queue)
        there = Source(queue) if receives else Source("here")
        count = None if receives else 0
        await self.send(
            Attach(f"link-{handle}", handle, receives, source=there, target=here, initial_delivery_count=count)
        )
        await self.receive(Attach)
        return self

    async def grant_credit(self, messages: int, handle: int = 0) -> None:
        """Grant credit for this many messages, and a window for their frames."""
        await self.send(Flow(0, 1_000_000, 0, 1_000_000, handle=handle, delivery_count=0, link_credit=messages))

    async def receive(self, kind: type[T]) -> T:
        """Return the next performative of this kind, and skip others. Raises `EOFError` when the connection ends."""
        async with asyncio.timeout(SECONDS):
            while True:
                item = self._decoder.next()
                if item is None:
                    self._feed(await self.wire.receive())
                elif isinstance(performative := _performative(item), kind):
                    return performative

    def _feed(self, data: bytes) -> None:
        if not data:
            raise EOFError
        self._decoder.feed(data)


def _performative(item: ProtocolHeader | Frame) -> Performative | None:
    return decode_performative(item.body)[0] if isinstance(item, Frame) and item.body else None


async def connect(host: str, port: int) -> tuple[Client, SocketWire]:
    """Return a client over TCP, and its socket."""
    stream = SocketWire(*await asyncio.open_connection(host, port))
    return Client(stream), stream

"""A TCP proxy on the loopback address whose connections can be frozen, lost, half-closed, slowed down or refused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from enum import StrEnum

_CHUNK = 65_536
_ABORTED = (OSError, asyncio.IncompleteReadError)


class Network(StrEnum):
    """The state of the network between the client and the server."""

    SOUND = "sound"
    FROZEN = "frozen"
    """Nothing is forwarded in either direction; all of it arrives afterwards."""
    BLACK_HOLE = "black hole"
    """What either side sends is lost; the connections end with the state."""
    NO_ANSWERS = "no answers"
    """What the server sends is lost, and what the client sends arrives. The connections end with the state."""
    HALF_CLOSED = "half-closed"
    """The client sees the end of the server's stream, and what the client sends is lost."""
    SLOW = "slow"
    """Every chunk is late."""
    REFUSED = "refused"
    """Every connection is reset, old or new."""


_LOSING = frozenset({Network.BLACK_HOLE, Network.NO_ANSWERS, Network.HALF_CLOSED})


class Proxy:
    """Forwards connections to a port of the loopback address."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._state = Network.SOUND
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listener and reset all connections."""
        if self._server is not None:
            self._server.close()
        self.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def state(self) -> Network:
        """The present state of the network."""
        return self._state

    def drop(self) -> None:
        """Reset all connections."""
        for connection in list(self._connections):
            connection.reset()

    def switch(self, state: Network) -> None:
        """Change the state of the network."""
        before, self._state = self._state, state
        if state is Network.FROZEN:
            self._flowing.clear()
        else:
            self._flowing.set()
        if before in _LOSING or state is Network.REFUSED:
            self.drop()
        if state is Network.HALF_CLOSED:
            for connection in list(self._connections):
                connection.half_close()

    async def forwards(self, *, to_server: bool) -> bool:
        """Return whether a chunk in this direction arrives; wait while the network is frozen or slow."""
        await self._flowing.wait()
        if self._state is Network.SLOW:
            await asyncio.sleep(0.15)
        lost = self._state in {Network.BLACK_HOLE, Network.HALF_CLOSED}
        return not (lost or (self._state is Network.NO_ANSWERS and not to_server))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await self._flowing.wait()
        if self._state is Network.REFUSED:
            _reset(writer)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(writer)
            return
        connection = _Connection(self.forwards, (reader, writer), (server_reader, server_writer))
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    def __init__(self, forwards: Callable[..., Awaitable[bool]], client: _Streams, server: _Streams) -> None:
        self._forwards = forwards
        self._client = client
        self._server = server

    async def run(self) -> None:
        up = asyncio.create_task(self._pump(self._client[0], self._server[1], to_server=True))
        down = asyncio.create_task(self._pump(self._server[0], self._client[1], to_server=False))
        try:
            await asyncio.gather(up, down)
        finally:
            up.cancel()
            down.cancel()
            self.reset()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, to_server: bool) -> None:
        with contextlib.suppress(*_ABORTED):
            while chunk := await source.read(_CHUNK):
                if await self._forwards(to_server=to_server):
                    sink.write(chunk)
                    await sink.drain()
        if await self._forwards(to_server=to_server):
            _reset(sink) if source.exception() else sink.close()

    def half_close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._client[1].write_eof()

    def reset(self) -> None:
        _reset(self._client[1])
        _reset(self._server[1])


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST, as a crashed host does."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

"""Sockets: TCP to AMQP connection to Service Bus endpoint, all on one event loop."""

from __future__ import annotations

import asyncio
import logging

from emulator.amqp import Connection, Error, Limits
from emulator.servicebus.broker import Broker
from emulator.servicebus.consumer import MAX_BACKLOG_BYTES
from emulator.servicebus.endpoint import Endpoint
from emulator.servicebus.errors import CONNECTION_FORCED, INTERNAL_ERROR, ServiceBusError

_log = logging.getLogger(__name__)
_CONTAINER = "flow-worker-emulator"
_HEARTBEAT_SECONDS = 30.0
_PAUSE_ABOVE_BYTES = 4 * 1024 * 1024
"""A client that does not read its answers is not read from either, and nothing more is written to it."""
_GOODBYE_SECONDS = 1.0
"""How long a client that is told to go may take to read what was said before."""


class AmqpServer:
    """Serves a broker over plain AMQP."""

    def __init__(self, broker: Broker, *, limits: Limits | None = None) -> None:
        self._broker = broker
        self._limits = limits or Limits()
        self._server: asyncio.Server | None = None
        self._clients: set[_Client] = set()
        broker.on_break(self._break_links)

    async def start(self, host: str, port: int) -> int:
        """Listen; the bound port (port 0: a free one). Raises `OSError` if it is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._client, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Tell the clients, stop listening, drop all connections."""
        if self._server is not None:
            self._server.close()
        clients = list(self._clients)
        for client in clients:
            client.close(Error(CONNECTION_FORCED, "The emulator is stopping.", {}))
        if clients:
            gone = [client.gone for client in clients]
            await asyncio.wait(gone, timeout=_GOODBYE_SECONDS)
            self.drop_connections()
            await asyncio.wait(gone)
        if self._server is not None:
            await self._server.wait_closed()
        self._broker.close()

    def drop_connections(self) -> None:
        """Break every connection without a word, as a network does."""
        for client in list(self._clients):
            client.abort()

    def force_detach(self, entity: str) -> None:
        """Break all links to an entity, as the service does when it moves one."""
        for client in list(self._clients):
            client.force_detach(entity.lower())

    def _break_links(self, entity: str, error: ServiceBusError) -> None:
        for client in list(self._clients):
            client.force_detach(entity, error)

    def freeze(self) -> None:
        """Neither read nor answer; TCP stays up."""
        self._broker.faults.frozen = True

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._broker.faults.frozen = False
        for client in list(self._clients):
            client.catch_up()

    def _client(self) -> _Client:
        return _Client(self._broker, self._limits, self._clients)


class _Client(asyncio.Protocol):
    """One connection. Its failure touches no other."""

    def __init__(self, broker: Broker, limits: Limits, clients: set[_Client]) -> None:
        self._broker = broker
        self._clients = clients
        self._connection = Connection(_CONTAINER, limits)
        self._endpoint = Endpoint(broker, wrote=self._schedule_flush)
        self._transport: asyncio.Transport | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._flush_scheduled = False
        self._full = False
        self._held = bytearray()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server gives stream transports
        self._transport = transport
        transport.set_write_buffer_limits(high=_PAUSE_ABOVE_BYTES)
        self._clients.add(self)
        self._beat()

    def data_received(self, data: bytes) -> None:
        if self._broker.faults.frozen:
            self._held += data
            return
        try:
            for event in self._connection.receive(data):
                self._endpoint.handle(event)
        except Exception:  # noqa: BLE001 - whatever it is, it must end this connection alone
            _log.exception("A connection met a fault in the emulator and is closed.")
            self._connection.close(Error(INTERNAL_ERROR, "A fault in the emulator; see its log.", {}))
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clients.discard(self)
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self._endpoint.close()
        self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._full = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._flush()

    def close(self, error: Error) -> None:
        """Close with a reason the client can read."""
        self._connection.close(error)
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def force_detach(self, entity: str, error: ServiceBusError | None = None) -> None:
        """See `AmqpServer.force_detach`."""
        if error is None:
            self._endpoint.force_detach(entity)
        else:
            self._endpoint.force_detach(entity, error)

    def catch_up(self) -> None:
        """Read what came while frozen, and send what was not."""
        held, self._held = bytes(self._held), bytearray()
        if held:
            self.data_received(held)
        self._flush()

    def _schedule_flush(self) -> None:
        """Another connection's doing, or a timer's, gave this one something to say."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        transport = self._transport
        if transport is None or transport.is_closing() or self._broker.faults.frozen:
            return
        self._broker.store.flush()  # nobody learns of what is not safe yet
        # What waits in the connection counts as the consumers' backlog; the transport takes any amount.
        if not self._full or self._connection.closed:
            held_back = self._connection.pending_output_bytes >= MAX_BACKLOG_BYTES
            for chunk in self._connection.take_output():
                transport.write(chunk)
            if held_back:
                self._endpoint.writable()
        if self._connection.closed:
            transport.close()

    def _beat(self) -> None:
        """Empty frames keep idle clients from giving up: some ask for one a minute at least."""
        asked = self._connection.peer_idle_timeout_ms
        pause = min(_HEARTBEAT_SECONDS, asked / 2000) if asked else _HEARTBEAT_SECONDS
        self._heartbeat = asyncio.get_running_loop().call_later(max(pause, 0.1), self._beat)
        self._connection.heartbeat()
        self._flush()

"""Where clients come in: AMQP over TCP, TLS and WebSocket, all on one event loop."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

from servicebus_emulator.amqp import Error, Limits
from servicebus_emulator.servicebus.access import OPEN, Gatekeeper
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.errors import CONNECTION_FORCED, ServiceBusError
from servicebus_emulator.transport.client_connection import ClientConnection
from servicebus_emulator.transport.connection_rules import ConnectionRules

if TYPE_CHECKING:
    from servicebus_emulator.transport.websocket import WebSocketListener

_GOODBYE_SECONDS = 1.0
"""How long a client that is told to go may take to read what was said before."""
_WAITING_CONNECTIONS = 1024
"""Connections the operating system may hold until we get to them: clients come in crowds."""


class AmqpServer:
    """Serves a broker over AMQP."""

    def __init__(
        self,
        broker: Broker,
        *,
        limits: Limits | None = None,
        rules: ConnectionRules | None = None,
        gatekeeper: Gatekeeper = OPEN,
    ) -> None:
        self._broker = broker
        self._gatekeeper = gatekeeper
        self._rules = rules or ConnectionRules()
        self._limits = replace(limits or Limits(), idle_timeout_ms=round(self._rules.idle_timeout_seconds * 1000))
        self._listeners: list[asyncio.Server] = []
        self._websocket_listeners: list[WebSocketListener] = []
        self._clients: set[ClientConnection] = set()
        broker.on_break(self._break_links)

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen; the bound port (port 0: a free one). Raises `OSError` if it is taken."""
        listener = await asyncio.get_running_loop().create_server(
            self._client,
            host,
            port,
            ssl=tls,
            ssl_shutdown_timeout=_GOODBYE_SECONDS if tls else None,
            backlog=_WAITING_CONNECTIONS,
        )
        self._listeners.append(listener)
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    async def start_websocket(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen for WebSockets, else as `start`."""
        from servicebus_emulator.transport.websocket import (
            WebSocketListener,  # imported here: aiohttp is large, and most starts do without
        )

        patience = self._rules.first_link_within_seconds
        listener = WebSocketListener(self._client, backlog=_WAITING_CONNECTIONS, patience_seconds=patience)
        bound = await listener.start(host, port, tls)
        self._websocket_listeners.append(listener)
        return bound

    async def stop(self) -> None:
        """Tell the clients, stop listening, drop all connections."""
        listeners, self._listeners = self._listeners, []
        websocket_listeners, self._websocket_listeners = self._websocket_listeners, []
        for listener in listeners:
            listener.close()
        for websocket_listener in websocket_listeners:
            websocket_listener.stop_listening()
        await self._say_goodbye()
        for websocket_listener in websocket_listeners:
            await websocket_listener.close()
        for listener in listeners:
            await listener.wait_closed()
        self._broker.close()

    def drop_connections(self) -> None:
        """Break every connection without a word, as a network does."""
        for client in list(self._clients):
            client.abort()

    def force_detach(self, entity: str) -> None:
        """Break all links to an entity, as the service does when it moves one."""
        for client in list(self._clients):
            client.force_detach(entity.lower())

    def freeze(self) -> None:
        """Neither read nor answer; TCP stays up."""
        self._broker.faults.frozen = True

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._broker.faults.frozen = False
        for client in list(self._clients):
            client.catch_up()

    async def _say_goodbye(self) -> None:
        clients = list(self._clients)
        for client in clients:
            client.close(Error(CONNECTION_FORCED, "The emulator is stopping.", {}))
        if clients:
            gone = [client.gone for client in clients]
            await asyncio.wait(gone, timeout=_GOODBYE_SECONDS)
            self.drop_connections()
            await asyncio.wait(gone)

    def _break_links(self, entity: str, error: ServiceBusError) -> None:
        for client in list(self._clients):
            client.force_detach(entity, error)

    def _client(self) -> ClientConnection:
        return ClientConnection(self._broker, self._limits, self._rules, self._gatekeeper, self._clients)

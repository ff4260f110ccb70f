"""The AMQP server: listeners for TCP, TLS and WebSocket on one event loop."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from typing import Protocol

from servicebus_emulator.amqp import Error, Limits
from servicebus_emulator.servicebus.access import UNCHECKED, Authorizer
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.errors import CONNECTION_FORCED, ServiceBusError
from servicebus_emulator.transport.client_connection import ClientConnection
from servicebus_emulator.transport.connection_rules import ConnectionRules
from servicebus_emulator.transport.web_callers import WebCallers

_CLOSE_SECONDS = 1.0
"""Time for clients to read their last frames when the server stops."""
_BACKLOG_CONNECTIONS = 1024
"""Connections that the operating system may queue: test suites and restarted workers connect in bursts."""


class _Listener(Protocol):
    """`websocket.WebSocketListener`, as the server uses it. Its module is imported only when it is needed."""

    def stop_listening(self) -> None: ...
    async def close(self) -> None: ...


class AmqpServer:
    """Serves a broker to AMQP clients."""

    def __init__(
        self,
        broker: Broker,
        *,
        limits: Limits | None = None,
        rules: ConnectionRules | None = None,
        authorizer: Authorizer = UNCHECKED,
    ) -> None:
        self._broker = broker
        self._authorizer = authorizer
        self._rules = rules or ConnectionRules()
        self._limits = replace(limits or Limits(), idle_timeout_ms=round(self._rules.idle_timeout_seconds * 1000))
        self._listeners: list[asyncio.Server] = []
        self._websocket_listeners: list[_Listener] = []
        self._clients: set[ClientConnection] = set()
        broker.add_link_breaker(self._break_links)

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen for TCP, or for TLS with `tls`; return the bound port. Port 0 picks a free one.

        Raises `OSError` if the port is in use.
        """
        listener = await asyncio.get_running_loop().create_server(
            self._client,
            host,
            port,
            ssl=tls,
            ssl_shutdown_timeout=_CLOSE_SECONDS if tls else None,
            backlog=_BACKLOG_CONNECTIONS,
        )
        self._listeners.append(listener)
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    async def start_websocket(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None, callers: WebCallers | None = None
    ) -> int:
        """Listen for WebSockets; otherwise as `start`. `callers` are allowed beside those that address the loopback."""
        # Imported here because aiohttp is large and most starts do not use WebSockets.
        from servicebus_emulator.transport.websocket import WebSocketListener

        handshake_seconds = self._rules.first_link_within_seconds
        listener = WebSocketListener(
            self._client,
            backlog=_BACKLOG_CONNECTIONS,
            handshake_seconds=handshake_seconds,
            callers=callers or WebCallers(),
        )
        bound = await listener.start(host, port, tls)
        self._websocket_listeners.append(listener)
        return bound

    async def stop(self) -> None:
        """Stop listening, close every connection with `amqp:connection:forced`, and close the broker."""
        listeners, self._listeners = self._listeners, []
        websocket_listeners, self._websocket_listeners = self._websocket_listeners, []
        for listener in listeners:
            listener.close()
        for websocket_listener in websocket_listeners:
            websocket_listener.stop_listening()
        # Close the clients before the WebSocket runners. `close` of a runner cancels its handlers, and a client would
        # lose the connection without the close frame that names the reason.
        await self._close_clients()
        for websocket_listener in websocket_listeners:
            await websocket_listener.close()
        for listener in listeners:
            await listener.wait_closed()
        self._broker.close()

    def drop_connections(self) -> None:
        """Abort every connection without a close frame, as a network failure does."""
        for client in list(self._clients):
            client.abort()

    def force_detach(self, entity: str) -> None:
        """Detach all links to an entity, as the service does when it moves an entity to another host."""
        for client in list(self._clients):
            client.force_detach(entity.lower())

    def freeze(self) -> None:
        """Stop reading and answering. TCP connections stay open."""
        self._broker.faults.frozen = True

    def thaw(self) -> None:
        """End `freeze`: process the input that arrived meanwhile."""
        self._broker.faults.frozen = False
        for client in list(self._clients):
            client.resume()

    async def _close_clients(self) -> None:
        clients = list(self._clients)
        for client in clients:
            client.close(Error(CONNECTION_FORCED, "The emulator is stopping.", {}))
        if clients:
            lost = [client.lost for client in clients]
            await asyncio.wait(lost, timeout=_CLOSE_SECONDS)
            self.drop_connections()
            await asyncio.wait(lost)

    def _break_links(self, entity: str, error: ServiceBusError) -> None:
        for client in list(self._clients):
            client.force_detach(entity, error)

    def _client(self) -> ClientConnection:
        return ClientConnection(self._broker, self._limits, self._rules, self._authorizer, self._clients)

"""One connection of a client, over any transport: bytes to AMQP to Service Bus, and back."""

from __future__ import annotations

import asyncio
import logging

from servicebus_emulator.amqp import Connection, ConnectionOpened, Error, Event, Limits
from servicebus_emulator.amqp.errors import RESOURCE_LIMIT_EXCEEDED
from servicebus_emulator.servicebus.access import Gatekeeper
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.errors import DETACH_FORCED, INTERNAL_ERROR, UNAUTHORIZED, ServiceBusError
from servicebus_emulator.servicebus.links.consumer import MAX_BACKLOG_BYTES
from servicebus_emulator.servicebus.links.endpoint import Endpoint
from servicebus_emulator.servicebus.storage.store import NotSaved
from servicebus_emulator.transport.connection_rules import ConnectionRules
from servicebus_emulator.transport.idle_watch import IdleWatch

_log = logging.getLogger(__name__)
_CONTAINER = "flow-worker-emulator"
_HEARTBEAT_SECONDS = 30.0
_PAUSE_ABOVE_BYTES = 4 * 1024 * 1024
"""A client that does not read its answers is not read from either, and nothing more is written to it."""
_LAST_WORDS_SECONDS = 5.0
"""How long a client may take to read why its connection is closed; one too many, to be told that it is."""
_REFUSED_AT_ONCE = 100
"""Connections above the limit that are told so at the same time; those above that are dropped."""


class ClientConnection(asyncio.Protocol):
    """Its failure touches no other. `everyone` holds the connections there are."""

    def __init__(
        self,
        broker: Broker,
        limits: Limits,
        rules: ConnectionRules,
        gatekeeper: Gatekeeper,
        everyone: set[ClientConnection],
    ) -> None:
        self._broker = broker
        self._everyone = everyone
        self._max_connections = rules.max_connections
        self._loop = asyncio.get_running_loop()
        self._endpoint = Endpoint(broker, wrote=self._schedule_flush, gatekeeper=gatekeeper)
        self._connection = Connection(_CONTAINER, limits, log_in=self._endpoint.claims.log_in)
        self._token_within_seconds = rules.first_token_within_seconds
        self._watch = IdleWatch(self._connection, rules, self._loop.time())
        self._transport: asyncio.Transport | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._token_due: asyncio.TimerHandle | None = None
        self._hang_up: asyncio.TimerHandle | None = None
        self._one_too_many = False
        self._flush_scheduled = False
        self._full = False
        self._held = bytearray()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - all our listeners give stream transports
        self._transport = transport
        transport.set_write_buffer_limits(high=_PAUSE_ABOVE_BYTES)
        self._one_too_many = len(self._everyone) >= self._max_connections
        if len(self._everyone) >= self._max_connections + _REFUSED_AT_ONCE:
            transport.abort()
        elif self._one_too_many:
            self._hang_up_soon()
        self._everyone.add(self)
        self._beat()
        self._next_look = self._loop.call_later(self._watch.pause_seconds, self._look)
        self._token_due = self._loop.call_later(self._token_within_seconds, self._require_token)

    def data_received(self, data: bytes) -> None:
        self._watch.heard()
        if self._broker.faults.frozen:
            self._held += data
            return
        try:
            for event in self._connection.receive(data):
                self._act_on(event)
        except Exception:  # noqa: BLE001 - whatever it is, it must end this connection alone
            _log.exception("A connection met a fault in the emulator and is closed.")
            self._connection.close(Error(INTERNAL_ERROR, "A fault in the emulator; see its log.", {}))
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._everyone.discard(self)
        for timer in (self._heartbeat, self._next_look, self._token_due, self._hang_up):
            if timer is not None:
                timer.cancel()
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

    def _act_on(self, event: Event) -> None:
        if not self._one_too_many:
            self._watch.saw(event)
            self._endpoint.handle(event)
        elif isinstance(event, ConnectionOpened):
            text = f"There are {self._max_connections} connections, which is the most the namespace allows."
            self._connection.close(Error(RESOURCE_LIMIT_EXCEEDED, text, {}))

    def _schedule_flush(self) -> None:
        """Another connection's doing, or a timer's, gave this one something to say."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        transport = self._transport
        if transport is None or transport.is_closing() or self._broker.faults.frozen:
            return
        try:
            self._broker.store.flush()  # nobody learns of what is not safe yet
        except NotSaved as error:
            self._take_back(error)
        # What waits in the connection counts as the consumers' backlog; the transport takes any amount.
        if not self._full or self._connection.closed:
            held_back = self._connection.pending_output_bytes >= MAX_BACKLOG_BYTES
            for chunk in self._connection.take_output():
                transport.write(chunk)
            if held_back:
                self._endpoint.writable()
        if self._connection.closed:
            transport.close()
            self._hang_up_soon()

    def _hang_up_soon(self) -> None:
        if self._hang_up is None:
            self._hang_up = self._loop.call_later(_LAST_WORDS_SECONDS, self.abort)

    def _beat(self) -> None:
        """Empty frames keep idle clients from giving up: some ask for one a minute at least."""
        asked = self._connection.peer_idle_timeout_ms
        pause = min(_HEARTBEAT_SECONDS, asked / 2000) if asked else _HEARTBEAT_SECONDS
        self._heartbeat = self._loop.call_later(max(pause, 0.1), self._beat)
        self._connection.heartbeat()
        self._flush()

    def _take_back(self, error: NotSaved) -> None:
        """Say this, and nothing of what the client was to be told: that was not saved."""
        self._connection.take_output()
        self._connection.close(Error(error.condition, error.description, {}))
        self._endpoint.close()

    def _require_token(self) -> None:
        """End who has shown no token in time."""
        if self._broker.faults.frozen:
            self._token_due = self._loop.call_later(self._token_within_seconds, self._require_token)
        elif not self._endpoint.claims.proven and not self._connection.closed:
            text = f"No valid token was put to $cbs within {self._token_within_seconds:g} seconds."
            _log.info("A connection is closed: %s", text)
            self._connection.close(Error(UNAUTHORIZED, text, {}))
            self._endpoint.close()
            self._flush()

    def _look(self) -> None:
        """End what has been idle too long."""
        self._next_look = self._loop.call_later(self._watch.pause_seconds, self._look)
        if self._broker.faults.frozen or self._connection.closed:
            return
        now = self._loop.time()
        for link in self._watch.idle_links(now):
            self._endpoint.forget(link)
            text = f"The link '{link.name}' is force detached by the broker: it was idle for too long."
            link.detach(Error(DETACH_FORCED, text, {}))
        error = self._watch.verdict(now)
        if error is not None:
            _log.info("A connection is closed: %s", error.description)
            self._connection.close(error)
            self._endpoint.close()
        self._flush()

"""One connection of a client over any transport: bytes to AMQP events to Service Bus, and back."""

from __future__ import annotations

import asyncio
import logging

from servicebus_emulator.amqp import Connection, ConnectionOpened, Error, Event, Limits
from servicebus_emulator.amqp.errors import RESOURCE_LIMIT_EXCEEDED
from servicebus_emulator.servicebus.access import Authorizer
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.storage import NotPersisted
from servicebus_emulator.servicebus.errors import DETACH_FORCED, INTERNAL_ERROR, UNAUTHORIZED, ServiceBusError
from servicebus_emulator.servicebus.links.connection_endpoint import ConnectionEndpoint
from servicebus_emulator.servicebus.links.receiver_link import MAX_BACKLOG_BYTES
from servicebus_emulator.transport.connection_rules import ConnectionRules
from servicebus_emulator.transport.idle_watch import IdleWatch

_log = logging.getLogger(__name__)
_CONTAINER = "flow-worker-emulator"
_HEARTBEAT_SECONDS = 30.0
_PAUSE_ABOVE_BYTES = 4 * 1024 * 1024
"""Unsent bytes above which the server stops reading from a client and writing to it."""
_CLOSE_SECONDS = 5.0
"""Time for a client to read the reason why its connection closes."""
_MAX_REFUSALS = 100
"""Connections above the limit that get a refusal with a reason at the same time. Further ones are aborted."""


class ClientConnection(asyncio.Protocol):
    """A client's connection. Its failure does not affect other connections. `connections` holds all of them."""

    def __init__(
        self,
        broker: Broker,
        limits: Limits,
        rules: ConnectionRules,
        authorizer: Authorizer,
        connections: set[ClientConnection],
    ) -> None:
        self._broker = broker
        self._connections = connections
        self._max_connections = rules.max_connections
        self._loop = asyncio.get_running_loop()
        self._endpoint = ConnectionEndpoint(broker, on_output=self._schedule_flush, authorizer=authorizer)
        self._connection = Connection(_CONTAINER, limits, check_password=self._endpoint.rights.log_in)
        self._token_within_seconds = rules.first_token_within_seconds
        self._watch = IdleWatch(self._connection, rules, self._loop.time())
        self._transport: asyncio.Transport | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._idle_check: asyncio.TimerHandle | None = None
        self._token_check: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._over_limit = False
        self._flush_scheduled = False
        self._write_paused = False
        self._unread = bytearray()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is lost."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - all our listeners give stream transports
        self._transport = transport
        transport.set_write_buffer_limits(high=_PAUSE_ABOVE_BYTES)
        self._over_limit = len(self._connections) >= self._max_connections
        if len(self._connections) >= self._max_connections + _MAX_REFUSALS:
            transport.abort()
        elif self._over_limit:
            self._abort_soon()
        self._connections.add(self)
        self._send_heartbeat()
        self._idle_check = self._loop.call_later(self._watch.interval_seconds, self._check_idle)
        self._token_check = self._loop.call_later(self._token_within_seconds, self._require_token)

    def data_received(self, data: bytes) -> None:
        self._watch.bytes_received()
        if self._broker.faults.frozen:
            self._unread += data
            return
        try:
            for event in self._connection.receive(data):
                self._act_on(event)
        except Exception:  # noqa: BLE001 - any fault must end this connection only
            _log.exception("The emulator closes a connection because of an internal fault.")
            self._connection.close(Error(INTERNAL_ERROR, "A fault in the emulator; see its log.", {}))
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        for timer in (self._heartbeat, self._idle_check, self._token_check, self._abort_timer):
            if timer is not None:
                timer.cancel()
        self._endpoint.close()
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        # Reading stops as well: every request of a client that does not read would add to the unsent output.
        self._write_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._flush()

    def close(self, error: Error) -> None:
        """Close the connection with an error that the client can read."""
        self._connection.close(error)
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._transport is not None:
            self._transport.abort()

    def force_detach(self, entity: str, error: ServiceBusError | None = None) -> None:
        """See `AmqpServer.force_detach`."""
        if error is None:
            self._endpoint.force_detach(entity)
        else:
            self._endpoint.force_detach(entity, error)

    def resume(self) -> None:
        """Process the input that arrived while frozen, and send the output that was held back."""
        unread, self._unread = bytes(self._unread), bytearray()
        if unread:
            self.data_received(unread)
        self._flush()

    def _act_on(self, event: Event) -> None:
        if not self._over_limit:
            self._watch.event_received(event)
            self._endpoint.handle(event)
        elif isinstance(event, ConnectionOpened):
            text = f"There are {self._max_connections} connections, which is the most the namespace allows."
            self._connection.close(Error(RESOURCE_LIMIT_EXCEEDED, text, {}))

    def _schedule_flush(self) -> None:
        """Flush soon: a timer or another connection produced output for this one.

        One flush serves all output of a loop iteration, so a burst of messages costs one write.
        """
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        transport = self._transport
        if transport is None or transport.is_closing() or self._broker.faults.frozen:
            return
        try:
            # Persist before the answer leaves: an accepted message must survive a crash.
            self._broker.storage.flush()
        except NotPersisted as error:
            self._discard_unsaved(error)
        # While the transport is paused, output stays in the connection, where consumers count it as their backlog.
        # The transport itself would accept any amount. A closed connection writes its close frame regardless.
        if not self._write_paused or self._connection.closed:
            held_back = self._connection.pending_output_bytes >= MAX_BACKLOG_BYTES
            for chunk in self._connection.take_output():
                transport.write(chunk)
            if held_back:
                self._endpoint.writable()
        if self._connection.closed:
            transport.close()
            self._abort_soon()

    def _abort_soon(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self._loop.call_later(_CLOSE_SECONDS, self.abort)

    def _send_heartbeat(self) -> None:
        """Send an empty frame, so that an idle client does not time out (AMQP part 2, section 2.4.5)."""
        timeout_ms = self._connection.peer_idle_timeout_ms
        # Half of the peer's timeout, in seconds: one late heartbeat must not cost the connection.
        pause = min(_HEARTBEAT_SECONDS, timeout_ms / 2000) if timeout_ms else _HEARTBEAT_SECONDS
        self._heartbeat = self._loop.call_later(max(pause, 0.1), self._send_heartbeat)
        self._connection.heartbeat()
        self._flush()

    def _discard_unsaved(self, error: NotPersisted) -> None:
        """Discard the pending output, which acknowledges unsaved changes; close with the error instead."""
        # In this order: `close` queues its own frame, which must not be discarded.
        self._connection.take_output()
        self._connection.close(Error(error.condition, error.description, {}))
        self._endpoint.close()

    def _require_token(self) -> None:
        """Close the connection if the client has put no valid token to `$cbs` in time."""
        if self._broker.faults.frozen:
            self._token_check = self._loop.call_later(self._token_within_seconds, self._require_token)
        elif not self._endpoint.rights.is_authenticated and not self._connection.closed:
            text = f"No valid token was put to $cbs within {self._token_within_seconds:g} seconds."
            _log.info("The emulator closes a connection: %s", text)
            self._connection.close(Error(UNAUTHORIZED, text, {}))
            self._endpoint.close()
            self._flush()

    def _check_idle(self) -> None:
        """Detach idle links, and close the connection if it is idle."""
        self._idle_check = self._loop.call_later(self._watch.interval_seconds, self._check_idle)
        if self._broker.faults.frozen or self._connection.closed:
            return
        now = self._loop.time()
        for link in self._watch.idle_links(now):
            self._endpoint.forget(link)
            text = f"The link '{link.name}' is force detached by the broker: it was idle for too long."
            link.detach(Error(DETACH_FORCED, text, {}))
        error = self._watch.close_reason(now)
        if error is not None:
            _log.info("The emulator closes a connection: %s", error.description)
            self._connection.close(error)
            self._endpoint.close()
        self._flush()

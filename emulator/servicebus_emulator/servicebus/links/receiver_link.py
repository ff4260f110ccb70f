"""A link on which a client receives messages from a queue, and settles them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import assert_never

from servicebus_emulator.amqp import Accepted, Error, Link, Modified, Outcome, Received, Rejected, Released
from servicebus_emulator.amqp.serial import advance, distance
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import encode_delivery
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.sessions import MessageSession
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST, SESSION_LOCK_LOST, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint, ServiceBusFaults

MAX_BACKLOG_BYTES = 4 * 1024 * 1024
"""The maximum of unsent bytes on a connection. Above it, a client that does not read gets no more messages."""
_MAX_STALE_DELIVERIES = 1000
"""Deliveries that stay known although their message is not locked any more."""
_SETTLED = 1
"""The snd-settle-mode "settled" (AMQP 1.0 part 2 section 2.8.2): the client asks for receive-and-delete."""
_DEAD_LETTER_FIELDS = ("DeadLetterReason", "DeadLetterErrorDescription")


class ReceiverLink:
    """Delivers messages while the client gives credit. Implements `receiver.MessageReceiver`.

    `on_output`: called when the link writes outside of an event of this connection.
    """

    def __init__(self, queue: Queue, link: Link, session: MessageSession | None, on_output: Callable[[], None]) -> None:
        self.peek_lock = link.attach.snd_settle_mode != _SETTLED
        self._queue = queue
        self._link = link
        self._session = session
        self._on_output = on_output
        self._tokens: dict[int, uuid.UUID] = {}
        self._sweep_at = 2 * _MAX_STALE_DELIVERIES

    def start(self) -> None:
        """Start to receive."""
        if self._session is not None:
            self._queue.sessions.attach(self._session, self)
        else:
            self._queue.subscribe(self)

    def stop(self) -> None:
        """Stop to receive. Message locks outlive the link; a session is released with it."""
        if self._session is not None:
            self._queue.sessions.release(self._session)
        else:
            self._queue.unsubscribe(self)

    def flowed(self, *, drain: bool) -> None:
        """Handle a change of the client's credit.

        The queue delivers before the link answers the drain. For a drain the broker uses the credit for the messages
        that it has, and gives up the rest (AMQP 1.0 part 2 section 2.6.7).
        """
        self._queue.credit_granted(self._session)
        if drain:
            self._link.drained()

    # --- deliver -------------------------------------------------------------------------------------------------

    def has_capacity(self) -> bool:
        """See `receiver.MessageReceiver`."""
        link = self._link
        return link.open and link.credit > 0 and link.pending_output_bytes < MAX_BACKLOG_BYTES

    def deliver(self, message: BrokeredMessage) -> None:
        """See `receiver.MessageReceiver`.

        SDKs read the lock token from the delivery tag. The tag is a .NET GUID, with the first three fields in
        little-endian order. Receive-and-delete has no token; its tag is empty.
        """
        token = message.lock_token
        tag = token.bytes_le if token is not None else b""
        delivery_id = self._link.send(encode_delivery(message, lock_token=token), tag=tag, settled=token is None)
        if token is not None:
            self._tokens[delivery_id] = token
            if len(self._tokens) >= self._sweep_at:
                self._sweep()
        self._on_output()

    def _sweep(self) -> None:
        """Forget old deliveries whose messages are not locked any more.

        A client that settles through `$management` never settles its deliveries on the link. The latest ones stay, so
        that a client that settles too late gets message-lock-lost.
        """
        oldest_kept = len(self._tokens) - _MAX_STALE_DELIVERIES
        self._tokens = {
            delivery_id: token
            for position, (delivery_id, token) in enumerate(self._tokens.items())
            if position >= oldest_kept or self._queue.is_locked(token)
        }
        # The limit doubles with the deliveries that are left, so that a sweep costs constant time for each delivery.
        self._sweep_at = 2 * max(_MAX_STALE_DELIVERIES, len(self._tokens))

    def session_lock_lost(self) -> None:
        """See `receiver.SessionLockObserver`."""
        self._session = None
        self._link.detach(Error(SESSION_LOCK_LOST, "The session's lock has expired.", {}))
        self._on_output()

    # --- settle --------------------------------------------------------------------------------------------------

    def deliveries_in(self, first: int, last: int) -> list[int]:
        """Return the unsettled deliveries of this link in a range of delivery IDs.

        The range may wrap at 32 bits. It may span deliveries of other links, because IDs count for the AMQP session. A
        client may state a huge range, so the method iterates over the smaller of the range and the link's deliveries.
        """
        if first == last:  # the usual case
            return [first] if first in self._tokens else []
        span = distance(first, last)
        if span > len(self._tokens):
            ids = [delivery_id for delivery_id in self._tokens if 0 <= distance(first, delivery_id) <= span]
            return sorted(ids, key=lambda delivery_id: distance(first, delivery_id))
        walk = (advance(first, step) for step in range(span + 1))
        return [delivery_id for delivery_id in walk if delivery_id in self._tokens]

    def settle(
        self, delivery_id: int, state: Outcome | None, *, settled: bool, faults: ServiceBusFaults
    ) -> Outcome | None:
        """Settle a delivery as the client's disposition says. Return the outcome to answer, None for no answer.

        A rejection with an error reports a failure. So a rejection without an error confirms a dead-lettering, which
        the client requests with a rejection. A delivery that the client settles without a state gets the link's default
        outcome (AMQP 1.0 part 3 section 3.5.3).
        """
        token = self._tokens[delivery_id]
        source = self._link.attach.source
        state = source.default_outcome if state is None and settled and source is not None else state
        if settled or not isinstance(state, Received | None):
            del self._tokens[delivery_id]
        try:
            # No fault refuses a release: SDKs send it on close and do not wait for an answer.
            if not isinstance(state, Received | Released | None):
                faults.check(FaultPoint.SETTLE, self._queue.settings.name)
            return self._carry_out(token, state)
        except ServiceBusError as error:
            return Rejected(Error(self._condition(error), error.description, {}))

    def _condition(self, error: ServiceBusError) -> str:
        # The lock of a session's message is lost with the session's lock, and SDKs expect that error for it.
        session = self._session
        if error.condition == MESSAGE_LOCK_LOST and session is not None and not session.is_locked(self._queue.now()):
            return SESSION_LOCK_LOST
        return error.condition

    def _carry_out(self, token: uuid.UUID, state: Outcome | None) -> Outcome | None:
        match state:
            case Accepted():
                self._queue.complete(token)
            case Released():
                self._queue.release(token)
            case Modified(undeliverable_here=True, message_annotations=properties):
                self._queue.defer(token, _by_name(properties))
                return Modified(delivery_failed=True, undeliverable_here=True)
            case Modified(message_annotations=properties):
                self._queue.abandon(token, _by_name(properties))
                return Modified(delivery_failed=True, undeliverable_here=False)
            case Rejected(error=error):
                info = dict((error.info if error is not None else None) or {})
                reason, description = (_text(info.pop(name, None)) for name in _DEAD_LETTER_FIELDS)
                self._queue.dead_letter(token, reason, description, info)
                return Rejected(None)
            case Received() | None:
                return None  # progress, and not an outcome: the delivery stays unsettled
            case _:
                assert_never(state)
        return state


def _by_name(properties: Mapping[object, object] | None) -> dict[str, object]:
    # The .NET SDK writes the names of properties to modify as symbols, other SDKs as strings.
    return {str(key): value for key, value in (properties or {}).items()}


def _text(value: object) -> str | None:
    return None if value is None else str(value)

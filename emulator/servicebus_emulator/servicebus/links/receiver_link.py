"""A link on which a client receives messages from a queue, and settles them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping

from servicebus_emulator.amqp import Accepted, Error, Link, Modified, Outcome, Received, Rejected, Released
from servicebus_emulator.amqp.serial import advance, distance
from servicebus_emulator.servicebus.entities.message import Message
from servicebus_emulator.servicebus.entities.message_encoding import encode_delivery
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.sessions import MessageSession
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST, SESSION_LOCK_LOST, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint, ServiceBusFaults

MAX_BACKLOG_BYTES = 4 * 1024 * 1024
"""A client that does not read is sent no more while this much waits for it."""
_REMEMBERED = 1000
"""Deliveries that were settled by other means than their link, or whose lock is over, and are known all the same."""
_DEAD_LETTER_FIELDS = ("DeadLetterReason", "DeadLetterErrorDescription")


class ReceiverLink:
    """Pushes messages while the client gives credit. Under peek-lock the delivery tag is the lock token."""

    def __init__(self, queue: Queue, link: Link, session: MessageSession | None, wrote: Callable[[], None]) -> None:
        self.peek_lock = link.attach.snd_settle_mode != 1
        self._queue = queue
        self._link = link
        self._session = session
        self._wrote = wrote
        self._deliveries: dict[int, uuid.UUID] = {}
        self._sweep_at = 2 * _REMEMBERED

    def start(self) -> None:
        """Be served from now on."""
        if self._session is not None:
            self._queue.sessions.attach(self._session, self)
        else:
            self._queue.subscribe(self)

    def stop(self) -> None:
        """The link is gone. Locks outlive it, a session does not."""
        if self._session is not None:
            self._queue.sessions.release(self._session)
        else:
            self._queue.unsubscribe(self)

    def flowed(self, *, drain: bool) -> None:
        """The client changed its credit; a drain is answered when nothing more can be sent at once."""
        self._queue.credit_granted(self._session)
        if drain:
            self._link.drained()

    def has_capacity(self) -> bool:
        """See `receiver.MessageReceiver`."""
        link = self._link
        return link.open and link.credit > 0 and link.pending_output_bytes < MAX_BACKLOG_BYTES

    def deliver(self, message: Message) -> None:
        """See `receiver.MessageReceiver`."""
        token = message.lock_token
        tag = token.bytes_le if token is not None else b""  # the tag is the token, and empty if there is none
        delivery_id = self._link.send(encode_delivery(message, lock_token=token), tag=tag, settled=token is None)
        if token is not None:
            self._deliveries[delivery_id] = token
            if len(self._deliveries) >= self._sweep_at:
                self._sweep()
        self._wrote()

    def _sweep(self) -> None:
        """Forget old deliveries that are locked no more: a client that settles by requests never settles them here.

        The newest stay, so that who settles too late is told so.
        """
        newest = len(self._deliveries) - _REMEMBERED
        self._deliveries = {
            delivery_id: token
            for age, (delivery_id, token) in enumerate(self._deliveries.items())
            if age >= newest or self._queue.is_locked(token)
        }
        self._sweep_at = 2 * max(_REMEMBERED, len(self._deliveries))  # so that it costs little for each delivery

    def session_lock_lost(self) -> None:
        """See `receiver.SessionLockObserver`."""
        self._session = None
        self._link.detach(Error(SESSION_LOCK_LOST, "The session's lock has expired.", {}))
        self._wrote()

    def deliveries_in(self, first: int, last: int) -> list[int]:
        """Its unsettled deliveries in this range of IDs, which may run over the end of 32 bits."""
        if first == last:  # as nearly always
            return [first] if first in self._deliveries else []
        span = distance(first, last)
        if span > len(self._deliveries):
            found = [number for number in self._deliveries if 0 <= distance(first, number) <= span]
            return sorted(found, key=lambda number: distance(first, number))
        walk = (advance(first, step) for step in range(span + 1))
        return [number for number in walk if number in self._deliveries]

    def settle(
        self, delivery_id: int, state: Outcome | None, *, settled: bool, faults: ServiceBusFaults
    ) -> Outcome | None:
        """Carry out what the client says of a delivery; the state to answer with, None if there is nothing to answer.

        A refusal is a rejection with an error; the answer to a dead-lettering is a rejection without one. A delivery
        that the client settles without a word has the default outcome of the link, if it named one.
        """
        token = self._deliveries[delivery_id]
        source = self._link.attach.source
        state = source.default_outcome if state is None and settled and source is not None else state
        if settled or not isinstance(state, Received | None):
            del self._deliveries[delivery_id]
        try:
            if not isinstance(state, Received | Released | None):
                faults.check(FaultPoint.SETTLE, self._queue.settings.name)
            return self._carry_out(token, state)
        except ServiceBusError as error:
            return Rejected(Error(self._condition(error), error.description, {}))

    def _condition(self, error: ServiceBusError) -> str:
        """What is lost with a session is the session's lock."""
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
            case Modified(undeliverable_here=True, message_annotations=changes):
                self._queue.defer(token, _named(changes))
                return Modified(delivery_failed=True, undeliverable_here=True)
            case Modified(message_annotations=changes):
                self._queue.abandon(token, _named(changes))
                return Modified(delivery_failed=True, undeliverable_here=False)
            case Rejected(error=error):
                given = dict((error.info if error is not None else None) or {})
                reason, description = (_text(given.pop(name, None)) for name in _DEAD_LETTER_FIELDS)
                self._queue.dead_letter(token, reason, description, given)
                return Rejected(None)
            case Received() | None:
                return None  # not the end of it
        return state


def _named(changes: Mapping[object, object] | None) -> dict[str, object]:
    """`properties-to-modify`; .NET writes its keys as symbols, others as strings."""
    return {str(key): value for key, value in (changes or {}).items()}


def _text(value: object) -> str | None:
    return None if value is None else str(value)

"""A link on which a client sends messages to a queue."""

from __future__ import annotations

from servicebus_emulator.amqp import Accepted, Error, Link, MessageReceived, Rejected
from servicebus_emulator.servicebus.entities.message_encoding import BATCH_FORMAT, parse_batch, parse_message
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import MESSAGE_SIZE_EXCEEDED, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint, ServiceBusFaults

_CREDIT = 1000
_MAX_BATCH_BYTES = 1024 * 1024
"""The maximum size of a batch, even where one message may be larger (Microsoft Learn, "Service Bus quotas")."""


def batch_limit(settings: QueueSettings) -> int:
    """Return the maximum size of a batch in bytes."""
    return min(settings.max_message_bytes, _MAX_BATCH_BYTES)


class SenderLink:
    """Accepts or rejects each transfer as a whole.

    The link refills the client's credit when half of it is used. A flow frame for each transfer would cost more than
    the transfer.
    """

    def __init__(self, queue: Queue, link: Link, faults: ServiceBusFaults) -> None:
        self._queue = queue
        self._link = link
        self._faults = faults
        self._transfers_since_grant = 0
        link.grant(_CREDIT)

    def received(self, event: MessageReceived) -> None:
        """Handle a message or a batch of messages."""
        outcome = self._outcome(event)
        if not event.settled:
            self._link.session.settle(True, event.delivery_id, event.delivery_id, outcome)
        self._transfers_since_grant += 1
        if self._transfers_since_grant >= _CREDIT // 2:
            self._transfers_since_grant = 0
            self._link.grant(_CREDIT)

    def _outcome(self, event: MessageReceived) -> Accepted | Rejected:
        try:
            self._send(event)
        except ServiceBusError as error:
            return Rejected(Error(error.condition, error.description, {}))
        return Accepted()

    def _send(self, event: MessageReceived) -> None:
        settings, is_batch = self._queue.settings, event.message_format == BATCH_FORMAT
        self._faults.check(FaultPoint.SEND, settings.name)
        limit = batch_limit(settings) if is_batch else settings.max_message_bytes
        if event.oversize or len(event.payload) > limit:
            kind = "batch" if is_batch else "message"
            raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, f"'{settings.name}' takes {limit} bytes a {kind}")
        self._queue.send(parse_batch(event.payload) if is_batch else [parse_message(event.payload)])

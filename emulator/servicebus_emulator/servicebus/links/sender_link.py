"""A link on which a client sends messages into a queue."""

from __future__ import annotations

from servicebus_emulator.amqp import Accepted, Error, Link, MessageReceived, Rejected
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.message_encoding import BATCH_FORMAT, parse_batch, parse_message
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import MESSAGE_SIZE_EXCEEDED, ServiceBusError
from servicebus_emulator.servicebus.faults import FaultPoint

_CREDIT = 1000
_MAX_BATCH_BYTES = 1024 * 1024
"""Of a batch, even where one message may be larger (Microsoft Learn, "Service Bus quotas")."""


def batch_limit(settings: QueueSettings) -> int:
    """How many bytes a batch of messages may have."""
    return min(settings.max_message_bytes, _MAX_BATCH_BYTES)


class SenderLink:
    """Takes what comes; each transfer is accepted or rejected as a whole. Credit is topped up at half."""

    def __init__(self, broker: Broker, queue: Queue, link: Link) -> None:
        self._broker = broker
        self._queue = queue
        self._link = link
        self._since_grant = 0
        link.grant(_CREDIT)

    def received(self, event: MessageReceived) -> None:
        """A message, or a batch of them."""
        state = self._outcome(event)
        if not event.settled:
            self._link.session.settle(True, event.delivery_id, event.delivery_id, state)
        self._since_grant += 1
        if self._since_grant >= _CREDIT // 2:
            self._since_grant = 0
            self._link.grant(_CREDIT)

    def _outcome(self, event: MessageReceived) -> Accepted | Rejected:
        try:
            self._accept(event)
        except ServiceBusError as error:
            return Rejected(Error(error.condition, error.description, {}))
        return Accepted()

    def _accept(self, event: MessageReceived) -> None:
        settings, is_batch = self._queue.settings, event.message_format == BATCH_FORMAT
        self._broker.faults.check(FaultPoint.SEND, settings.name)
        limit = batch_limit(settings) if is_batch else settings.max_message_bytes
        if event.oversize or len(event.payload) > limit:
            what = "batch" if is_batch else "message"
            raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, f"'{settings.name}' takes {limit} bytes a {what}")
        self._queue.send(parse_batch(event.payload) if is_batch else [parse_message(event.payload)])

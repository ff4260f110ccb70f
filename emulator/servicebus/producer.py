"""A link on which a client sends messages into a queue."""

from __future__ import annotations

from emulator.amqp import Accepted, Error, Link, MessageReceived, Rejected
from emulator.servicebus.broker import Broker
from emulator.servicebus.errors import MESSAGE_SIZE_EXCEEDED, ServiceBusError
from emulator.servicebus.message import BATCH_FORMAT, parse, parse_batch
from emulator.servicebus.queue import Queue

_CREDIT = 1000


class Producer:
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
        refused = self._broker.faults.refuse_sends.get(self._queue.settings.name.lower())
        if refused is not None:
            raise ServiceBusError(refused, "refused on demand")
        limit = self._queue.settings.max_message_bytes
        if event.oversize:
            raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, f"'{self._queue.settings.name}' takes {limit} bytes a message")
        if event.message_format == BATCH_FORMAT:
            self._queue.send(parse_batch(event.payload))
        else:
            self._queue.send([parse(event.payload)])

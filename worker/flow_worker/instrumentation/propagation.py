"""Passes the trace contexts of senders on, where no SDK takes metrics or spans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from opentelemetry.trace import Span

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.servicebus import BeforeSend, DeadLetteredMessage, Delivery, unconditionally
from flow_worker.instrumentation.spans import Spans, enter
from flow_worker.runtime.ports import Bus, DeadLetterReader, QueueReceiver


class PropagatingBus:
    """A `Bus` that writes the sender's trace context on each message that the worker sends about a request.

    It does what `ObservedBus` does, without its cost for each request: nothing is timed or counted, and no span begins.
    """

    def __init__(self, bus: Bus, spans: Spans) -> None:
        self._bus = bus
        self.spans = spans

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        """See `MessageSender.send`."""
        _, message = self.spans.send("", queue, message)
        await self._bus.send(queue, message, before)

    async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        """See `MessageSender.send_all`."""
        _, messages = self.spans.send_all("", queue, messages)
        await self._bus.send_all(queue, messages, before)

    def max_message_bytes(self, queue: str) -> int | None:
        """See `SizeReader.max_message_bytes`."""
        return self._bus.max_message_bytes(queue)

    async def other_senders(self, queue: str) -> list[str] | None:
        """See `PolicyReader.other_senders`."""
        return await self._bus.other_senders(queue)

    @asynccontextmanager
    async def dead_letter_queue(self, queue: str) -> AsyncIterator[DeadLetterReader]:
        """See `Bus.dead_letter_queue`."""
        async with self._bus.dead_letter_queue(queue) as reader:
            yield TracedDeadLetters(reader, queue, self.spans)

    @asynccontextmanager
    async def receiver(self, queue: str) -> AsyncIterator[QueueReceiver]:
        """See `Bus.receiver`."""
        async with self._bus.receiver(queue) as receiver:
            propagating = _PropagatingReceiver(receiver, queue, self.spans)
            try:
                yield propagating
            finally:
                propagating.forget_all()
                enter(None)


class TracedDeadLetters:
    """A `DeadLetterReader` whose messages have their senders' trace contexts, for the results that answer them."""

    def __init__(self, reader: DeadLetterReader, queue: str, spans: Spans) -> None:
        self._reader = reader
        self._queue = queue
        self._spans = spans
        self.take = reader.take
        self.complete = reader.complete
        self.release = reader.release

    async def peek(self) -> AsyncIterator[DeadLetteredMessage]:
        """See `DeadLetterReader.peek`. Most messages were answered before, so none of them has a span."""
        try:
            async for dead_letter in self._reader.peek():
                self._spans.follow(self._queue, dead_letter.message)
                yield dead_letter
        finally:
            enter(None)


class _PropagatingReceiver:
    """A `QueueReceiver` whose delivery in process is the current trace context of its lane."""

    def __init__(self, receiver: QueueReceiver, queue: str, spans: Spans) -> None:
        self._receiver = receiver
        self._queue = queue
        self._spans = spans
        self._batch: dict[int, tuple[ReceivedMessage, Span | None]] = {}
        """The deliveries of a batch, by the identity of their objects."""

    async def receive(self) -> Delivery | None:
        """See `QueueReceiver.receive`."""
        self.forget_all()
        enter(None)
        delivery = await self._receiver.receive()
        if delivery is not None and (span := self._spans.begin(self._queue, delivery.message)) is not None:
            enter(span)
        return delivery

    async def receive_many(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """See `QueueReceiver.receive_many`."""
        enter(None)
        deliveries = await self._receiver.receive_many(max_messages, wait_seconds)
        for delivery in deliveries:
            span = self._spans.begin(self._queue, delivery.message)
            self._spans.wait(delivery.message, span)
            self._batch[id(delivery)] = delivery.message, span
        return deliveries

    async def complete(self, delivery: Delivery) -> None:
        """See `QueueReceiver.complete`."""
        self._forget(delivery)
        await self._receiver.complete(delivery)

    async def complete_all(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """See `QueueReceiver.complete_all`."""
        for delivery in deliveries:
            self._forget(delivery)
        return await self._receiver.complete_all(deliveries)

    async def abandon(self, delivery: Delivery) -> None:
        """See `QueueReceiver.abandon`."""
        self._forget(delivery)
        await self._receiver.abandon(delivery)

    async def dead_letter(self, delivery: Delivery, reason: str, description: str) -> None:
        """See `QueueReceiver.dead_letter`."""
        self._forget(delivery)
        await self._receiver.dead_letter(delivery, reason, description)

    async def renew(self, delivery: Delivery) -> None:
        """See `QueueReceiver.renew`."""
        await self._receiver.renew(delivery)

    def forget_all(self) -> None:
        """Forget the deliveries that no settlement named: their lane dropped them."""
        while self._batch:
            self._spans.forget(*self._batch.popitem()[1])

    def _forget(self, delivery: Delivery) -> None:
        if self._batch and (found := self._batch.pop(id(delivery), None)) is not None:
            self._spans.forget(*found)

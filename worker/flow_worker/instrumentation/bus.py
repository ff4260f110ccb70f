"""Records and traces what passes between the worker and Service Bus."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import NamedTuple, TypeVar

from opentelemetry.trace import Span

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.servicebus import (
    BeforeSend,
    Delivery,
    LockLost,
    MessageTooLarge,
    ServiceBusFailure,
    unconditionally,
)
from flow_worker.instrumentation.propagation import TracedDeadLetters
from flow_worker.instrumentation.spans import Spans, end, enter
from flow_worker.runtime.ports import Bus, DeadLetterReader, QueueReceiver
from flow_worker.telemetry.metrics import Metrics, error_type

_T = TypeVar("_T")

_SYSTEM = "servicebus"
_NOT_COMPLETED = {"abandon": "abandoned", "dead_letter": "dead_lettered"}


class ObservedBus:
    """A `Bus` whose messages and connections are counted, timed and traced."""

    def __init__(
        self, bus: Bus, metrics: Metrics, spans: Spans, *, namespace: str, now: Callable[[], datetime]
    ) -> None:
        """`namespace`: the host of Service Bus. `now` returns the broker's time."""
        self._bus = bus
        self._metrics = metrics
        self.spans = spans
        self._namespace = namespace
        self._now = now
        self.busy: Counter[str] = Counter()
        """The number of deliveries in process, by queue."""

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        """See `MessageSender.send`. What `before` refuses was not sent, so it is not counted."""
        operation = _sending(message)
        span, message = self.spans.send(operation, queue, message)
        await self._observed_send(operation, queue, 1, span, self._bus.send(queue, message, before))

    async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        """See `MessageSender.send_all`. A batch is one operation."""
        operation, count = _sending(messages[0]), len(messages)
        span, messages = self.spans.send_all(operation, queue, messages)
        await self._observed_send(operation, queue, count, span, self._bus.send_all(queue, messages, before))

    async def _observed_send(
        self, operation: str, queue: str, count: int, span: Span | None, sending: Awaitable[None]
    ) -> None:
        began, failure = time.perf_counter(), ""
        try:
            await sending
        except (ServiceBusFailure, MessageTooLarge, TimeoutError, asyncio.CancelledError) as error:
            failure = error_type(error)
            self._sent(operation, queue, count, began, failure)
            end(span, failure)
            raise
        self._sent(operation, queue, count, began, "")
        end(span)

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
        """See `Bus.receiver`. A receiver that ends with a failure means another connection."""
        try:
            async with self._bus.receiver(queue) as receiver:
                observed = ObservedReceiver(receiver, queue, self)
                try:
                    yield observed
                except BaseException as error:
                    observed.processed(error_type(error))
                    raise
                finally:
                    observed.processed("unsettled")
                    enter(None)
        except ServiceBusFailure:
            self._metrics.reconnects.add(queue)
            raise

    def _sent(self, operation: str, queue: str, count: int, began: float, failure: str) -> None:
        for _ in range(count):
            self._metrics.sent.add(operation, _SYSTEM, queue, self._namespace, failure)
        self.record_operation(operation, queue, "send", began, failure)

    # --- for the receivers ---------------------------------------------------------------------------------------

    def record_operation(self, operation: str, queue: str, kind: str, began: float, failure: str) -> None:
        """Record a request to Service Bus that ends now."""
        seconds = time.perf_counter() - began
        self._metrics.operation_duration.record(seconds, operation, _SYSTEM, queue, self._namespace, kind, failure)

    def record_delivery(self, queue: str, delivery: Delivery) -> None:
        """Count a delivery, and record how long the message waited for its first one."""
        self.busy[queue] += 1
        self._metrics.consumed.add("receive", _SYSTEM, queue, self._namespace)
        message = delivery.message
        if message.delivery_count == 0:
            self._metrics.queue_wait.record((self._now() - message.enqueued_at).total_seconds(), queue)

    def record_processed(self, queue: str, began: float, failure: str) -> None:
        """Record a delivery whose processing ends now."""
        self.busy[queue] -= 1
        seconds = time.perf_counter() - began
        self._metrics.process_duration.record(seconds, "process", _SYSTEM, queue, self._namespace, failure)

    def record_lost_lock(self, queue: str) -> None:
        """Count a lost lock."""
        self._metrics.locks_lost.add(queue)

    def record_failed_renewal(self, queue: str) -> None:
        """Count a failed renewal of a lock."""
        self._metrics.renewals_failed.add(queue)


class ObservedReceiver:
    """A `QueueReceiver` whose deliveries are measured and traced from `receive` to their settlement.

    The span of the processing is the lane's current span until the next receive, because a lane processes one delivery
    at a time. In a batch no span is current.
    """

    def __init__(self, receiver: QueueReceiver, queue: str, bus: ObservedBus) -> None:
        self._receiver = receiver
        self._queue = queue
        self._bus = bus
        self._current: dict[int, _Current] = {}
        """The processing of each current delivery, by the identity of its object."""
        self._is_lost = False

    async def receive(self) -> Delivery | None:
        """See `QueueReceiver.receive`. A wait without a message is no operation worth a record."""
        self.processed("unsettled")  # the lane skipped the delivery before
        enter(None)
        began = time.perf_counter()
        try:
            delivery = await self._receiver.receive()
        except ServiceBusFailure as error:
            self._bus.record_operation("receive", self._queue, "receive", began, error_type(error))
            raise
        if delivery is not None:
            self._bus.record_operation("receive", self._queue, "receive", began, "")
            enter(self._received(delivery))
        return delivery

    async def receive_many(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """See `QueueReceiver.receive_many`. The deliveries before may still wait for their settlement."""
        enter(None)
        began = time.perf_counter()
        try:
            deliveries = await self._receiver.receive_many(max_messages, wait_seconds)
        except ServiceBusFailure as error:
            self._bus.record_operation("receive", self._queue, "receive", began, error_type(error))
            raise
        if deliveries:
            self._bus.record_operation("receive", self._queue, "receive", began, "")
        for delivery in deliveries:
            self._bus.spans.wait(delivery.message, self._received(delivery))
        return deliveries

    async def complete(self, delivery: Delivery) -> None:
        """See `QueueReceiver.complete`."""
        await self._settled("complete", delivery, self._receiver.complete(delivery))

    async def complete_all(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """See `QueueReceiver.complete_all`."""
        spans = [self._measured(id(delivery), "") for delivery in deliveries]
        settling = self._bus.spans.settle("complete", self._queue, spans, [one.message for one in deliveries])
        try:
            lost = await self._timed("complete", "settle", self._receiver.complete_all(deliveries), settling)
        finally:
            for span in spans:
                end(span)
        for _ in lost:
            self._bus.record_lost_lock(self._queue)
        return lost

    async def abandon(self, delivery: Delivery) -> None:
        """See `QueueReceiver.abandon`."""
        await self._settled("abandon", delivery, self._receiver.abandon(delivery))

    async def dead_letter(self, delivery: Delivery, reason: str, description: str) -> None:
        """See `QueueReceiver.dead_letter`."""
        settling = self._receiver.dead_letter(delivery, reason, description)
        await self._settled("dead_letter", delivery, settling)

    async def renew(self, delivery: Delivery) -> None:
        """See `QueueReceiver.renew`."""
        try:
            await self._timed("renew_message_lock", "", self._receiver.renew(delivery))
        except ServiceBusFailure:
            self._bus.record_failed_renewal(self._queue)
            raise

    def processed(self, failure: str) -> None:
        """End the processing of the current deliveries."""
        for current in tuple(self._current):
            end(self._measured(current, failure), failure)

    def _received(self, delivery: Delivery) -> Span | None:
        # Of a delivery that the lane dropped: its object is gone.
        end(self._measured(id(delivery), "unsettled"), "unsettled")
        self._bus.record_delivery(self._queue, delivery)
        span = self._bus.spans.begin(self._queue, delivery.message)
        self._current[id(delivery)], self._is_lost = _Current(time.perf_counter(), span, delivery.message), False
        return span

    def _measured(self, current: int, failure: str) -> Span | None:
        """Record the processing of a delivery. Return its span, which the caller ends after the settlement."""
        found = self._current.pop(current, None)
        if found is None:
            return None
        self._bus.record_processed(self._queue, found.began, failure)
        self._bus.spans.forget(found.message, found.span)
        return found.span

    async def _settled(self, operation: str, delivery: Delivery, work: Awaitable[None]) -> None:
        failure = _NOT_COMPLETED.get(operation, "")
        span = self._measured(id(delivery), failure)
        settling = self._bus.spans.settle(operation, self._queue, [span], [delivery.message])
        try:
            await self._timed(operation, "settle", work, settling)
        except BaseException as error:
            failure = error_type(error)
            raise
        finally:
            end(span, failure)

    async def _timed(self, operation: str, kind: str, work: Awaitable[_T], span: Span | None = None) -> _T:
        began, failure = time.perf_counter(), ""
        try:
            return await work
        except BaseException as error:
            failure = error_type(error)
            if isinstance(error, LockLost) and not self._is_lost:  # once for each delivery
                self._is_lost = True
                self._bus.record_lost_lock(self._queue)
            raise
        finally:
            self._bus.record_operation(operation, self._queue, kind, began, failure)
            end(span, failure)


class _Current(NamedTuple):
    """The processing of one delivery."""

    began: float
    span: Span | None
    message: ReceivedMessage


def _sending(message: Message) -> str:
    return "send" if message.scheduled_at is None else "schedule"


def lane_states(counts: Mapping[str, tuple[int, int]], busy: Mapping[str, int]) -> list[tuple[float, dict[str, str]]]:
    """Return the lanes by queue and state. `counts`: all lanes and the connected ones of each queue."""
    return [
        (number, {"queue": queue, "state": state})
        for queue, (lanes, connected) in counts.items()
        for working in [min(busy.get(queue, 0), connected)]
        for state, number in (
            ("busy", working),
            ("idle", connected - working),
            ("disconnected", lanes - connected),
        )
    ]

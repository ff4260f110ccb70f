"""Records what passes between the worker and Service Bus."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import TypeVar

from flow_contracts.message import Message
from flow_contracts.servicebus import (
    BeforeSend,
    Delivery,
    LockLost,
    MessageTooLarge,
    ServiceBusFailure,
    unconditionally,
)
from flow_worker.runtime.ports import Bus, DeadLetterReader, QueueReceiver
from flow_worker.telemetry.metrics import Metrics, error_type

_T = TypeVar("_T")

_SYSTEM = "servicebus"
_NOT_COMPLETED = {"abandon": "abandoned", "dead_letter": "dead_lettered"}


class ObservedBus:
    """A `Bus` whose messages and connections are counted and timed."""

    def __init__(self, bus: Bus, metrics: Metrics, *, namespace: str, now: Callable[[], datetime]) -> None:
        """`namespace`: the host of Service Bus. `now` returns the broker's time."""
        self._bus = bus
        self._metrics = metrics
        self._namespace = namespace
        self._now = now
        self.busy: Counter[str] = Counter()
        """The number of deliveries in process, by queue."""

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        """See `MessageSender.send`. What `before` refuses was not sent, so it is not counted."""
        await self._observed_send(queue, [message], self._bus.send(queue, message, before))

    async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        """See `MessageSender.send_all`. A batch is one operation."""
        await self._observed_send(queue, messages, self._bus.send_all(queue, messages, before))

    async def _observed_send(self, queue: str, messages: Sequence[Message], sending: Awaitable[None]) -> None:
        operation = "send" if messages[0].scheduled_at is None else "schedule"
        began, failure = time.perf_counter(), ""
        try:
            await sending
        except (ServiceBusFailure, MessageTooLarge, TimeoutError, asyncio.CancelledError) as error:
            failure = error_type(error)
            self._sent(operation, queue, len(messages), began, failure)
            raise
        self._sent(operation, queue, len(messages), began, "")

    def max_message_bytes(self, queue: str) -> int | None:
        """See `SizeReader.max_message_bytes`."""
        return self._bus.max_message_bytes(queue)

    async def other_senders(self, queue: str) -> list[str] | None:
        """See `PolicyReader.other_senders`."""
        return await self._bus.other_senders(queue)

    def dead_letter_queue(self, queue: str) -> AbstractAsyncContextManager[DeadLetterReader]:
        """See `Bus.dead_letter_queue`."""
        return self._bus.dead_letter_queue(queue)

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
    """A `QueueReceiver` whose deliveries are measured from `receive` to their settlement.

    A tracer can hold the span of the processing for the same time, because a lane processes one delivery at a time.
    """

    def __init__(self, receiver: QueueReceiver, queue: str, bus: ObservedBus) -> None:
        self._receiver = receiver
        self._queue = queue
        self._bus = bus
        self._began: dict[int, float] = {}
        """The begin of the processing of each current delivery, by the identity of its object."""
        self._is_lost = False

    async def receive(self) -> Delivery | None:
        """See `QueueReceiver.receive`. A wait without a message is no operation worth a record."""
        self.processed("unsettled")  # the lane skipped the delivery before
        began = time.perf_counter()
        try:
            delivery = await self._receiver.receive()
        except ServiceBusFailure as error:
            self._bus.record_operation("receive", self._queue, "receive", began, error_type(error))
            raise
        if delivery is not None:
            self._bus.record_operation("receive", self._queue, "receive", began, "")
            self._received(delivery)
        return delivery

    async def receive_many(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """See `QueueReceiver.receive_many`. The deliveries before may still wait for their settlement."""
        began = time.perf_counter()
        try:
            deliveries = await self._receiver.receive_many(max_messages, wait_seconds)
        except ServiceBusFailure as error:
            self._bus.record_operation("receive", self._queue, "receive", began, error_type(error))
            raise
        if deliveries:
            self._bus.record_operation("receive", self._queue, "receive", began, "")
        for delivery in deliveries:
            self._received(delivery)
        return deliveries

    async def complete(self, delivery: Delivery) -> None:
        """See `QueueReceiver.complete`."""
        await self._settled("complete", delivery, self._receiver.complete(delivery))

    async def complete_all(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """See `QueueReceiver.complete_all`."""
        for delivery in deliveries:
            self._processed(id(delivery), "")
        lost = await self._timed("complete", "settle", self._receiver.complete_all(deliveries))
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
        for current in tuple(self._began):
            self._processed(current, failure)

    def _received(self, delivery: Delivery) -> None:
        self._processed(id(delivery), "unsettled")  # of a delivery that the lane dropped: its object is gone
        self._bus.record_delivery(self._queue, delivery)
        self._began[id(delivery)], self._is_lost = time.perf_counter(), False

    def _processed(self, current: int, failure: str) -> None:
        began = self._began.pop(current, None)
        if began is not None:
            self._bus.record_processed(self._queue, began, failure)

    async def _settled(self, operation: str, delivery: Delivery, settling: Awaitable[None]) -> None:
        self._processed(id(delivery), _NOT_COMPLETED.get(operation, ""))
        await self._timed(operation, "settle", settling)

    async def _timed(self, operation: str, kind: str, work: Awaitable[_T]) -> _T:
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

"""A peek-lock receiver of a queue, and its deliveries."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._pyamqp.error import MessageException, MessageSettlementUnconfirmed
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import MessageLockLostError

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.calls import bounded, receive_batch
from flow_contracts.servicebus.conversion import dead_letter_text, from_sdk
from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import LockLost
from flow_contracts.servicebus.locks import LockTimes, broker_decides


@dataclass(slots=True)
class Delivery:
    """A message under peek-lock: `message` is its content, `raw` the SDK's form, which a settlement needs."""

    message: ReceivedMessage
    raw: ServiceBusReceivedMessage
    lock_ends_at: float = 0.0
    """Monotonic, and an estimate; a renewal moves it. Zero in a session and in a dead-letter queue."""

    @property
    def lock_seconds_left(self) -> float:
        """The estimated seconds until the message lock expires. Only the broker knows whether a lock has expired."""
        return self.lock_ends_at - time.monotonic()


class Receiver:
    """One peek-lock receiver on its own connection, for one task at a time."""

    def __init__(self, sdk: ServiceBusReceiver, deadlines: Deadlines, locks: LockTimes) -> None:
        self._sdk = sdk
        self._deadlines = deadlines
        self._locks = locks
        self._last_answer_at = time.monotonic()

    async def receive(self) -> Delivery | None:
        """Return the next message; None if no message came within `receive_wait_seconds`.

        Raises `ServiceBusFailure`.
        """
        deliveries = await self._receive(1, self._deadlines.receive_wait_seconds)
        return deliveries[0] if deliveries else None

    async def receive_many(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """Return the messages that come within `wait_seconds`; once there is one, those of the next 0.2 s.

        Raises `ServiceBusFailure`.
        """
        deliveries = await self._receive(max_messages, wait_seconds)
        if len(deliveries) < max_messages:
            # The broker would lock further messages for this receiver, although it may settle first.
            await bounded(_stop_deliveries(self._sdk), self._deadlines.settle_seconds, "stop deliveries")
        return deliveries

    async def _receive(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        began = time.monotonic()
        messages = await receive_batch(self._sdk, max_messages, wait_seconds, self._deadlines)
        if not messages:
            await self._probe_when_quiet()
            return []
        self._last_answer_at = time.monotonic()
        return [self._delivery(raw, began) for raw in messages]

    def _delivery(self, raw: ServiceBusReceivedMessage, began: float) -> Delivery:
        ends_at = self._locks.delivered(raw.enqueued_time_utc, broker_decides(raw), began)
        return Delivery(from_sdk(raw), raw, ends_at)

    async def complete(self, delivery: Delivery) -> None:
        """Delete the message from its queue. Raises `LockLost`, `ServiceBusFailure`."""
        await self._settle(self._sdk.complete_message(delivery.raw), "complete")

    async def complete_all(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete the messages from their queue, one round trip for each range of consecutive deliveries.

        Return those whose range the broker refused: the lock of one or more of them was lost. Raises
        `ServiceBusFailure`.
        """
        refused: list[Delivery] = []
        for consecutive in _ranges(deliveries):
            try:
                await self._settle(_complete_range(self._sdk, consecutive, self._deadlines.settle_seconds), "complete")
            except LockLost:
                refused += consecutive
        return refused

    async def abandon(self, delivery: Delivery) -> None:
        """Release the message; its delivery count rises by one. Raises `LockLost`, `ServiceBusFailure`."""
        await self._settle(self._sdk.abandon_message(delivery.raw), "abandon")

    async def dead_letter(self, delivery: Delivery, reason: str, description: str) -> None:
        """Move the message to the dead-letter queue. Raises `LockLost`, `ServiceBusFailure`."""
        settling = self._sdk.dead_letter_message(
            delivery.raw,
            reason=dead_letter_text(reason),
            error_description=dead_letter_text(description),
        )
        await self._settle(settling, "dead-letter")

    async def renew(self, delivery: Delivery) -> None:
        """Renew the message lock. Raises `LockLost`, `ServiceBusFailure`."""
        asked = time.monotonic()
        await bounded(self._sdk.renew_message_lock(delivery.raw), self._deadlines.renew_seconds, "renew-lock")
        if (until := broker_decides(delivery.raw)) is not None:
            delivery.lock_ends_at = self._locks.renewed(until, asked)

    async def _settle(self, settling: Awaitable[None], operation: str) -> None:
        await bounded(settling, self._deadlines.settle_seconds, operation)
        self._last_answer_at = time.monotonic()

    async def _probe_when_quiet(self) -> None:
        """Peek if the broker was silent for long: an empty receive does not prove that the connection still works."""
        if time.monotonic() - self._last_answer_at < self._deadlines.probe_interval_seconds:
            return
        await bounded(self._sdk.peek_messages(max_message_count=1), self._deadlines.settle_seconds, "probe")
        self._last_answer_at = time.monotonic()


# --- several messages at once: the SDK's link can do it, and its receiver has no method for it ---------------------


async def _stop_deliveries(sdk: ServiceBusReceiver) -> None:
    """Withdraw the link's credit. The SDK releases a message that is under way, or returns it with the next receive."""
    link = getattr(sdk._handler, "_link", None)
    if link is not None:
        await link.flow(link_credit=0)


async def _complete_range(sdk: ServiceBusReceiver, deliveries: Sequence[Delivery], seconds: float) -> None:
    """Complete consecutive deliveries by one disposition frame (AMQP 1.0 part 2, 2.7.6)."""
    first, last = deliveries[0].raw, deliveries[-1].raw
    handler: Any = sdk._handler
    if handler is None:
        raise ConnectionError("the receiver is closed")
    try:
        await handler.settle_messages_async(
            (first._delivery_id, last._delivery_id),
            first._delivery_tag,
            "accepted",
            await_outcome=True,
            outcome_timeout=seconds,
        )
    except MessageSettlementUnconfirmed:
        raise  # a kind of the other error, although the broker has refused nothing
    except MessageException as error:
        raise MessageLockLostError(message=f"the broker refused to complete messages: {error}") from error
    for delivery in deliveries:
        # The SDK forgets the tag of the first delivery only.
        handler._link._received_delivery_tags.discard(delivery.raw._delivery_tag)
        delivery.raw._settled = True


def _ranges(deliveries: Iterable[Delivery]) -> Iterator[list[Delivery]]:
    """Yield the deliveries in runs of consecutive delivery IDs."""
    run: list[Delivery] = []
    for delivery in sorted(deliveries, key=lambda each: each.raw._delivery_id):
        if run and delivery.raw._delivery_id != run[-1].raw._delivery_id + 1:
            yield run
            run = []
        run.append(delivery)
    if run:
        yield run

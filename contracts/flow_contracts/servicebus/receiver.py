"""A peek-lock receiver of a queue, and its deliveries."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.calls import bounded, receive_batch
from flow_contracts.servicebus.conversion import dead_letter_text, from_sdk
from flow_contracts.servicebus.deadlines import Deadlines
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
        began = time.monotonic()
        messages = await receive_batch(self._sdk, 1, self._deadlines.receive_wait_seconds, self._deadlines)
        if not messages:
            await self._probe_when_quiet()
            return None
        self._last_answer_at = time.monotonic()
        raw = messages[0]
        ends_at = self._locks.delivered(raw.enqueued_time_utc, broker_decides(raw), began)
        return Delivery(from_sdk(raw), raw, ends_at)

    async def complete(self, delivery: Delivery) -> None:
        """Delete the message from its queue. Raises `LockLost`, `ServiceBusFailure`."""
        await self._settle(self._sdk.complete_message(delivery.raw), "complete")

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

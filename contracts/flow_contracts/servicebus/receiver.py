"""A peek-lock receiver of a queue, and its deliveries."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.calls import bounded, receive_batch
from flow_contracts.servicebus.conversion import from_sdk
from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import Undecodable

MAX_DEAD_LETTER_CHARACTERS = 4096
"""Service Bus takes a dead-letter reason and a description of up to this many characters each."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message under peek-lock: `message` is its content, `raw` the SDK's form, which a settlement needs."""

    message: ReceivedMessage
    raw: ServiceBusReceivedMessage

    @property
    def lock_seconds_left(self) -> float:
        """The seconds until the message lock expires, by this machine's clock; negative once it expired."""
        until = self.raw.locked_until_utc
        return (until - datetime.now(UTC)).total_seconds() if until else 0.0


class Receiver:
    """One peek-lock receiver on its own connection, for one task at a time."""

    def __init__(self, sdk: ServiceBusReceiver, deadlines: Deadlines) -> None:
        self._sdk = sdk
        self._deadlines = deadlines
        self._last_answer_at = time.monotonic()

    async def receive(self) -> Delivery | None:
        """Return the next message; None if no message came within `receive_wait_seconds`.

        Raises `ServiceBusFailure`.
        """
        messages = await receive_batch(self._sdk, 1, self._deadlines)
        if not messages:
            await self._probe_when_quiet()
            return None
        self._last_answer_at = time.monotonic()
        return Delivery(from_sdk(messages[0]), messages[0])

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
            reason=reason[:MAX_DEAD_LETTER_CHARACTERS],
            error_description=description[:MAX_DEAD_LETTER_CHARACTERS],
        )
        await self._settle(settling, "dead-letter")

    async def renew(self, delivery: Delivery) -> None:
        """Renew the message lock. Raises `LockLost`, `ServiceBusFailure`."""
        await bounded(self._sdk.renew_message_lock(delivery.raw), self._deadlines.renew_seconds, "renew-lock")

    async def _settle(self, settling: Awaitable[None], operation: str) -> None:
        await bounded(settling, self._deadlines.settle_seconds, operation)
        self._last_answer_at = time.monotonic()

    async def _probe_when_quiet(self) -> None:
        """Peek if the broker was silent for long: an empty receive does not prove that the connection still works."""
        if time.monotonic() - self._last_answer_at < self._deadlines.probe_interval_seconds:
            return
        with contextlib.suppress(Undecodable):  # the broker answered, which is enough for the probe
            await bounded(self._sdk.peek_messages(max_message_count=1), self._deadlines.settle_seconds, "probe")
        self._last_answer_at = time.monotonic()

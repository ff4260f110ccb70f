"""A request queue's receiver, and what it hands out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.conversion import from_sdk
from flow_worker.servicebus.calls import bounded, received
from flow_worker.servicebus.errors import Undecodable
from flow_worker.settings import ServiceBusSettings

_DEAD_LETTER_TEXT = 4096
"""Service Bus takes reason and description up to this many characters each."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request on loan: `message` is what it says, the rest is for settling it."""

    message: ReceivedMessage
    raw: ServiceBusReceivedMessage

    @property
    def lock_seconds_left(self) -> float:
        """How long the lock still holds, by this machine's clock; negative once it is over."""
        until = self.raw.locked_until_utc
        return (until - datetime.now(UTC)).total_seconds() if until else 0.0


class Receiver:
    """One peek-lock receiver on its own connection, for one task at a time."""

    def __init__(self, sdk: ServiceBusReceiver, settings: ServiceBusSettings) -> None:
        self._sdk = sdk
        self._settings = settings
        self._heard_at = time.monotonic()

    async def receive(self) -> Delivery | None:
        """The next request, None if none came within `receive_wait_seconds`. Raises `ServiceBusUnavailable`."""
        messages = await received(self._sdk, 1, self._settings)
        if not messages:
            await self._probe_when_quiet()
            return None
        self._heard_at = time.monotonic()
        return Delivery(from_sdk(messages[0]), messages[0])

    async def complete(self, delivery: Delivery) -> None:
        """Take the request off its queue. Raises `LockLost`, `ServiceBusUnavailable`."""
        await self._settle(self._sdk.complete_message(delivery.raw), "complete")

    async def abandon(self, delivery: Delivery) -> None:
        """Give the request back; its delivery count rises by one. Raises `LockLost`, `ServiceBusUnavailable`."""
        await self._settle(self._sdk.abandon_message(delivery.raw), "abandon")

    async def dead_letter(self, delivery: Delivery, reason: str, description: str) -> None:
        """Move the request to the dead-letter queue. Raises `LockLost`, `ServiceBusUnavailable`."""
        settling = self._sdk.dead_letter_message(
            delivery.raw, reason=reason[:_DEAD_LETTER_TEXT], error_description=description[:_DEAD_LETTER_TEXT]
        )
        await self._settle(settling, "dead-letter")

    async def renew(self, delivery: Delivery) -> None:
        """Prolong the request's lock. Raises `LockLost`, `ServiceBusUnavailable`."""
        await bounded(self._sdk.renew_message_lock(delivery.raw), self._settings.renew_seconds, "renew-lock")

    async def _settle(self, settling: Awaitable[None], what: str) -> None:
        await bounded(settling, self._settings.settle_seconds, what)
        self._heard_at = time.monotonic()

    async def _probe_when_quiet(self) -> None:
        """An empty receive proves nothing, so a silent broker is asked something it must answer."""
        if time.monotonic() - self._heard_at < self._settings.probe_interval_seconds:
            return
        with contextlib.suppress(Undecodable):  # an answer all the same
            await bounded(self._sdk.peek_messages(max_message_count=1), self._settings.settle_seconds, "probe")
        self._heard_at = time.monotonic()

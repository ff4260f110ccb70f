"""Reads one session of a queue while it holds the session's lock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.calls import bounded, receive_batch
from flow_contracts.servicebus.conversion import dead_letter_text, from_sdk
from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import LockLost, ServiceBusUnavailable
from flow_contracts.servicebus.locks import MAX_LOCK_SECONDS, ClockEvidence, broker_decides_session
from flow_contracts.servicebus.peeking import peek
from flow_contracts.servicebus.receiver import Delivery

_T = TypeVar("_T")

_PEEK_PAGE = 50
_MIN_RENEWAL_PAUSE = 0.5
_MAX_RENEWAL_PAUSE = 2.5
"""Seconds: half of the shortest lock of Service Bus. Nothing in a session tells a receiver with a wrong clock how long
its lock lasts, and a renewal that comes too early does no harm. It also proves that the broker still answers.
"""


class SessionReceiver:
    """A locked session of a queue, for one task at a time.

    Every method raises `ServiceBusUnavailable` if the session or its connection is lost: open the session again. A
    message in a session has no lock apart from the session's, so no method raises `LockLost`.
    """

    def __init__(
        self, sdk: ServiceBusReceiver, deadlines: Deadlines, evidence: ClockEvidence, opening_began: float
    ) -> None:
        """`evidence` learns the broker's times. `opening_began`: the monotonic time at which the opening began."""
        self._sdk = sdk
        self._deadlines = deadlines
        self._evidence = evidence
        self._seen: tuple[float, int] | None = None
        """The monotonic time at which the last complete peek began, and the highest sequence number so far."""
        self._renew_at = self._next_renewal(opening_began)

    async def find(self, matches: Callable[[ReceivedMessage], bool]) -> ReceivedMessage | None:
        """Peek for the first message that `matches`; it stays in the queue."""
        async for message in self.messages():
            if matches(message):
                return message
        return None

    async def messages(self) -> AsyncIterator[ReceivedMessage]:
        """Peek at all messages of the session, in the order of their arrival; they stay in the queue."""
        began, from_sequence, last = time.monotonic(), 1, None
        while last != from_sequence:
            last = from_sequence
            async for raw in peek(self._sdk, _PEEK_PAGE, from_sequence, self._deadlines.settle_seconds):
                message = from_sdk(raw)
                from_sequence = max(from_sequence, message.sequence_number + 1)
                self._learn(message)
                yield message
        self._seen = began, max(from_sequence - 1, self._seen[1] if self._seen else 0)

    def _learn(self, message: ReceivedMessage) -> None:
        """Learn the broker's time. A message that the last complete peek did not find came after that peek began."""
        self._evidence.at_least(message.enqueued_at, time.monotonic())
        if self._seen is not None and message.sequence_number > self._seen[1]:
            self._evidence.at_most(message.enqueued_at, self._seen[0])

    async def receive(self, wait_seconds: float) -> Delivery | None:
        """Return the next message; None if no message came within `wait_seconds`."""
        messages = await receive_batch(self._sdk, 1, wait_seconds, self._deadlines)
        if not messages:
            return None
        message = from_sdk(messages[0])
        self._evidence.at_least(message.enqueued_at, time.monotonic())
        return Delivery(message, messages[0])

    async def complete(self, delivery: Delivery) -> None:
        """Delete the message from the queue."""
        await self._bounded(self._sdk.complete_message(delivery.raw), "complete")

    async def abandon(self, delivery: Delivery) -> None:
        """Release the message; its delivery count rises by one."""
        await self._bounded(self._sdk.abandon_message(delivery.raw), "abandon")

    async def dead_letter(self, delivery: Delivery, reason: str, description: str) -> None:
        """Move the message to the dead-letter queue."""
        settling = self._sdk.dead_letter_message(
            delivery.raw,
            reason=dead_letter_text(reason),
            error_description=dead_letter_text(description),
        )
        await self._bounded(settling, "dead-letter")

    async def keep_locked(self) -> None:
        """Renew the session's lock early in its time. Call this every second or so.

        A separate task would renew more simply, but two tasks on one receiver wait for each other.
        """
        if time.monotonic() >= self._renew_at:
            began = time.monotonic()
            renewing = self._sdk.session.renew_lock()
            await bounded(renewing, self._deadlines.renew_seconds, "renew the session's lock")
            self._renew_at = self._next_renewal(began)

    def _next_renewal(self, began: float) -> float:
        """Return when to renew, after the SDK opened the session or renewed its lock, which it began at `began`."""
        until = broker_decides_session(self._sdk)
        if until is not None:
            self._evidence.at_most(until, began)
            self._evidence.at_least(until - timedelta(seconds=MAX_LOCK_SECONDS), time.monotonic())
        left = until.timestamp() - time.time() if until else 0.0
        return time.monotonic() + min(max(left / 2, _MIN_RENEWAL_PAUSE), _MAX_RENEWAL_PAUSE)

    async def _bounded(self, call: Awaitable[_T], operation: str) -> _T:
        try:
            return await bounded(call, self._deadlines.settle_seconds, operation)
        except LockLost as error:
            raise ServiceBusUnavailable(str(error)) from error

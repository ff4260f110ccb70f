"""Peeks at the messages of a dead-letter queue, and takes some of them by sequence number."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.calls import bounded, receive_batch
from flow_contracts.servicebus.conversion import from_sdk
from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import LockLost, ServiceBusFailure
from flow_contracts.servicebus.locks import broker_decides
from flow_contracts.servicebus.peeking import browse
from flow_contracts.servicebus.receiver import Delivery

_RECEIVE_BATCH = 100
_REASON, _DESCRIPTION = "DeadLetterReason", "DeadLetterErrorDescription"
"""Service Bus stores reason and description as application properties."""


@dataclass(frozen=True, slots=True)
class DeadLetteredMessage:
    """A message in a dead-letter queue, with the reason and the description of its dead-lettering."""

    message: ReceivedMessage
    reason: str
    description: str


class DeadLetterQueue:
    """The dead-letter queue of one queue, for one task at a time."""

    def __init__(self, queue: str, sdk: ServiceBusReceiver, deadlines: Deadlines) -> None:
        self._queue = queue
        self._sdk = sdk
        self._deadlines = deadlines
        self._locked: dict[int, ServiceBusReceivedMessage] = {}
        """Messages that this receiver locked and did not complete, by sequence number."""

    async def peek(self) -> AsyncIterator[DeadLetteredMessage]:
        """Yield each message in the order of the sequence numbers; all stay. Raises `ServiceBusFailure`.

        A message that arrives with a lower number than the current one is not yielded.
        """
        async for message in browse(self._sdk, self._deadlines.settle_seconds):
            yield DeadLetteredMessage(message, _text(message, _REASON), _text(message, _DESCRIPTION))

    async def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        """Yield each of these messages that exists, locked until its completion. Raises `ServiceBusFailure`.

        Service Bus delivers dead-lettered messages in its own order only. The receiver keeps the others locked
        meanwhile, so that they do not come again, and `release` abandons them. Their delivery counts rise, which does
        no harm: a dead-letter queue has no maximum delivery count.
        """
        missing = set(sequence_numbers)
        wait = self._deadlines.receive_wait_seconds
        while missing and (batch := await receive_batch(self._sdk, _RECEIVE_BATCH, wait, self._deadlines)):
            if all(raw.sequence_number in self._locked for raw in batch):
                return  # locks expired, and the broker starts again from the front: every message came once
            for raw in batch:
                broker_decides(raw)
            self._locked |= {raw.sequence_number or 0: raw for raw in batch}
            for raw in batch:
                if raw.sequence_number in missing:
                    missing.discard(raw.sequence_number)
                    yield Delivery(from_sdk(raw), raw)

    async def complete(self, delivery: Delivery) -> None:
        """Delete a taken message. Raises `LockLost`, `ServiceBusFailure`."""
        await bounded(self._sdk.complete_message(delivery.raw), self._deadlines.settle_seconds, "complete")
        self._locked.pop(delivery.message.sequence_number, None)

    async def release(self) -> None:
        """Abandon every message that is locked and not completed. If that fails, its lock expires by itself."""
        # Swapped out first, so that a second call finds nothing to abandon.
        locked, self._locked = self._locked, {}
        with contextlib.suppress(ServiceBusFailure):
            for raw in locked.values():
                with contextlib.suppress(LockLost):
                    await bounded(self._sdk.abandon_message(raw), self._deadlines.settle_seconds, "abandon")


def _text(message: ReceivedMessage, name: str) -> str:
    value = message.application_properties.get(name)
    return value if isinstance(value, str) else ""

"""Peeks at the messages of a dead-letter queue, and takes some of them by sequence number."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus import salvage
from flow_contracts.servicebus.calls import bounded, receive_batch
from flow_contracts.servicebus.conversion import from_sdk
from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import LockLost, ServiceBusFailure, Undecodable
from flow_contracts.servicebus.locks import broker_decides
from flow_contracts.servicebus.receiver import Delivery

_PEEK_PAGE = 100
_RECEIVE_BATCH = 100


@dataclass(frozen=True, slots=True)
class DeadLetteredMessage:
    """A message in a dead-letter queue, with the reason and the description of its dead-lettering."""

    message: ReceivedMessage
    reason: str
    description: str
    decoded: bool = True
    """False if the SDK cannot decode the message: `message` then lacks its body."""


class DeadLetterQueue:
    """The dead-letter queue of one queue, for one task at a time."""

    def __init__(self, queue: str, sdk: ServiceBusReceiver, deadlines: Deadlines) -> None:
        self._queue = queue
        self._sdk = sdk
        self._deadlines = deadlines
        self._locked: dict[int, ServiceBusReceivedMessage] = {}
        """Messages that this receiver locked and did not complete, by sequence number."""
        self._salvaging = False
        self.undecodable: set[int] = set()
        """Sequence numbers of the messages that `take` cannot yield; empty before the first call of `take`."""

    async def peek(self) -> AsyncIterator[DeadLetteredMessage]:
        """Yield each message in the order of the sequence numbers; all stay. Raises `ServiceBusFailure`.

        A message that arrives with a lower number than the current one is not yielded.
        """
        from_sequence = next_sequence = 1
        while page := await self._peek_page(from_sequence):
            for raw, decoded in page:
                message = from_sdk(raw)
                next_sequence = message.sequence_number + 1
                reason, description = raw.dead_letter_reason or "", raw.dead_letter_error_description or ""
                yield DeadLetteredMessage(message, reason, description, decoded)
            if next_sequence <= from_sequence:
                return  # a page without order: peeking on could repeat it without end
            from_sequence = next_sequence

    async def _peek_page(self, from_sequence: int) -> list[tuple[ServiceBusReceivedMessage, bool]]:
        """Return the next messages, each with True if the SDK decoded it."""
        if not self._salvaging:
            peeking = self._sdk.peek_messages(_PEEK_PAGE, sequence_number=from_sequence)
            try:
                return [(raw, True) for raw in await bounded(peeking, self._deadlines.settle_seconds, "peek")]
            except Undecodable:
                self._salvaging = True  # for the later pages, too: each failed peek costs a new link
        salvaging = salvage.peek(self._sdk, _PEEK_PAGE, from_sequence)
        page = await bounded(salvaging, self._deadlines.open_seconds + self._deadlines.settle_seconds, "peek")
        return [(peeked.message, peeked.decoded) for peeked in page]

    async def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        """Yield each of these messages that exists, locked until its completion. Raises `ServiceBusFailure`.

        Service Bus delivers dead-lettered messages in its own order only. The receiver keeps the others locked
        meanwhile, so that they do not come again, and `release` abandons them. Their delivery counts rise, which does
        no harm: a dead-letter queue has no maximum delivery count.

        A receive fails as a whole if one of its messages is undecodable, and leaves all of them locked. If the queue
        holds such a message, `take` receives one by one. Then only the undecodable message stays locked, and no later
        receive meets it.
        """
        missing = set(sequence_numbers)
        self.undecodable = {peeked.message.sequence_number async for peeked in self.peek() if not peeked.decoded}
        while missing and (batch := await self._receive_batch()):
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

    async def _receive_batch(self) -> list[ServiceBusReceivedMessage]:
        """Return the next messages; at the end an empty list, or messages whose locks expired meanwhile."""
        # One attempt for each undecodable message: each failed receive locks one of them and kills the link.
        for sequence_number in self.undecodable:
            try:
                return await receive_batch(self._sdk, 1, self._deadlines)
            except Undecodable:
                await self._reopen(sequence_number)
        return await receive_batch(self._sdk, 1 if self.undecodable else _RECEIVE_BATCH, self._deadlines)

    async def _reopen(self, undecodable: int) -> None:
        """Replace the link, which receives nothing any more.

        The SDK replaces a link only after an error that it notices. In a receive it does not notice its decoder's
        failure, but in a peek of the undecodable message it does. The call after that peek opens the new link.
        """
        peeking = self._sdk.peek_messages(1, sequence_number=undecodable)
        with contextlib.suppress(Undecodable):
            await bounded(peeking, self._deadlines.settle_seconds, "peek")
        await bounded(salvage.peek(self._sdk, 1, undecodable), self._deadlines.open_seconds, "reopen the link")

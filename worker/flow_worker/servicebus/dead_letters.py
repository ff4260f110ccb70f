"""A dead-letter queue: looked through without taking, and taken from by sequence number."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.message import ReceivedMessage
from flow_contracts.servicebus.conversion import from_sdk
from flow_worker.servicebus import salvage
from flow_worker.servicebus.calls import bounded, received
from flow_worker.servicebus.errors import LockLost, ServiceBusUnavailable, Undecodable
from flow_worker.servicebus.receiver import Delivery
from flow_worker.settings import ServiceBusSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_PEEKED_AT_ONCE = 100
_TAKEN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A message in a dead-letter queue, and why it is there."""

    message: ReceivedMessage
    reason: str
    description: str
    whole: bool = True
    """Whether it could be decoded; if not, `message` has no body."""


class DeadLetterQueue:
    """The messages that a queue's dead-letter queue holds."""

    def __init__(self, queue: str, sdk: ServiceBusReceiver, settings: ServiceBusSettings) -> None:
        self._queue = queue
        self._sdk = sdk
        self._settings = settings
        self._held: dict[int, ServiceBusReceivedMessage] = {}
        self._salvaging = False
        self.undecodable: set[int] = set()
        """Sequence numbers of messages that `take` cannot hand out; known once it was called."""

    async def peek(self, *, from_sequence: int = 0) -> AsyncIterator[DeadLettered]:
        """Each message from that sequence number on, in order; all of them stay. Raises `ServiceBusUnavailable`."""
        while page := await self._page(from_sequence):
            for raw, whole in page:
                message = from_sdk(raw)
                from_sequence = message.sequence_number + 1
                if not whole:
                    self._say_undecodable(message)
                reason, description = raw.dead_letter_reason or "", raw.dead_letter_error_description or ""
                yield DeadLettered(message, reason, description, whole)

    async def _page(self, from_sequence: int) -> list[tuple[ServiceBusReceivedMessage, bool]]:
        """The next messages, and whether they are whole."""
        if not self._salvaging:
            peeking = self._sdk.peek_messages(_PEEKED_AT_ONCE, sequence_number=from_sequence)
            try:
                return [(raw, True) for raw in await bounded(peeking, self._settings.settle_seconds, "peek")]
            except Undecodable:
                self._salvaging = True
        salvaging = salvage.peek(self._sdk, _PEEKED_AT_ONCE, from_sequence)
        page = await bounded(salvaging, self._settings.open_seconds + self._settings.settle_seconds, "peek")
        return [(one.message, one.whole) for one in page]

    def _say_undecodable(self, message: ReceivedMessage) -> None:
        log(
            _log,
            logging.WARNING,
            "dead_letter.undecodable",
            "A dead letter cannot be decoded, and is read without its body.",
            queue=self._queue,
            message_id=message.message_id,
            sequence_number=message.sequence_number,
        )

    async def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        """Each of these messages that is there, locked until it is completed. Raises `ServiceBusUnavailable`.

        The service hands dead letters out in its own order only. Those that are not wanted are held meanwhile, so that
        they do not come again, and given back when the queue is closed; no delivery count is too high for them.

        A receive fails as a whole if one of its messages cannot be decoded, and leaves all of them locked. Where there
        is such a message, they are received one by one: only the one that fails is left locked, and out of the way.
        """
        missing = set(sequence_numbers)
        self.undecodable = {one.message.sequence_number async for one in self.peek() if not one.whole}
        while missing and (batch := await self._batch()):
            if all(raw.sequence_number in self._held for raw in batch):
                return  # locks run out and it begins again from the front: all that can be had was here
            self._held |= {raw.sequence_number or 0: raw for raw in batch}
            for raw in batch:
                if raw.sequence_number in missing:
                    missing.discard(raw.sequence_number)
                    yield Delivery(from_sdk(raw), raw)

    async def complete(self, delivery: Delivery) -> None:
        """Delete a message that was taken. Raises `LockLost`, `ServiceBusUnavailable`."""
        await bounded(self._sdk.complete_message(delivery.raw), self._settings.settle_seconds, "complete")
        self._held.pop(delivery.message.sequence_number, None)

    async def give_back(self) -> None:
        """Let go of what was taken and not completed. If that fails, it comes back when its lock ends."""
        held, self._held = self._held, {}
        with contextlib.suppress(ServiceBusUnavailable):
            for raw in held.values():
                with contextlib.suppress(LockLost):
                    await bounded(self._sdk.abandon_message(raw), self._settings.settle_seconds, "abandon")

    async def _batch(self) -> list[ServiceBusReceivedMessage]:
        """The next messages. None come in the end, or those again whose locks ran out meanwhile."""
        for number in self.undecodable:
            try:
                return await received(self._sdk, 1, self._settings)
            except Undecodable:
                await self._open_anew(number)
        return await received(self._sdk, 1 if self.undecodable else _TAKEN_AT_ONCE, self._settings)

    async def _open_anew(self, undecodable: int) -> None:
        """Have the SDK give up its link, which receives nothing any more, by an error that it sees; then open it."""
        peeking = self._sdk.peek_messages(1, sequence_number=undecodable)
        with contextlib.suppress(Undecodable):
            await bounded(peeking, self._settings.settle_seconds, "peek")
        await bounded(salvage.peek(self._sdk, 1, undecodable), self._settings.open_seconds, "open the link anew")

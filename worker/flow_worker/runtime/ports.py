"""The runtime's ports, as protocols, so that a wrapper can stand before the adapter or the dispatcher."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from flow_contracts.message import Message
from flow_contracts.servicebus import BeforeSend, DeadLetteredMessage, Delivery, unconditionally
from flow_worker.pipeline.keys import LockHeld, always_held
from flow_worker.pipeline.outcome import Continue, Outcome, Reply


class MessageSender(Protocol):
    """Sends messages to queues."""

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        """Return once the queue has accepted the message. Raises `MessageTooLarge`, `ServiceBusFailure`."""
        ...

    async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        """Do the same with a batch; the queue accepts all its messages or none."""
        ...


class SizeReader(Protocol):
    """Knows the sizes that queues accept."""

    def max_message_bytes(self, queue: str) -> int | None:
        """Return the largest message that the queue takes; None until the first message to it was sent."""
        ...


class QueueReceiver(Protocol):
    """Receives from one queue in peek-lock mode and settles. For one task at a time."""

    async def receive(self) -> Delivery | None:
        """Return the next delivery; None if no message came within a short wait. Raises `ServiceBusFailure`."""
        ...

    async def receive_many(self, max_messages: int, wait_seconds: float) -> list[Delivery]:
        """Return up to that many deliveries, or none after the wait. Raises `ServiceBusFailure`."""
        ...

    async def complete(self, delivery: Delivery) -> None:
        """Remove the message from its queue. Raises `LockLost`, `ServiceBusFailure`."""
        ...

    async def complete_all(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Remove the messages; return those of which one or more lost their locks. Raises `ServiceBusFailure`."""
        ...

    async def abandon(self, delivery: Delivery) -> None:
        """Release the message's lock for another delivery. Raises `LockLost`, `ServiceBusFailure`."""
        ...

    async def dead_letter(self, delivery: Delivery, reason: str, description: str) -> None:
        """Move the message to the dead-letter queue. Raises `LockLost`, `ServiceBusFailure`."""
        ...

    async def renew(self, delivery: Delivery) -> None:
        """Renew the message's lock. Raises `LockLost`, `ServiceBusFailure`."""
        ...


class DeadLetterReader(Protocol):
    """Reads one dead-letter queue without locking its messages, and deletes some of them."""

    def peek(self) -> AsyncIterator[DeadLetteredMessage]:
        """Yield the messages from the front on. Raises `ServiceBusFailure`."""
        ...

    def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        """Yield these messages, locked. Raises `ServiceBusFailure`."""
        ...

    async def complete(self, delivery: Delivery) -> None:
        """Delete a taken message. Raises `LockLost`, `ServiceBusFailure`."""
        ...

    async def release(self) -> None:
        """Unlock the messages that were taken or met, and not completed."""
        ...


class PolicyReader(Protocol):
    """Reads the shared access policies of queues."""

    async def other_senders(self, queue: str) -> list[str] | None:
        """Return the names of the queue's policies that may send, without the worker's own; None if unreadable."""
        ...


class OutcomeSender(Protocol):
    """Carries out outcomes, apart from the settlement of their messages."""

    async def send(self, outcome: Outcome, *, lock_held: LockHeld = always_held) -> Outcome:
        """Send the messages of an outcome, and return the outcome that took effect.

        Raises `ServiceBusFailure` and `LockLost`.
        """
        ...

    async def send_together(self, outcomes: Sequence[tuple[Reply | Continue, LockHeld]]) -> bool:
        """Send the messages of several outcomes in batches. Return whether the queues accepted all of them."""
        ...

    async def mark_published(self, outcome: Outcome) -> None:
        """Record in the journal that the worker published the outcome's result, if there is one; log a failure."""
        ...


class Bus(MessageSender, SizeReader, PolicyReader, Protocol):
    """All that the worker needs of Service Bus."""

    def receiver(self, queue: str) -> AbstractAsyncContextManager[QueueReceiver]:
        """Open a receiver on a connection for it alone. Raises `ServiceBusFailure`."""
        ...

    def dead_letter_queue(self, queue: str) -> AbstractAsyncContextManager[DeadLetterReader]:
        """Open the dead-letter queue of a queue. Raises `ServiceBusFailure`."""
        ...

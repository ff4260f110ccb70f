"""Keeps a pool of open senders to one queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from azure.servicebus.aio import ServiceBusClient, ServiceBusSender

from flow_contracts.message import Message
from flow_contracts.servicebus.calls import bounded, close_quietly
from flow_contracts.servicebus.conversion import to_amqp, to_sdk
from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import MessageTooLarge, ServiceBusMisconfigured

_STALE_SECONDS = 240.0
"""The pool replaces a sender that was idle for longer. Service Bus detaches idle links after 10 minutes, and networks
drop idle connections sooner. A send over a dead link loses a second or more.
"""


BeforeSend = Callable[[], Awaitable[None]]
"""Runs when a sender is open, right before the message leaves. Its exception is raised, and nothing is sent."""


async def unconditionally() -> None:
    """Raise nothing: the default of a `BeforeSend`."""


class SenderPool:
    """Up to `max_senders` open senders to one queue, each lent to one task at a time.

    The pool opens a sender when all others are in use. A sender sends one message per round trip, so parallel sends
    need parallel senders. Each sender has its own connection.
    """

    def __init__(self, client: ServiceBusClient, queue: str, deadlines: Deadlines, *, max_senders: int) -> None:
        self._client = client
        self._queue = queue
        self._deadlines = deadlines
        self._idle: list[tuple[float, ServiceBusSender]] = []
        """Idle senders with the time of their last use.

        A stack: the pool lends the sender used last, so that the senders of a past peak grow stale.
        """
        self._slots = asyncio.Semaphore(max_senders)
        self._lent = 0
        self.max_message_bytes: int | None = None
        """The largest message that the queue takes, as the latest link announced it."""

    @property
    def open_count(self) -> int:
        """The number of open senders, idle and lent."""
        return len(self._idle) + self._lent

    async def send(self, message: Message, before: BeforeSend = unconditionally) -> None:
        """Return once the broker accepted the message. Raises `MessageTooLarge`, `ServiceBusFailure`."""
        await self.send_all([message], before)

    async def send_all(self, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        """Return once the broker accepted the messages, all of them or none, as one batch.

        Raises `MessageTooLarge` if they are too large together, and `ServiceBusFailure`.
        """
        async with self._slots:
            pooled = bool(self._idle)
            try:
                await self._send(messages, before)
            except ServiceBusMisconfigured:
                if not pooled:
                    raise
                # The queue may have been deleted and created again: only the old links are refused.
                await self.close()
                await self._send(messages, before)

    async def _send(self, messages: Sequence[Message], before: BeforeSend) -> None:
        sender = await self._borrow()
        self._lent += 1
        try:
            await before()
            await bounded(_send(sender, messages), self._deadlines.send_seconds, f"send to '{self._queue}'")
        except MessageTooLarge:
            self._idle.append((time.monotonic(), sender))  # the link is sound: only this message was refused
            raise
        except BaseException:  # a cancelled send, too, leaves the link in an unknown state
            await close_quietly(sender)
            raise
        finally:
            self._lent -= 1
        self._idle.append((time.monotonic(), sender))

    async def close(self) -> None:
        """Close the idle senders. The client closes the senders in use."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(close_quietly(sender) for _, sender in idle))

    async def _borrow(self) -> ServiceBusSender:
        if self._idle and time.monotonic() - self._idle[-1][0] > _STALE_SECONDS:
            await self.close()  # if the sender used last is stale, all are
        return self._idle.pop()[1] if self._idle else await self._open()

    async def _open(self) -> ServiceBusSender:
        sender = self._client.get_queue_sender(self._queue)
        try:
            await bounded(sender.__aenter__(), self._deadlines.open_seconds, f"open a sender to '{self._queue}'")
        except BaseException:
            await close_quietly(sender)
            raise
        self.max_message_bytes = _announced_size(sender)
        return sender


async def _send(sender: ServiceBusSender, messages: Sequence[Message]) -> None:
    if len(messages) == 1:  # without the envelope of a batch, which would lower its largest size
        await sender.send_messages(to_sdk(messages[0]))
        return
    # Not as a list, each message of which the SDK would convert twice.
    batch = await sender.create_message_batch()
    for message in messages:
        batch.add_message(to_amqp(message))
    await sender.send_messages(batch)


def _announced_size(sender: ServiceBusSender) -> int | None:
    """Return the link's `max-message-size`; None if there is none. The SDK has no public name for it.

    The SDK's own attribute holds a default if the broker announces nothing.
    """
    link = getattr(getattr(sender, "_handler", None), "_link", None)
    size = getattr(link, "remote_max_message_size", None)
    return size if isinstance(size, int) and size > 0 else None

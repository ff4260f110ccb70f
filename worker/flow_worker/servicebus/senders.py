"""Senders to one queue: opened before use, lent out, made anew when stale."""

from __future__ import annotations

import asyncio
import time

from azure.servicebus.aio import ServiceBusClient, ServiceBusSender

from flow_contracts.message import Message
from flow_contracts.servicebus.conversion import to_sdk
from flow_worker.servicebus.calls import bounded, close_quietly
from flow_worker.servicebus.errors import TooLarge
from flow_worker.settings import ServiceBusSettings

_STALE_SECONDS = 240.0
"""A sender that was idle for longer is made anew: the service detaches idle links after 10 minutes, and networks forget
connections sooner. To find that out by sending takes a second or more.
"""


class SenderPool:
    """Up to `senders_per_queue` opened senders to one queue, each lent to one task at a time."""

    def __init__(self, client: ServiceBusClient, queue: str, settings: ServiceBusSettings) -> None:
        self._client = client
        self._queue = queue
        self._settings = settings
        self._idle: list[tuple[float, ServiceBusSender]] = []
        """With the moment of its last use; the last one is the latest."""
        self._slots = asyncio.Semaphore(settings.senders_per_queue)

    async def send(self, message: Message) -> None:
        """Returns once the broker has accepted the message. Raises `TooLarge`, `ServiceBusUnavailable`."""
        async with self._slots:
            sender = await self._borrowed()
            try:
                await bounded(sender.send_messages(to_sdk(message)), self._settings.send_seconds, "send")
            except TooLarge:
                self._idle.append((time.monotonic(), sender))
                raise
            except BaseException:
                await close_quietly(sender)
                raise
            self._idle.append((time.monotonic(), sender))

    async def close(self) -> None:
        """Close the idle senders; those lent out are closed with the client."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(close_quietly(sender) for _, sender in idle))

    async def _borrowed(self) -> ServiceBusSender:
        if self._idle and time.monotonic() - self._idle[-1][0] > _STALE_SECONDS:
            await self.close()
        return self._idle.pop()[1] if self._idle else await self._opened()

    async def _opened(self) -> ServiceBusSender:
        sender = self._client.get_queue_sender(self._queue)
        try:
            await bounded(sender.__aenter__(), self._settings.open_seconds, f"open a sender to '{self._queue}'")
        except BaseException:
            await close_quietly(sender)
            raise
        return sender

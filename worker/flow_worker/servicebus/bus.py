"""The way to Service Bus, and to all that is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from azure.servicebus import ServiceBusSubQueue

from flow_contracts.message import Message
from flow_worker.azure_identity import credential_for
from flow_worker.servicebus.calls import bounded, close_quietly
from flow_worker.servicebus.connection import client_for
from flow_worker.servicebus.dead_letters import DeadLetterQueue
from flow_worker.servicebus.receiver import Receiver
from flow_worker.servicebus.senders import SenderPool
from flow_worker.settings import ServiceBusSettings


class ServiceBus:
    """The way to Service Bus: one client and one credential for the process."""

    def __init__(self, settings: ServiceBusSettings, *, client_id: str | None = None) -> None:
        self._settings = settings
        self._credential = credential_for(settings, client_id)
        self._client = client_for(settings, self._credential)
        self._pools: dict[str, SenderPool] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await close_quietly(self._client)
        if self._credential is not None:
            await self._credential.close()

    @contextlib.asynccontextmanager
    async def receiver(self, queue: str) -> AsyncIterator[Receiver]:
        """A receiver on a connection of its own, opened. Raises `ServiceBusUnavailable`."""
        sdk = self._client.get_queue_receiver(queue, prefetch_count=0)
        try:
            await bounded(sdk.__aenter__(), self._settings.open_seconds, f"open a receiver on '{queue}'")
            yield Receiver(sdk, self._settings)
        finally:
            await close_quietly(sdk)

    async def send(self, queue: str, message: Message) -> None:
        """See `SenderPool.send`."""
        pool = self._pools.get(queue)
        if pool is None:
            pool = self._pools[queue] = SenderPool(self._client, queue, self._settings)
        await pool.send(message)

    async def other_senders(self, queue: str) -> list[str] | None:
        """See `policies.other_senders`."""
        from flow_worker.servicebus import policies  # imported here: an administration client that few ask takes 80 ms

        return await policies.other_senders(self._settings, self._credential, queue)

    @contextlib.asynccontextmanager
    async def dead_letter_queue(self, queue: str) -> AsyncIterator[DeadLetterQueue]:
        """The dead-letter queue of a queue, opened. Raises `ServiceBusUnavailable`."""
        sdk = self._client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER, prefetch_count=0)
        try:
            await bounded(sdk.__aenter__(), self._settings.open_seconds, f"open the dead-letter queue of '{queue}'")
            dead = DeadLetterQueue(queue, sdk, self._settings)
            try:
                yield dead
            finally:
                await dead.give_back()
        finally:
            await close_quietly(sdk)

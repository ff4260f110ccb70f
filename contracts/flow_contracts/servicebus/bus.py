"""Service Bus with its queues: senders, receivers, sessions, dead-letter queues and policies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from azure.servicebus import ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusReceiver

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.servicebus.calls import bounded, close_quietly
from flow_contracts.servicebus.connection import Endpoint, connect
from flow_contracts.servicebus.dead_letter_queue import DeadLetterQueue
from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import SessionInUse
from flow_contracts.servicebus.locks import ClockEvidence, LockTimes, NoEvidence
from flow_contracts.servicebus.peeking import browse
from flow_contracts.servicebus.receiver import Receiver
from flow_contracts.servicebus.sender_pool import BeforeSend, SenderPool, unconditionally
from flow_contracts.servicebus.session_receiver import SessionReceiver

if TYPE_CHECKING:
    from flow_contracts.servicebus.depths import QueueDepth
    from flow_contracts.servicebus.policies import QueueShape


class ServiceBus:
    """One endpoint and all links to it. An async context manager; its methods may run concurrently.

    The caller closes the credential of the endpoint.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        deadlines: Deadlines | None = None,
        senders_per_queue: int = 4,
        sdk_retries: int = 0,
        evidence: ClockEvidence | None = None,
    ) -> None:
        """Raises `ValueError` for a malformed connection string. See `connection.connect` for `sdk_retries`.

        `evidence` learns the broker's times from the deliveries of all receivers.
        """
        self._endpoint = endpoint
        self._deadlines = deadlines or Deadlines()
        self._senders_per_queue = senders_per_queue
        self._client = connect(endpoint, sdk_retries=sdk_retries)
        self._pools: dict[str, SenderPool] = {}
        self._evidence = evidence or NoEvidence()
        self._locks: dict[str, LockTimes] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every link and the client."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await close_quietly(self._client)

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        """Make one attempt to send; see `SenderPool.send`."""
        await self._pool(queue).send(message, before)

    async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        """Make one attempt to send a batch; see `SenderPool.send_all`."""
        await self._pool(queue).send_all(messages, before)

    def max_message_bytes(self, queue: str) -> int | None:
        """Return the largest message that the queue takes; None while no sender to it was opened."""
        pool = self._pools.get(queue)
        return None if pool is None else pool.max_message_bytes

    def open_senders(self) -> dict[str, int]:
        """Return the number of open senders to each queue that was sent to."""
        return {queue: pool.open_count for queue, pool in self._pools.items()}

    @contextlib.asynccontextmanager
    async def receiver(self, queue: str) -> AsyncIterator[Receiver]:
        """Yield an open receiver on its own connection. Raises `ServiceBusFailure`."""
        sdk = self._client.get_queue_receiver(queue, prefetch_count=0)
        async with self._opened(sdk, f"open a receiver on '{queue}'"):
            yield Receiver(sdk, self._deadlines, self._locks_of(queue))

    @contextlib.asynccontextmanager
    async def dead_letter_queue(self, queue: str) -> AsyncIterator[DeadLetterQueue]:
        """Yield the open dead-letter queue of a queue. Raises `ServiceBusFailure`."""
        sdk = self._client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER, prefetch_count=0)
        async with self._opened(sdk, f"open the dead-letter queue of '{queue}'"):
            dead_letters = DeadLetterQueue(queue, sdk, self._deadlines)
            try:
                yield dead_letters
            finally:
                await dead_letters.release()

    @contextlib.asynccontextmanager
    async def browser(self, queue: str) -> AsyncIterator[AsyncIterator[ReceivedMessage]]:
        """Yield the messages of a queue, which all stay there unlocked. Raises `ServiceBusFailure`."""
        sdk = self._client.get_queue_receiver(queue, prefetch_count=0)
        async with self._opened(sdk, f"open a receiver on '{queue}'"):
            yield browse(sdk, self._deadlines.settle_seconds)

    @contextlib.asynccontextmanager
    async def session_receiver(
        self, queue: str, session_id: str, *, prefetch: int = 0
    ) -> AsyncIterator[SessionReceiver]:
        """Yield a receiver that holds the lock of the session.

        Raises `ServiceBusFailure`; `SessionInUse` if another reader still holds the session after `session_seconds`.
        """
        sdk, began = await self._lock_session(queue, session_id, prefetch)
        try:
            yield SessionReceiver(sdk, self._deadlines, self._evidence, began)
        finally:
            await close_quietly(sdk)

    async def other_senders(self, queue: str) -> list[str] | None:
        """See `policies.other_senders`. Needs aiohttp, the HTTP transport of the SDK's administration client."""
        # Imported here: the administration client takes 80 ms to import, and only a starting worker uses it.
        from flow_contracts.servicebus import policies

        return await policies.other_senders(self._endpoint, queue, self._deadlines.open_seconds)

    async def depths(self, queues: Iterable[str], administration_url: str | None = None) -> dict[str, QueueDepth]:
        """See `depths.queue_depths`. Needs aiohttp, as `other_senders` does."""
        from flow_contracts.servicebus import depths  # imported here: see `other_senders`

        return await depths.queue_depths(self._endpoint, queues, self._deadlines.open_seconds, administration_url)

    async def shape(self, queue: str, administration_url: str | None = None) -> QueueShape:
        """See `policies.queue_shape`."""
        from flow_contracts.servicebus import policies

        return await policies.queue_shape(self._endpoint, queue, self._deadlines.open_seconds, administration_url)

    async def verify_send(self, queue: str) -> None:
        """Open a sender and close it again: nothing is sent. Raises `ServiceBusFailure`."""
        sdk = self._client.get_queue_sender(queue)
        try:
            await bounded(sdk.__aenter__(), self._deadlines.open_seconds, f"open a sender to '{queue}'")
        finally:
            await close_quietly(sdk)

    @contextlib.asynccontextmanager
    async def _opened(self, sdk: ServiceBusReceiver, operation: str) -> AsyncIterator[None]:
        # The opening is inside the block, because a failed or cancelled opening may leave a connection behind.
        try:
            await bounded(sdk.__aenter__(), self._deadlines.open_seconds, operation)
            yield
        finally:
            await close_quietly(sdk)

    def _pool(self, queue: str) -> SenderPool:
        pool = self._pools.get(queue)
        if pool is None:
            pool = SenderPool(self._client, queue, self._deadlines, max_senders=self._senders_per_queue)
            self._pools[queue] = pool
        return pool

    def _locks_of(self, queue: str) -> LockTimes:
        return self._locks.setdefault(queue, LockTimes(self._evidence))

    async def _lock_session(self, queue: str, session_id: str, prefetch: int) -> tuple[ServiceBusReceiver, float]:
        """Return the receiver, and the monotonic time at which the last attempt began."""
        give_up_at = time.monotonic() + self._deadlines.session_seconds
        for pause in ExponentialBackoff(0.1, 1.0, growth=1.6).pauses():
            # A new receiver each time: the SDK does not open one again after a refusal.
            sdk = self._client.get_queue_receiver(queue, session_id=session_id, prefetch_count=prefetch)
            began = time.monotonic()
            try:
                await bounded(sdk.__aenter__(), self._deadlines.open_seconds, f"open a session of '{queue}'")
                return sdk, began
            except SessionInUse:
                await close_quietly(sdk)
                if time.monotonic() + pause >= give_up_at:
                    raise
            except BaseException:
                await close_quietly(sdk)
                raise
            await asyncio.sleep(pause)
        raise AssertionError("backoff is endless")

"""The lock of a request at hand: renewed for as long as the request is worked on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from flow_contracts.servicebus import Delivery, LockLost, ServiceBusFailure
from flow_worker.runtime.ports import QueueReceiver

_RENEW_AT = 1 / 3
"""A lock is renewed when this part of its time is over: two renewals may fail before it is lost."""
_SHORTEST_SECONDS = 0.2

Say = Callable[[int, str, str, Delivery], None]
"""Logs a level, an event and a sentence about a delivery."""


@contextlib.asynccontextmanager
async def kept_locked(receiver: QueueReceiver, delivery: Delivery, say: Say) -> AsyncIterator[None]:
    """Renew the request's lock while the block runs. A lock that is lost is found out when settling."""
    keeper = _Keeper(receiver, delivery, say)
    try:
        yield
    finally:
        await keeper.stop()


class _Keeper:
    """Most requests are done before their lock needs it, so there is only a timer until then."""

    def __init__(self, receiver: QueueReceiver, delivery: Delivery, say: Say) -> None:
        self._receiver = receiver
        self._delivery = delivery
        self._say = say
        self._done = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._begin)

    @property
    def _pause(self) -> float:
        return max(_SHORTEST_SECONDS, self._delivery.lock_seconds_left * _RENEW_AT)

    async def stop(self) -> None:
        """Not cancelled: a renewal under way holds the link, and ends within its own deadline."""
        self._timer.cancel()
        self._done.set()
        if self._renewing is not None:
            await self._renewing

    def _begin(self) -> None:
        self._renewing = asyncio.create_task(self._renew(), name="lock")

    async def _renew(self) -> None:
        while await self._renewed() and not await set_within(self._done, self._pause):
            pass

    async def _renewed(self) -> bool:
        """Whether it makes sense to go on."""
        try:
            await self._receiver.renew(self._delivery)
        except LockLost:
            sentence = "A request's lock was lost while its flow ran."
            self._say(logging.WARNING, "request.lock_lost", sentence, self._delivery)
            return False
        except ServiceBusFailure as trouble:
            sentence = f"A lock could not be renewed: {trouble}"
            self._say(logging.WARNING, "request.lock_renewal_failed", sentence, self._delivery)
            return self._delivery.lock_seconds_left > 0
        return True


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most this long; whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()

"""Renews the lock of a message for as long as a lane works on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from flow_contracts.servicebus import MAX_LOCK_SECONDS, Delivery, LockLost, ServiceBusFailure
from flow_worker.runtime.ports import QueueReceiver

_RENEW_AT = 1 / 3
"""The lane renews the lock after this part of its time, so that two renewals may fail before it expires."""
_MIN_PAUSE_SECONDS = 0.2
_OVERDUE_PAUSE_SECONDS = 1.0

LogDelivery = Callable[[int, str, str, Delivery], None]
"""Logs a level, an event and a sentence about a delivery."""


@contextlib.asynccontextmanager
async def kept_locked(receiver: QueueReceiver, delivery: Delivery, log: LogDelivery) -> AsyncIterator[None]:
    """Renew the message's lock while the block runs.

    A lost lock does not end the block: the flow runs in any case, and the journal must get its result. The settlement
    then raises `LockLost`.
    """
    renewal = _LockRenewal(receiver, delivery, log)
    try:
        yield
    finally:
        await renewal.stop()


class _LockRenewal:
    """Renews one lock. A timer starts the task, because most requests end before their lock needs a renewal."""

    def __init__(self, receiver: QueueReceiver, delivery: Delivery, log: LogDelivery) -> None:
        self._receiver = receiver
        self._delivery = delivery
        self._log = log
        self._done = asyncio.Event()
        self._is_failing = False
        self._renewing: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._begin)

    @property
    def _pause(self) -> float:
        left = self._delivery.lock_seconds_left
        return max(_MIN_PAUSE_SECONDS, left * _RENEW_AT) if left > 0 else _OVERDUE_PAUSE_SECONDS

    async def stop(self) -> None:
        """Wait for a pending renewal instead of cancelling it: it uses the link, and has a deadline."""
        self._timer.cancel()
        self._done.set()
        if self._renewing is not None:
            await self._renewing

    def _begin(self) -> None:
        self._renewing = asyncio.create_task(self._renew_until_done(), name="message lock")

    async def _renew_until_done(self) -> None:
        while await self._renew() and not await set_within(self._done, self._pause):
            pass

    async def _renew(self) -> bool:
        """Renew once; return whether a further renewal can succeed."""
        try:
            await self._receiver.renew(self._delivery)
        except LockLost:
            sentence = "A request's lock expired while its flow ran."
            self._log(logging.WARNING, "request.lock_lost", sentence, self._delivery)
            return False
        except ServiceBusFailure as error:
            if not self._is_failing:  # once: each of many lanes tries every second while the broker is away
                sentence = f"The lane could not renew a lock, and tries again: {error}"
                self._log(logging.WARNING, "request.lock_renewal_failed", sentence, self._delivery)
            self._is_failing = True
            # The end of a lock is an estimate, so the lane tries on until the broker refuses.
            return self._delivery.lock_seconds_left > -MAX_LOCK_SECONDS
        self._is_failing = False
        return True


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event for at most `seconds`; return whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()

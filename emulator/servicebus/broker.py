"""All queues by name, and the one timer that wakes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from emulator.servicebus.config import QueueSettings
from emulator.servicebus.errors import NOT_FOUND, ServiceBusError
from emulator.servicebus.faults import Faults
from emulator.servicebus.queue import Clock, Queue

_SOONEST_SECONDS = 0.001


class Broker:
    """The namespace: its queues, and what they have due."""

    def __init__(self, queues: Iterable[QueueSettings], *, clock: Clock = time.time) -> None:
        self._clock = clock
        self.faults = Faults()
        self._queues: dict[str, Queue] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        for settings in queues:
            self._add(settings)

    def _add(self, settings: QueueSettings) -> None:
        queue = Queue(settings, clock=self._clock, changed=self._reschedule)
        self._queues[settings.name.lower()] = queue
        if queue.dead_letters is not None:
            self._queues[queue.dead_letters.settings.name.lower()] = queue.dead_letters

    def find(self, name: str) -> Queue:
        """The queue (or dead-letter queue) of this name, in any case. Raises `ServiceBusError` if there is none."""
        queue = self._queues.get(name.lower())
        if queue is None:
            raise ServiceBusError(NOT_FOUND, f"The messaging entity '{name}' could not be found.")
        return queue

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock()

    def counts(self) -> dict[str, dict[str, int]]:
        """Each queue's messages by state."""
        return {queue.settings.name: queue.counts() for queue in self._queues.values() if queue.dead_letters}

    def close(self) -> None:
        """Wake no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, float("inf")

    def _reschedule(self) -> None:
        """Something may be due sooner. Without a running loop (unit tests) the caller ticks."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        # Looking at every queue for each message would be slow, so it is done once, after the current event.
        if self._timer_at > 0:
            self._set_timer(loop, 0)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = moment
        delay = 0.0 if moment == 0 else max(_SOONEST_SECONDS, moment - self._clock())
        self._timer = loop.call_later(delay, self._wake)

    def _wake(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        queues = [queue for queue in self._queues.values() if queue.dead_letters is not None]
        now = self._clock()
        for queue in queues:
            if queue.next_due() <= now:
                queue.tick()
        due = min((queue.next_due() for queue in queues), default=float("inf"))
        if due != float("inf"):
            self._set_timer(asyncio.get_running_loop(), due)

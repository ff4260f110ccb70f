"""Times to live: expires messages when they are due, or when a receiver would get them."""

from __future__ import annotations

import math

from servicebus_emulator.servicebus.duration import MAX_SECONDS
from servicebus_emulator.servicebus.entities.dead_lettering import DeadLettering
from servicebus_emulator.servicebus.entities.indexes import MessageTimers, ReadyMessages
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue_state import QueueState


class MessageExpiry:
    """The times to live of one queue's messages."""

    def __init__(self, state: QueueState, dead_lettering: DeadLettering) -> None:
        self._state = state
        self._dead_lettering = dead_lettering
        self._timers = MessageTimers()

    def set_time_to_live(self, message: BrokeredMessage, now: float) -> None:
        """Start the time to live of a message that is enqueued now.

        The queue's default is also a limit. The service overwrites a longer or missing time to live (Microsoft Learn,
        "Message expiration (Time to Live)").
        """
        requested = message.ttl if message.ttl is not None else MAX_SECONDS
        ttl = min(requested, self._state.settings.default_ttl_seconds)
        if ttl < MAX_SECONDS:
            message.ttl = ttl
            message.expires_at = now + ttl

    def watch(self, message: BrokeredMessage) -> None:
        """Expire the message when its time comes, if it is ready then."""
        if message.expires_at != math.inf:
            self._timers.add(message.expires_at, message)
            self._state.reschedule()

    def expire(self, message: BrokeredMessage) -> None:
        """Dead-letter or delete an expired message."""
        self._dead_lettering.expire(message)

    def pop_ready(self, ready: ReadyMessages) -> BrokeredMessage | None:
        """Remove and return the first message that a receiver may get; None if there is none.

        This settles expired messages too, as the timer does. A receiver must not get a message after its time to live,
        even if the timer is late.
        """
        now = self._state.now()
        while ready:
            message = ready.pop()
            # A message leaves `ready` lazily: skip a message that was completed, locked or purged since.
            if not self._state.is_ready(message):
                continue
            if message.expires_at <= now:
                self._dead_lettering.expire(message)
                continue
            return message
        return None

    def expire_due(self, now: float) -> None:
        """Expire the messages that are due.

        This spares locked and deferred messages. A locked message expires when its lock ends (see `Settlement`). A
        deferred message expires when a receiver asks for it (see `DeferredMessages`).
        """
        for _, message in self._timers.pop_due(now):
            if self._state.is_ready(message) and message.expires_at <= now:
                self._dead_lettering.expire(message)

    def next_due(self) -> float:
        """Return the moment of the next expiry, infinity if there is none."""
        return self._timers.next_due()

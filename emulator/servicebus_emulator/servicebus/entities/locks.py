"""The message locks of a queue: by lock token, and by the moment at which each ends."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator

from servicebus_emulator.servicebus.entities.indexes import MessageTimers
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST, ServiceBusError


class MessageLocks:
    """The locked messages. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._by_token: dict[uuid.UUID, BrokeredMessage] = {}
        self._timers = MessageTimers()

    def __len__(self) -> int:
        return len(self._by_token)

    def __contains__(self, token: uuid.UUID) -> bool:
        return token in self._by_token

    def messages(self) -> Iterable[BrokeredMessage]:
        """Return all locked messages."""
        return self._by_token.values()

    def lock(self, message: BrokeredMessage, until: float) -> None:
        """Lock a message under a new token. No timer ends the lock; see `expire_at`.

        Every delivery gets a new token, so that a receiver whose lock expired cannot settle a later delivery.
        """
        message.lock_token = uuid.uuid4()
        message.locked_until = until
        self._by_token[message.lock_token] = message

    def expire_at(self, message: BrokeredMessage, until: float) -> None:
        """Set the end of a message's lock, and let `pop_expired` return the message then."""
        message.locked_until = until
        self._timers.add(until, message)

    def require(self, token: uuid.UUID, now: float) -> BrokeredMessage:
        """Return the message under this lock. Raises `ServiceBusError` (message-lock-lost)."""
        message = self._by_token.get(token)
        # The end of the lock decides, not the timer. An expired lock is lost even if the timer has not run yet.
        if message is None or message.locked_until <= now:
            raise ServiceBusError(MESSAGE_LOCK_LOST, "the lock has expired or was never given; receive it again")
        return message

    def unlock(self, message: BrokeredMessage) -> None:
        """Unlock a message. Does nothing if it is not locked."""
        if message.lock_token is not None:
            self._by_token.pop(message.lock_token, None)
            message.lock_token = None

    def next_due(self) -> float:
        """Return the moment at which the next lock may end, infinity if there is none."""
        return self._timers.next_due()

    def pop_expired(self, now: float) -> Iterator[BrokeredMessage]:
        """Yield each message whose lock has ended.

        No settlement and no renewal cancels a timer, so that both stay cheap. This skips a timer whose message was
        settled, or whose lock was renewed since.
        """
        for _, message in self._timers.pop_due(now):
            if message.lock_token is not None and message.locked_until <= now:
                yield message

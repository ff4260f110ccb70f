"""The locks on a queue's messages: by token, and when each ends."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator

from servicebus_emulator.servicebus.entities.indexes import MessageTimers
from servicebus_emulator.servicebus.entities.message import Message
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST, ServiceBusError


class MessageLocks:
    """Which messages are under a lock. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._by_token: dict[uuid.UUID, Message] = {}
        self._ends = MessageTimers()

    def __len__(self) -> int:
        return len(self._by_token)

    def __contains__(self, token: uuid.UUID) -> bool:
        return token in self._by_token

    def messages(self) -> Iterable[Message]:
        """All messages under a lock."""
        return self._by_token.values()

    def give(self, message: Message, until: float) -> None:
        """Lock a message, with a new token. Its end is not watched (`watch`): that of a session's is the session's."""
        message.lock_token = uuid.uuid4()
        message.locked_until = until
        self._by_token[message.lock_token] = message

    def watch(self, message: Message, until: float) -> None:
        """The message's lock ends then, which `ended` will tell."""
        message.locked_until = until
        self._ends.add(until, message)

    def holds(self, token: uuid.UUID, now: float) -> Message:
        """The message under this lock. Raises `ServiceBusError` (lock lost)."""
        message = self._by_token.get(token)
        # The deadline counts, not the sweep: a lock that is over is lost even if nobody noticed yet.
        if message is None or message.locked_until <= now:
            raise ServiceBusError(MESSAGE_LOCK_LOST, "the lock has expired or was never given; receive it again")
        return message

    def end(self, message: Message) -> None:
        """The message is under no lock any more."""
        if message.lock_token is not None:
            self._by_token.pop(message.lock_token, None)
            message.lock_token = None

    def next_end(self) -> float:
        """When `ended` has something to tell next; infinity if never."""
        return self._ends.next()

    def ended(self, now: float) -> Iterator[Message]:
        """Messages whose lock is over, each told once; what was settled or locked anew is left out."""
        for _, message in self._ends.due(now):
            if message.lock_token is not None and message.locked_until <= now:
                yield message

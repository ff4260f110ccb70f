"""Deferred messages: a receiver gets them by sequence number only."""

from __future__ import annotations

from collections.abc import Iterable

from servicebus_emulator.servicebus.entities.expiry import MessageExpiry
from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.peek_lock import PeekLock
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.entities.sessions import MessageSession, QueueSessions
from servicebus_emulator.servicebus.errors import MESSAGE_LOCK_LOST, MESSAGE_NOT_FOUND, ServiceBusError


class DeferredMessages:
    """Receives the deferred messages of one queue."""

    def __init__(self, state: QueueState, expiry: MessageExpiry, peek_lock: PeekLock, sessions: QueueSessions) -> None:
        self._state = state
        self._expiry = expiry
        self._peek_lock = peek_lock
        self._sessions = sessions

    def receive(self, numbers: Iterable[int], *, peek_lock: bool, session_id: str | None) -> list[BrokeredMessage]:
        """Lock or remove deferred messages, all or none. Raises `ServiceBusError`.

        In a queue with sessions, the caller must hold the lock of the messages' session.
        """
        session = self._sessions.require_locked(session_id) if self._state.settings.requires_session else None
        messages = [self._require(number, session) for number in dict.fromkeys(numbers)]
        session_locked_until = None if session is None else session.locked_until
        for message in messages:
            self._peek_lock.take(message, peek_lock=peek_lock, session_locked_until=session_locked_until)
        return messages

    def _require(self, number: int, session: MessageSession | None) -> BrokeredMessage:
        message = self._state.messages.require(number, MessageState.DEFERRED)
        if session is not None and message.session_id != session.id:
            raise ServiceBusError(MESSAGE_NOT_FOUND, f"message {number} is not of session '{session.id}'")
        if message.lock_token is not None:
            raise ServiceBusError(MESSAGE_LOCK_LOST, f"message {number} is locked by a receiver")
        # The service does not expire a deferred message until a receiver asks for it (Microsoft Learn, "Message
        # deferral").
        if message.expires_at <= self._state.now():
            self._expiry.expire(message)
            raise ServiceBusError(MESSAGE_NOT_FOUND, f"there is no deferred message {number}: it has expired")
        return message

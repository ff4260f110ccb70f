"""Peek-lock and receive-and-delete: locks or removes a message when a receiver gets it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.entities.receiver import MessageReceiver


class PeekLock:
    """Locks the messages of one queue for receivers."""

    def __init__(self, state: QueueState) -> None:
        self._state = state

    def deliver(
        self, message: BrokeredMessage, receiver: MessageReceiver, session_locked_until: float | None = None
    ) -> None:
        """Deliver a message, locked or removed as the receiver's mode says."""
        self.take(message, peek_lock=receiver.peek_lock, session_locked_until=session_locked_until)
        receiver.deliver(message)

    def take(self, message: BrokeredMessage, *, peek_lock: bool, session_locked_until: float | None) -> None:
        """Lock a message for its receiver, or remove it.

        A message of a session has no separate lock time: it is locked until the session's lock ends. No timer
        watches it, because the end of the session's lock unlocks all its messages.
        """
        if not peek_lock:
            self._state.remove(message)
        elif session_locked_until is not None:
            self._state.locks.lock(message, session_locked_until)
        else:
            until = self._lock_end()
            self._state.locks.lock(message, until)
            self._state.locks.expire_at(message, until)
            self._state.reschedule()

    def locked_message(self, token: uuid.UUID) -> BrokeredMessage:
        """Return the message under this lock. Raises `ServiceBusError` (message-lock-lost)."""
        return self._state.locks.require(token, self._state.now())

    def renew(self, token: uuid.UUID) -> float:
        """Renew a message lock and return its new end. Raises `ServiceBusError` (message-lock-lost).

        In a queue with sessions, only renewing the session's lock has an effect.
        """
        message = self.locked_message(token)
        if not self._state.settings.requires_session:
            self._state.locks.expire_at(message, self._lock_end())
        return message.locked_until

    def expire_locks(self, is_session_held: Callable[[str | None], bool]) -> int:
        """End all message locks now, except those under a session's lock. Return their number."""
        now = self._state.now()
        locked = [message for message in self._state.locks.messages() if not is_session_held(message.session_id)]
        for message in locked:
            self._state.locks.expire_at(message, now)
        self._state.reschedule()
        return len(locked)

    def _lock_end(self) -> float:
        return self._state.now() + self._state.settings.lock_seconds

"""Settles locked messages: complete, abandon, release, defer and dead-letter.

Each settlement raises `ServiceBusError` (message-lock-lost) if the lock has expired.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from servicebus_emulator.servicebus.entities.dead_lettering import DeadLettering
from servicebus_emulator.servicebus.entities.delivery import MessageDelivery
from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.message_encoding import modify_properties
from servicebus_emulator.servicebus.entities.peek_lock import PeekLock
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.errors import NOT_ALLOWED, ServiceBusError


class Settlement:
    """Settles the messages of one queue."""

    def __init__(
        self, state: QueueState, dead_lettering: DeadLettering, peek_lock: PeekLock, delivery: MessageDelivery
    ) -> None:
        self._state = state
        self._dead_lettering = dead_lettering
        self._peek_lock = peek_lock
        self._delivery = delivery

    def complete(self, token: uuid.UUID) -> None:
        """Delete the message."""
        self._state.remove(self._peek_lock.locked_message(token))

    def abandon(self, token: uuid.UUID, properties: Mapping[str, object]) -> None:
        """Unlock the message with modified properties, and count the delivery."""
        message = self._peek_lock.locked_message(token)
        modify_properties(message, properties)
        self.return_message(message, counted=True)
        self._delivery.pump()

    def release(self, token: uuid.UUID) -> None:
        """Unlock the message without counting the delivery."""
        self.return_message(self._peek_lock.locked_message(token), counted=False)
        self._delivery.pump()

    def defer(self, token: uuid.UUID, properties: Mapping[str, object]) -> None:
        """Defer the message with modified properties, and count the delivery.

        The service counts a deferral (live tests of the JavaScript SDK, batchReceiver.spec.ts). No source says if it
        dead-letters the message after the last delivery; the emulator does not.
        """
        message = self._peek_lock.locked_message(token)
        modify_properties(message, properties)
        self._state.locks.unlock(message)
        self._state.count_delivery(message)
        self._state.messages.set_state(message, MessageState.DEFERRED)

    def dead_letter(
        self, token: uuid.UUID, reason: str | None, description: str | None, properties: Mapping[str, object]
    ) -> None:
        """Move the message to the dead-letter queue.

        In a dead-letter queue, unlock the message and raise `ServiceBusError` (not-allowed).
        """
        message = self._peek_lock.locked_message(token)
        if not self._dead_lettering.is_possible:
            self.return_message(message, counted=False)
            self._delivery.pump()
            raise ServiceBusError(NOT_ALLOWED, "a message in the dead-letter queue cannot be dead-lettered again")
        self._dead_lettering.dead_letter(message, reason, description, properties)

    def return_message(self, message: BrokeredMessage, *, counted: bool) -> None:
        """Unlock a message, and make it ready again unless its deliveries or its time to live are used up.

        The delivery count decides before the time to live. So the queue dead-letters a message that reaches both
        limits, even if it deletes expired messages. A deferred message stays deferred.
        """
        self._state.locks.unlock(message)
        if counted:
            self._state.count_delivery(message)
            self._state.messages.record(message)
        if message.delivery_count >= self._state.settings.max_delivery_count:
            self._dead_lettering.dead_letter_exceeded(message)
        elif message.state is not MessageState.ACTIVE:
            return
        elif message.expires_at <= self._state.now():
            self._dead_lettering.expire(message)
        else:
            self._delivery.add_ready(message)

    def unlock_expired(self, now: float) -> None:
        """Return the messages whose lock has ended. The end of a lock counts as a delivery."""
        for message in self._state.locks.pop_expired(now):
            self.return_message(message, counted=True)

"""Moves messages to the dead-letter queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import set_dead_letter_reason
from servicebus_emulator.servicebus.entities.queue_state import QueueState


class DeadLetterTarget(Protocol):
    """A queue that dead-lettered messages move to."""

    def add_dead_letter(self, message: BrokeredMessage) -> None:
        """Store a dead-lettered message."""
        ...


class DeadLettering:
    """Dead-letters and expires the messages of one queue. A subqueue has no target: nothing leaves it this way."""

    def __init__(self, state: QueueState, target: DeadLetterTarget | None) -> None:
        self._state = state
        self._target = target

    @property
    def is_possible(self) -> bool:
        """True if the queue has a dead-letter queue."""
        return self._target is not None

    def dead_letter(
        self, message: BrokeredMessage, reason: str | None, description: str | None, properties: Mapping[str, object]
    ) -> None:
        """Move a message to the dead-letter queue. A subqueue deletes it, as it has no queue below."""
        self._state.remove(message)
        if self._target is not None:
            set_dead_letter_reason(message, reason, description, properties)
            self._target.add_dead_letter(message)

    def dead_letter_exceeded(self, message: BrokeredMessage) -> None:
        """Dead-letter a message whose deliveries are used up."""
        text = f"delivered {message.delivery_count} times without being completed"
        self.dead_letter(message, "MaxDeliveryCountExceeded", text, {})

    def expire(self, message: BrokeredMessage) -> None:
        """Dead-letter or delete an expired message, as the queue's settings say."""
        if self._state.settings.dead_letter_on_expiration:
            self.dead_letter(message, "TTLExpiredException", "the message expired before it was received", {})
        else:
            self._state.remove(message)

"""Enqueues messages: sent, scheduled, forwarded and dead-lettered ones."""

from __future__ import annotations

import math
from dataclasses import replace

from servicebus_emulator.servicebus.entities.delivery import MessageDelivery
from servicebus_emulator.servicebus.entities.duplicates import DuplicateDetector
from servicebus_emulator.servicebus.entities.expiry import MessageExpiry
from servicebus_emulator.servicebus.entities.forwarding import Forwarding
from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.entities.scheduling import MessageSchedule

_DROPPED = 0
"""The sequence number that a sender gets for a duplicate. The service does not store the message either."""


class Enqueueing:
    """Stores new messages of one queue and makes them ready for delivery."""

    def __init__(
        self,
        state: QueueState,
        *,
        duplicates: DuplicateDetector,
        schedule: MessageSchedule,
        forwarding: Forwarding,
        expiry: MessageExpiry,
        delivery: MessageDelivery,
    ) -> None:
        self._state = state
        self._duplicates = duplicates
        self._schedule = schedule
        self._forwarding = forwarding
        self._expiry = expiry
        self._delivery = delivery

    def accept(self, message: BrokeredMessage) -> int:
        """Enqueue or schedule a message, and return its sequence number. A duplicate is dropped without an error."""
        if self._duplicates.is_duplicate(message):
            return _DROPPED
        now = self._state.now()
        if message.scheduled_at is not None and message.scheduled_at > now:
            self._schedule.add(message, message.scheduled_at)
        else:
            self._enqueue(message, now)
        return message.sequence_number

    def activate_scheduled(self, now: float) -> None:
        """Enqueue the scheduled messages that are due.

        Each gets a new sequence number (Microsoft Learn, "Message sequencing and timestamps", "Scheduled messages").
        """
        for message in self._schedule.pop_due(now):
            self._enqueue(message, now)

    def add_dead_letter(self, message: BrokeredMessage) -> None:
        """Store a dead letter. It never expires, and keeps its enqueued time.

        It also keeps its sequence number unless the settings say otherwise. The service seems to do the same
        (MicrosoftDocs/azure-docs issue 97032; not measured).
        """
        dead_letter = replace(message, expires_at=math.inf, state=MessageState.ACTIVE, was_scheduled=False)
        if self._state.settings.renumber_dead_letters:
            self._state.messages.add(dead_letter)
        else:
            self._state.messages.insert(dead_letter)
        target = self._state.settings.forward_to
        if target is not None and self._forwarding.forward_dead_letter(dead_letter, target):
            return
        self._delivery.add_ready(dead_letter)
        self._delivery.pump()

    def restore(self, message: BrokeredMessage) -> None:
        """Add a message from the storage. Its lock is gone, because the receiver's connection is."""
        self._state.messages.restore(message)
        if message.state is MessageState.SCHEDULED and message.scheduled_at is not None:
            self._schedule.restore(message, message.scheduled_at)
        elif message.state is MessageState.ACTIVE:
            self._expiry.watch(message)
            self._delivery.add_ready(message)

    def _enqueue(self, message: BrokeredMessage, now: float) -> None:
        message.state, message.enqueued_at = MessageState.ACTIVE, now
        self._expiry.set_time_to_live(message, now)
        # Stored even if it is forwarded at once: the copy in the target names its sequence number in this queue.
        self._state.messages.add(message)
        if self._state.settings.forward_to is not None:
            self._forwarding.forward(message, self._state.settings.forward_to)
            return
        self._expiry.watch(message)
        self._delivery.add_ready(message)

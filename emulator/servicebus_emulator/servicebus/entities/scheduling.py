"""Scheduled messages: stores them, cancels them, and returns those that are due."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from servicebus_emulator.servicebus.entities.indexes import MessageTimers
from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.queue_state import QueueState


class MessageSchedule:
    """The scheduled messages of one queue."""

    def __init__(self, state: QueueState) -> None:
        self._state = state
        self._timers = MessageTimers()

    def add(self, message: BrokeredMessage, enqueue_at: float) -> None:
        """Store a message that becomes active later. It has a sequence number at once, to cancel it with."""
        message.state, message.was_scheduled = MessageState.SCHEDULED, True
        message.enqueued_at = self._state.now()
        self._state.messages.add(message)
        self._timers.add(enqueue_at, message)
        self._state.reschedule()

    def restore(self, message: BrokeredMessage, enqueue_at: float) -> None:
        """Watch a scheduled message from the storage."""
        self._timers.add(enqueue_at, message)

    def cancel(self, numbers: Iterable[int]) -> None:
        """Delete scheduled messages, all or none. Raises `ServiceBusError` if one of them is not scheduled."""
        for message in [self._state.messages.require(number, MessageState.SCHEDULED) for number in numbers]:
            self._state.remove(message)

    def pop_due(self, now: float) -> Iterator[BrokeredMessage]:
        """Remove and yield each message that is due. A canceled message is skipped: its timer stays."""
        for moment, message in self._timers.pop_due(now):
            if self._is_scheduled(message, moment):
                self._state.remove(message)
                yield message

    def next_due(self) -> float:
        """Return the moment at which the next message becomes active, infinity if there is none."""
        return self._timers.next_due()

    def _is_scheduled(self, message: BrokeredMessage, moment: float) -> bool:
        return (
            message.state is MessageState.SCHEDULED
            and message.scheduled_at == moment
            and message in self._state.messages
        )

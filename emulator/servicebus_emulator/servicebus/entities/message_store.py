"""All that a queue has: its messages in order, how many there are in each state, their size; a store is told."""

from __future__ import annotations

from collections.abc import Iterator

from servicebus_emulator.servicebus.entities.indexes import SequenceIndex
from servicebus_emulator.servicebus.entities.message import Message, MessageState
from servicebus_emulator.servicebus.entities.storage import MessageStorage
from servicebus_emulator.servicebus.errors import MESSAGE_NOT_FOUND, ServiceBusError


class MessageStore:
    """The messages of one queue, whatever their state."""

    def __init__(self, queue: str, store: MessageStorage) -> None:
        """`queue`: its name as the store knows it."""
        self._queue = queue
        self._store = store
        self._by_sequence = SequenceIndex()
        self._counts = {MessageState.ACTIVE: 0, MessageState.DEFERRED: 0, MessageState.SCHEDULED: 0}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._by_sequence)

    def __contains__(self, message: Message) -> bool:
        return self._by_sequence.get(message.sequence_number) is message

    def count(self, state: MessageState) -> int:
        """How many messages are in that state."""
        return self._counts[state]

    def add(self, message: Message) -> None:
        """Take in a new message; it gets the next sequence number."""
        self._by_sequence.put(message)
        self._count(message)
        self.changed(message)

    def changed(self, message: Message) -> None:
        """What the store should know of a message is another now."""
        self._store.put_message(self._queue, message)

    def becomes(self, message: Message, state: MessageState) -> None:
        """The message is in another state from now on."""
        self._counts[message.state] -= 1
        self._counts[state] += 1
        message.state = state
        self.changed(message)

    def remove(self, message: Message) -> None:
        """Forget a message; nothing happens if it is gone."""
        if message.sequence_number in self._by_sequence:
            self._by_sequence.remove(message)
            self._counts[message.state] -= 1
            self.size_bytes -= message.size
            self._store.delete_message(self._queue, message.sequence_number)

    def in_state(self, number: int, state: MessageState) -> Message:
        """A message by sequence number. Raises `ServiceBusError` if there is none in that state."""
        message = self._by_sequence.get(number)
        if message is None or message.state is not state:
            raise ServiceBusError(MESSAGE_NOT_FOUND, f"there is no {state.name.lower()} message {number}")
        return message

    def from_number(self, number: int, session_id: str | None = None) -> Iterator[Message]:
        """Messages from this sequence number on, or those of one session. The stock must not change meanwhile."""
        every = self._by_sequence.from_number(number)
        return every if session_id is None else (one for one in every if one.session_id == session_id)

    def restore(self, message: Message) -> None:
        """Put back what the store has kept, under its own number; they come in order."""
        self._by_sequence.restore(message)
        self._count(message)

    def number_from(self, last: int) -> None:
        """Sequence numbers up to this one were given before."""
        self._by_sequence.number_from(last)

    def _count(self, message: Message) -> None:
        self._counts[message.state] += 1
        self.size_bytes += message.size

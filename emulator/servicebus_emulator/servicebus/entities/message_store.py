"""The messages of a queue: by sequence number, with their number in each state and their size."""

from __future__ import annotations

from collections.abc import Iterator

from servicebus_emulator.servicebus.entities.indexes import SequenceIndex
from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.storage import MessageStorage
from servicebus_emulator.servicebus.errors import MESSAGE_NOT_FOUND, ServiceBusError


class MessageStore:
    """The messages of one queue in every state. Each change is recorded in the storage."""

    def __init__(self, queue: str, storage: MessageStorage) -> None:
        """`queue` is the queue's name in lower case."""
        self._queue = queue
        self._storage = storage
        self._by_sequence = SequenceIndex()
        self._counts = dict.fromkeys(MessageState, 0)
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._by_sequence)

    def __contains__(self, message: BrokeredMessage) -> bool:
        return self._by_sequence.get(message.sequence_number) is message

    def count(self, state: MessageState) -> int:
        """Return the number of messages in this state."""
        return self._counts[state]

    def add(self, message: BrokeredMessage) -> None:
        """Add a new message under the next sequence number."""
        self._by_sequence.add(message)
        self._count(message)
        self.record(message)

    def insert(self, message: BrokeredMessage) -> None:
        """Add a new message under the number that it has; under the next one if that number is taken."""
        self._by_sequence.insert(message)
        self._count(message)
        self.record(message)

    def record(self, message: BrokeredMessage) -> None:
        """Record a changed message in the storage."""
        self._storage.put_message(self._queue, message)

    def set_state(self, message: BrokeredMessage, state: MessageState) -> None:
        """Change the state of a message."""
        self._counts[message.state] -= 1
        self._counts[state] += 1
        message.state = state
        self.record(message)

    def remove(self, message: BrokeredMessage) -> None:
        """Remove a message. Does nothing if it is gone."""
        if message.sequence_number in self._by_sequence:
            self._by_sequence.remove(message)
            self._counts[message.state] -= 1
            self.size_bytes -= message.size
            self._storage.delete_message(self._queue, message.sequence_number)

    def require(self, number: int, state: MessageState) -> BrokeredMessage:
        """Return a message by sequence number. Raises `ServiceBusError` if there is none in this state."""
        message = self._by_sequence.get(number)
        if message is None or message.state is not state:
            raise ServiceBusError(MESSAGE_NOT_FOUND, f"there is no {state.name.lower()} message {number}")
        return message

    def from_number(self, number: int, session_id: str | None = None) -> Iterator[BrokeredMessage]:
        """Yield the messages from this sequence number on; with a session ID, only those of the session.

        The store must not change meanwhile.
        """
        messages = self._by_sequence.from_number(number)
        if session_id is None:
            return messages
        return (message for message in messages if message.session_id == session_id)

    def restore(self, message: BrokeredMessage) -> None:
        """Add a message from the storage under its own number. Restore messages in ascending order."""
        self._by_sequence.restore(message)
        self._count(message)

    def continue_from(self, last: int) -> None:
        """Assign only sequence numbers above this one from now on."""
        self._by_sequence.continue_from(last)

    def _count(self, message: BrokeredMessage) -> None:
        self._counts[message.state] += 1
        self.size_bytes += message.size

"""The port through which queues persist their state, and the implementation that persists nothing."""

from __future__ import annotations

from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import INTERNAL_ERROR, ServiceBusError


class DataFolderError(Exception):
    """The data folder is unusable. The message states the cause and the remedy."""


class NotPersisted(ServiceBusError):
    """The storage could not write the latest changes.

    No client may see their effect. The storage keeps them and writes them with the next flush.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(INTERNAL_ERROR, f"The emulator cannot save messages: {reason}.")


class MessageStorage:
    """Records the changes of all queues; `flush` makes them durable. This base class persists nothing.

    Every queue name is in lower case. A dead-letter queue has a separate name. Recording and flushing are separate,
    because one write for all changes of an event-loop turn is much cheaper than a write for each.
    """

    def put_queue(self, settings: QueueSettings, created_at: float, updated_at: float) -> None:
        """Record a new queue, or changed settings."""

    def delete_queue(self, name: str) -> None:
        """Record that a queue is gone with its messages and its dead-letter queues."""

    def put_message(self, queue: str, message: BrokeredMessage) -> None:
        """Record a new or changed message. The storage reads the message when it flushes."""

    def delete_message(self, queue: str, sequence_number: int) -> None:
        """Record that a message is gone."""

    def put_duplicate_key(self, queue: str, key: str, seen_at: float) -> None:
        """Record a message ID that duplicate detection has seen."""

    def put_session_state(self, queue: str, session_id: str, state: bytes | None, updated_at: float) -> None:
        """Record the state of a session. None deletes it."""

    def flush(self) -> None:
        """Make all recorded changes durable. Call it before a client sees their effect. Raises `NotPersisted`."""


NO_STORAGE = MessageStorage()

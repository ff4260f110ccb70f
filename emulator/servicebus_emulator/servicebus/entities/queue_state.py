"""The state that the parts of one queue share."""

from __future__ import annotations

from collections.abc import Callable

from servicebus_emulator.servicebus.clock import Clock
from servicebus_emulator.servicebus.entities.locks import MessageLocks
from servicebus_emulator.servicebus.entities.message import BrokeredMessage, MessageState
from servicebus_emulator.servicebus.entities.message_store import MessageStore
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.entities.storage import MessageStorage


class QueueState:
    """Settings, messages and locks of one queue.

    `reschedule`: makes the broker compute the next due moment again, because an earlier one may exist.
    `is_subqueue`: the queue is a dead-letter queue, so it has no dead-letter queue itself.
    """

    def __init__(
        self,
        settings: QueueSettings,
        *,
        now: Clock,
        reschedule: Callable[[], None],
        storage: MessageStorage,
        is_subqueue: bool,
    ) -> None:
        self.settings = settings
        self.now = now
        self.reschedule = reschedule
        self.storage = storage
        self.is_subqueue = is_subqueue
        self.key = settings.name.lower()
        self.messages = MessageStore(self.key, storage)
        self.locks = MessageLocks()

    def is_ready(self, message: BrokeredMessage) -> bool:
        """Return True if a receiver may get the message: it is active, unlocked and still in the queue."""
        return message.state is MessageState.ACTIVE and message.lock_token is None and message in self.messages

    def remove(self, message: BrokeredMessage) -> None:
        """Remove a message and its lock. Does nothing if the message is gone."""
        self.locks.unlock(message)
        self.messages.remove(message)

    def count_delivery(self, message: BrokeredMessage) -> None:
        """Count one more delivery of the message.

        A dead letter keeps its count, so that a receiver of the dead-letter queue can read the number of failed
        deliveries (live tests of the JavaScript SDK, batchReceiver.spec.ts).
        """
        if not self.is_subqueue:
            message.delivery_count += 1

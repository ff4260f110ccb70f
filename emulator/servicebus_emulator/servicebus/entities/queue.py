"""A Service Bus queue: send, receive, settle, and the timers behind them. It knows no sockets and no AMQP links."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping

from servicebus_emulator.servicebus.clock import Clock
from servicebus_emulator.servicebus.entities import browsing, preconditions
from servicebus_emulator.servicebus.entities.dead_lettering import DeadLettering
from servicebus_emulator.servicebus.entities.deferral import DeferredMessages
from servicebus_emulator.servicebus.entities.delivery import MessageDelivery
from servicebus_emulator.servicebus.entities.duplicates import DuplicateDetector
from servicebus_emulator.servicebus.entities.enqueueing import Enqueueing
from servicebus_emulator.servicebus.entities.expiry import MessageExpiry
from servicebus_emulator.servicebus.entities.forwarding import Forwarding, forwarded
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.peek_lock import PeekLock
from servicebus_emulator.servicebus.entities.queue_settings import (
    QueueSettings,
    dead_letter_settings,
    transfer_dead_letter_settings,
)
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.entities.receiver import MessageReceiver
from servicebus_emulator.servicebus.entities.scheduling import MessageSchedule
from servicebus_emulator.servicebus.entities.sessions import MessageSession, QueueSessions
from servicebus_emulator.servicebus.entities.settlement import Settlement
from servicebus_emulator.servicebus.entities.storage import NO_STORAGE, MessageStorage
from servicebus_emulator.servicebus.errors import NOT_FOUND, ServiceBusError


def _no_queues(name: str) -> Queue:
    raise ServiceBusError(NOT_FOUND, f"there is no queue '{name}'")


class Queue:
    """One queue. Every method runs on the event loop's thread. Times are seconds since the epoch by `clock`.

    `reschedule`: called when a timer may be due before the last `next_due`. `find`: returns the targets of forwarding
    by name. `storage`: records every change. `is_subqueue`: the queue is a dead-letter queue, so it has no dead-letter
    queues itself.
    """

    def __init__(
        self,
        settings: QueueSettings,
        *,
        clock: Clock = time.time,
        reschedule: Callable[[], None] = lambda: None,
        find: Callable[[str], Queue] = _no_queues,
        storage: MessageStorage = NO_STORAGE,
        is_subqueue: bool = False,
    ) -> None:
        self.now = clock
        self.created_at = self.updated_at = self.accessed_at = clock()
        state = QueueState(settings, now=clock, reschedule=reschedule, storage=storage, is_subqueue=is_subqueue)
        self._state, self._find = state, find
        self.dead_letters = self._subqueue(dead_letter_settings(settings))
        self.transfer_dead_letters = self._subqueue(transfer_dead_letter_settings(settings))
        # Each part knows only parts that are built before it. Two calls go the other way, from sessions and from
        # forwarding; both go through this queue.
        dead_lettering = DeadLettering(state, self.dead_letters)
        self._expiry = MessageExpiry(state, dead_lettering)
        self._peek_lock = PeekLock(state)
        self.sessions = QueueSessions(state, self, self._expiry, self._peek_lock)
        self._delivery = MessageDelivery(state, self._expiry, self._peek_lock, self.sessions)
        self._settlement = Settlement(state, dead_lettering, self._peek_lock, self._delivery)
        self._deferred = DeferredMessages(state, self._expiry, self._peek_lock, self.sessions)
        self._schedule = MessageSchedule(state)
        self._duplicates = DuplicateDetector(state)
        self._enqueueing = Enqueueing(
            state,
            duplicates=self._duplicates,
            schedule=self._schedule,
            forwarding=Forwarding(state, find, self.transfer_dead_letters or self),
            expiry=self._expiry,
            delivery=self._delivery,
        )

    def _subqueue(self, settings: QueueSettings) -> Queue | None:
        state = self._state
        if state.is_subqueue:
            return None
        return Queue(
            settings,
            clock=state.now,
            reschedule=state.reschedule,
            find=self._find,
            storage=state.storage,
            is_subqueue=True,
        )

    # --- settings ------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> QueueSettings:
        """The settings in force."""
        return self._state.settings

    def subqueues(self) -> list[Queue]:
        """Return the dead-letter queue and the transfer dead-letter queue. A subqueue has none."""
        return [queue for queue in (self.dead_letters, self.transfer_dead_letters) if queue is not None]

    def update(self, settings: QueueSettings) -> None:
        """Change the settings. They apply to later operations; stored messages keep their times to live."""
        self._state.settings = settings
        self.updated_at = self.now()
        if self.dead_letters is not None:
            self.dead_letters._state.settings = dead_letter_settings(settings)
        if self.transfer_dead_letters is not None:
            self.transfer_dead_letters._state.settings = transfer_dead_letter_settings(settings)
        self._state.reschedule()
        self.pump()

    def require_sendable(self) -> None:
        """Raise `ServiceBusError` unless clients may send to the queue."""
        preconditions.require_sendable(self.settings)

    def require_receivable(self) -> None:
        """Raise `ServiceBusError` unless clients may receive from the queue."""
        preconditions.require_receivable(self.settings)

    # --- send ----------------------------------------------------------------------------------------------------

    def send(self, messages: Iterable[BrokeredMessage]) -> list[int]:
        """Accept all messages or none. Return their sequence numbers, 0 for a duplicate. Raises `ServiceBusError`."""
        batch = list(messages)
        self.accessed_at = self.now()
        preconditions.require_room(self.settings, self.size_bytes(), sum(message.size for message in batch))
        # Check all before the first is accepted: a batch is accepted as a whole or not at all.
        for message in batch:
            preconditions.require_fit(self.settings, message)
        numbers = [self._enqueueing.accept(message) for message in batch]
        self.pump()
        return numbers

    def cancel_scheduled(self, numbers: Iterable[int]) -> None:
        """Delete scheduled messages, all or none. Raises `ServiceBusError` if one of them is not scheduled."""
        self._schedule.cancel(numbers)

    def accept_forwarded(self, message: BrokeredMessage) -> None:
        """Accept a message from another queue. Raises `ServiceBusError`, also after too many hops."""
        copy = forwarded(message)
        preconditions.require_room(self.settings, self.size_bytes(), message.size)
        preconditions.require_fit(self.settings, message)
        self._enqueueing.accept(copy)
        self.pump()

    def add_dead_letter(self, message: BrokeredMessage) -> None:
        """Store a dead letter in this subqueue, or forward it as the settings say."""
        self._enqueueing.add_dead_letter(message)

    # --- receive -------------------------------------------------------------------------------------------------

    def subscribe(self, receiver: MessageReceiver) -> None:
        """Push messages to this receiver from now on, in turn with the others."""
        self.accessed_at = self.now()
        self._delivery.subscribe(receiver)

    def unsubscribe(self, receiver: MessageReceiver) -> None:
        """Push no more messages to this receiver. Its messages stay locked."""
        self._delivery.unsubscribe(receiver)

    def credit_granted(self, session: MessageSession | None = None) -> None:
        """Deliver messages to a receiver that has capacity again; `session` is the session that it holds."""
        if session is not None:
            self.sessions.pump_session(session)
        else:
            self.pump()

    def pump(self) -> None:
        """Deliver ready messages while receivers have capacity."""
        self._delivery.pump()

    def receive_deferred(
        self, numbers: Iterable[int], *, peek_lock: bool, session_id: str | None
    ) -> list[BrokeredMessage]:
        """Lock or remove deferred messages, all or none. Raises `ServiceBusError`."""
        return self._deferred.receive(numbers, peek_lock=peek_lock, session_id=session_id)

    # --- settle --------------------------------------------------------------------------------------------------

    def complete(self, token: uuid.UUID) -> None:
        """Delete a locked message. Raises `ServiceBusError` (message-lock-lost), like all settlements."""
        self._settlement.complete(token)

    def abandon(self, token: uuid.UUID, properties: Mapping[str, object]) -> None:
        """Unlock a message with modified properties, and count the delivery."""
        self._settlement.abandon(token, properties)

    def release(self, token: uuid.UUID) -> None:
        """Unlock a message without counting the delivery."""
        self._settlement.release(token)

    def defer(self, token: uuid.UUID, properties: Mapping[str, object]) -> None:
        """Defer a message with modified properties: only `receive_deferred` returns it."""
        self._settlement.defer(token, properties)

    def dead_letter(
        self, token: uuid.UUID, reason: str | None, description: str | None, properties: Mapping[str, object]
    ) -> None:
        """Move a message to the dead-letter queue. A dead-letter queue unlocks the message and raises instead."""
        self._settlement.dead_letter(token, reason, description, properties)

    def renew(self, token: uuid.UUID) -> float:
        """Renew a message lock and return its new end."""
        return self._peek_lock.renew(token)

    def return_message(self, message: BrokeredMessage, *, counted: bool) -> None:
        """Unlock a message and make it ready again; `counted` counts the delivery."""
        self._settlement.return_message(message, counted=counted)

    def expire_locks(self) -> int:
        """End all message locks now, for tests. Return their number."""
        return self._peek_lock.expire_locks(self.sessions.is_held)

    def locked_messages(self) -> Iterable[BrokeredMessage]:
        """Return all locked messages."""
        return self._state.locks.messages()

    def is_locked(self, token: uuid.UUID) -> bool:
        """Return True if a message is under this lock."""
        return token in self._state.locks

    # --- browse --------------------------------------------------------------------------------------------------

    def peek(self, number: int, count: int, session_id: str | None) -> list[BrokeredMessage]:
        """Return up to `count` messages from a sequence number on, in every state, locked ones included."""
        return browsing.peek(self._state, number, count, session_id)

    def purge(self, count: int, *, before: float, session_id: str | None) -> int:
        """Delete up to `count` unlocked messages that were enqueued before a moment. Return their number."""
        return browsing.purge(self._state, count, before=before, session_id=session_id)

    def session_ids(self, skip: int, top: int, *, state_after: float | None = None) -> list[str]:
        """Return a page of session IDs: those with active messages or state, or those with state set after a moment."""
        return browsing.session_ids(self._state, self.sessions, skip, top, state_after=state_after)

    def size_bytes(self) -> int:
        """Return the size of all messages as sent, including those in the subqueues."""
        return self._state.messages.size_bytes + sum(queue.size_bytes() for queue in self.subqueues())

    def message_count(self) -> int:
        """Return the number of messages in every state, without the subqueues."""
        return len(self._state.messages)

    def in_use(self) -> bool:
        """Return True if a receiver is subscribed or a message is locked, here or in a subqueue."""
        here = self._delivery.has_receivers or bool(self._state.locks)
        return here or any(queue.in_use() for queue in self.subqueues())

    def counts(self) -> dict[str, int]:
        """Return the number of messages by state, and of dead letters.

        Locked messages count as active. `transfer_dead_letters` holds the messages that could not be forwarded.
        """
        dead_lettered = self.dead_letters.message_count() if self.dead_letters is not None else 0
        return browsing.counts(self._state) | {"dead_lettered": dead_lettered}

    # --- timers --------------------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """Return the moment at which `tick` has work next, infinity if never."""
        here = (
            self._schedule.next_due(),
            self._state.locks.next_due(),
            self._expiry.next_due(),
            self.sessions.next_due(),
        )
        return min(*here, *(queue.next_due() for queue in self.subqueues()))

    def tick(self) -> None:
        """Do everything that is due: activate, unlock, expire, release sessions.

        Locks end before messages expire. If the lock and the time to live of a message end together, the queue first
        counts the delivery, and the delivery limit decides.
        """
        now = self.now()
        self._enqueueing.activate_scheduled(now)
        self._settlement.unlock_expired(now)
        self._expiry.expire_due(now)
        self.sessions.tick()
        self.pump()
        for queue in self.subqueues():
            queue.tick()

    # --- restore -------------------------------------------------------------------------------------------------

    def restore(self, messages: Iterable[BrokeredMessage], last_number: int) -> None:
        """Add messages from the storage in ascending order of their numbers. `last_number` was assigned last."""
        for message in messages:
            self._enqueueing.restore(message)
        self._state.messages.continue_from(last_number)
        self._state.reschedule()

    def restore_duplicate_keys(self, seen: Iterable[tuple[str, float]]) -> None:
        """Restore the message IDs that duplicate detection has seen, the oldest first."""
        self._duplicates.restore(seen)

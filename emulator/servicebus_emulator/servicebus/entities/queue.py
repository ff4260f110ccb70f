"""A Service Bus queue: peek-lock, settlement, schedules, forwarding, duplicate detection. No sockets, no AMQP links."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice

from servicebus_emulator.servicebus.clock import Clock
from servicebus_emulator.servicebus.duration import MAX_SECONDS
from servicebus_emulator.servicebus.entities.duplicates import DuplicateDetector
from servicebus_emulator.servicebus.entities.indexes import MessageTimers, ReadyMessages
from servicebus_emulator.servicebus.entities.locks import MessageLocks
from servicebus_emulator.servicebus.entities.message import Message, MessageState, modify, with_reason
from servicebus_emulator.servicebus.entities.message_store import MessageStore
from servicebus_emulator.servicebus.entities.preconditions import (
    require_fit,
    require_receivable,
    require_room,
    require_sendable,
)
from servicebus_emulator.servicebus.entities.queue_settings import (
    DEAD_LETTER_SUFFIX,
    MAX_FORWARDING_HOPS,
    TRANSFER_DEAD_LETTER_SUFFIX,
    QueueSettings,
    dead_letter_settings,
    transfer_dead_letter_settings,
)
from servicebus_emulator.servicebus.entities.receiver import MessageReceiver
from servicebus_emulator.servicebus.entities.sessions import MessageSession, QueueSessions
from servicebus_emulator.servicebus.entities.storage import NO_STORAGE, MessageStorage
from servicebus_emulator.servicebus.errors import (
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    NOT_ALLOWED,
    NOT_FOUND,
    ServiceBusError,
)

_TOO_MANY_HOPS = "MaxTransferHopCountExceeded"
"""What the service calls it (Microsoft Learn, "Overview of Service Bus dead-letter queues")."""


def _nowhere(name: str) -> Queue:
    raise ServiceBusError(NOT_FOUND, f"there is no queue '{name}'")


class Queue:
    """One queue. Every method is called from the event loop; times are seconds since the epoch by `clock`.

    `changed` is called whenever something may have become due sooner than was known; `find` gives the queues that
    messages are forwarded to; `store` is told of every change.
    """

    def __init__(
        self,
        settings: QueueSettings,
        *,
        clock: Clock = time.time,
        changed: Callable[[], None] = lambda: None,
        find: Callable[[str], Queue] = _nowhere,
        store: MessageStorage = NO_STORAGE,
        is_below: bool = False,
    ) -> None:
        """`is_below`: it is a dead-letter queue, and has none of its own."""
        self.settings = settings
        self.now = clock
        self.created_at = self.updated_at = self.accessed_at = clock()
        self._key = settings.name.lower()
        self._changed = changed
        self._find = find
        self._store = store
        self._messages = MessageStore(self._key, store)
        self._line = ReadyMessages()
        self._consumers: deque[MessageReceiver] = deque()
        self._locks = MessageLocks()
        self._expiries = MessageTimers()
        self._schedule = MessageTimers()
        self._history = DuplicateDetector()
        self.sessions = QueueSessions(self, lock_seconds=lambda: self.settings.lock_seconds, changed=changed)
        self.dead_letters = None if is_below else self._below(dead_letter_settings(settings))
        self.transfer_dead_letters = None if is_below else self._below(transfer_dead_letter_settings(settings))

    def _below(self, settings: QueueSettings) -> Queue:
        return Queue(settings, clock=self.now, changed=self._changed, find=self._find, store=self._store, is_below=True)

    def below(self) -> list[Queue]:
        """Its dead-letter queue, and that of messages which could not be forwarded."""
        return [queue for queue in (self.dead_letters, self.transfer_dead_letters) if queue is not None]

    def update(self, settings: QueueSettings) -> None:
        """Go by other rules from now on; what is there stays."""
        self.settings = settings
        self.updated_at = self.now()
        if self.dead_letters is not None and self.transfer_dead_letters is not None:
            self.dead_letters.settings = dead_letter_settings(settings)
            self.transfer_dead_letters.settings = transfer_dead_letter_settings(settings)
        self._changed()
        self.pump()

    def size_bytes(self) -> int:
        """Of all messages in it and below it, as they were sent."""
        return self._messages.size_bytes + sum(queue.size_bytes() for queue in self.below())

    # --- sending -------------------------------------------------------------------------------------------------

    def send(self, messages: Iterable[Message]) -> list[int]:
        """Accept all messages or none; their sequence numbers. Raises `ServiceBusError`.

        A message whose ID was seen within the duplicate-detection window is accepted and dropped.
        """
        accepted = list(messages)
        self.accessed_at = self.now()
        require_room(self.settings, self.size_bytes(), sum(message.size for message in accepted))
        for message in accepted:
            require_fit(self.settings, message)
        numbers = [self._accept(message) for message in accepted]
        self.pump()
        return numbers

    def require_sendable(self) -> None:
        """Raises `ServiceBusError` if nothing may be sent to it."""
        require_sendable(self.settings)

    def require_receivable(self) -> None:
        """Raises `ServiceBusError` if nothing may be received from it."""
        require_receivable(self.settings)

    def _accept(self, message: Message) -> int:
        if self._is_duplicate(message):
            return 0
        now = self.now()
        if message.scheduled_at is not None and message.scheduled_at > now:
            message.state, message.was_scheduled = MessageState.SCHEDULED, True
            message.enqueued_at = now
            self._messages.add(message)
            self._schedule.add(message.scheduled_at, message)
            self._changed()
        else:
            self._enqueue(message, now)
        return message.sequence_number

    def _is_duplicate(self, message: Message) -> bool:
        key = message.dedup_key
        if not self.settings.requires_duplicate_detection or key is None:
            return False
        now = self.now()
        if self._history.has(key, since=now - self.settings.duplicate_detection_seconds):
            return True
        self._history.add(key, now)
        self._store.put_duplicate_key(self._key, key, now)
        return False

    def _enqueue(self, message: Message, now: float) -> None:
        ttl = min(message.ttl if message.ttl is not None else MAX_SECONDS, self.settings.default_ttl_seconds)
        message.state, message.enqueued_at = MessageState.ACTIVE, now
        if ttl < MAX_SECONDS:
            message.ttl = ttl  # the service overwrites one that is too long, or missing
            message.expires_at = now + ttl
        self._messages.add(message)
        if self.settings.forward_to is not None:
            self._forward(message, self.settings.forward_to)
            return
        self._watch_expiry(message)
        self._wait_in_line(message)

    def _watch_expiry(self, message: Message) -> None:
        if message.expires_at != float("inf"):
            self._expiries.add(message.expires_at, message)
            self._changed()

    def _wait_in_line(self, message: Message) -> None:
        if self.settings.requires_session:
            self.sessions.wait(message)
        else:
            self._line.push(message)

    def cancel_scheduled(self, numbers: Iterable[int]) -> None:
        """Forget scheduled messages. Raises `ServiceBusError` if one is not scheduled (any more)."""
        for message in [self._messages.in_state(number, MessageState.SCHEDULED) for number in numbers]:
            self._remove(message)

    # --- forwarding ----------------------------------------------------------------------------------------------

    def _forward(self, message: Message, target: str) -> None:
        """Move on at once. What the target does not take waits in the transfer dead-letter queue."""
        self._remove(message)
        try:
            self._find(target).take_forwarded(message)
        except ServiceBusError as error:
            refused = self.transfer_dead_letters or self
            with_reason(message, error.condition, f"could not be forwarded to '{target}': {error.description}", {})
            refused.keep_dead(message)

    def take_forwarded(self, message: Message) -> None:
        """Take what another queue forwards. Raises `ServiceBusError`, also if it has come over too many queues."""
        if message.hops >= MAX_FORWARDING_HOPS:
            raise ServiceBusError(_TOO_MANY_HOPS, f"it was forwarded {MAX_FORWARDING_HOPS} times already")
        require_room(self.settings, self.size_bytes(), message.size)
        require_fit(self.settings, message)
        first = message.enqueue_sequence_number or message.sequence_number
        self._accept(
            replace(
                message,
                enqueue_sequence_number=first,
                expires_at=float("inf"),
                delivery_count=0,
                hops=message.hops + 1,
            )
        )
        self.pump()

    # --- receiving -----------------------------------------------------------------------------------------------

    def subscribe(self, consumer: MessageReceiver) -> None:
        """Push messages to this consumer from now on, in turn with the others."""
        self.accessed_at = self.now()
        self._consumers.append(consumer)
        self.pump()

    def unsubscribe(self, consumer: MessageReceiver) -> None:
        """Push no more. What it holds stays locked: closing a link is not settling."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def credit(self, session: MessageSession | None = None) -> None:
        """A consumer can take more."""
        if session is not None:
            self.sessions.pump_one(session)
        else:
            self.pump()

    def pump(self) -> None:
        """Hand over what can be."""
        if not self.settings.status.can_receive:
            return
        if self.settings.requires_session:
            self.sessions.pump()
            return
        while self._consumers and (consumer := self._next_ready()) is not None:
            message = self.take_first(self._line)
            if message is None:
                return
            self.hand_over(message, consumer, None)

    def _next_ready(self) -> MessageReceiver | None:
        for _ in range(len(self._consumers)):
            consumer = self._consumers[0]
            self._consumers.rotate(-1)
            if consumer.has_capacity():
                return consumer
        return None

    def take_first(self, line: ReadyMessages) -> Message | None:
        """The first message of a line that is still there and has not expired."""
        now = self.now()
        while line:
            message = line.pop()
            if not self._waits(message):
                continue
            if message.expires_at <= now:
                self._expire(message)
                continue
            return message
        return None

    def _waits(self, message: Message) -> bool:
        return message.state is MessageState.ACTIVE and message.lock_token is None and message in self._messages

    def hand_over(self, message: Message, consumer: MessageReceiver, session: MessageSession | None) -> None:
        """Give a message to a consumer, under a lock or for good."""
        if consumer.peek_lock:
            self._lock(message, session)
        else:
            self._remove(message)
        consumer.deliver(message)

    def _lock(self, message: Message, session: MessageSession | None) -> None:
        if session is not None:
            self._locks.give(message, session.locked_until)
            return
        self._locks.give(message, self._lock_end())
        self._locks.watch(message, message.locked_until)
        self._changed()

    def _lock_end(self) -> float:
        return self.now() + self.settings.lock_seconds

    def receive_deferred(self, numbers: Iterable[int], *, keep: bool, session_id: str | None) -> list[Message]:
        """Take deferred messages by number, under a lock or for good. Raises `ServiceBusError`.

        It is only here that their time to live counts, as the service's documentation of message deferral says.
        """
        session = self.sessions.held(session_id) if self.settings.requires_session else None
        messages = [self._deferred(number, session) for number in dict.fromkeys(numbers)]
        for message in messages:
            if keep:
                self._lock(message, session)
            else:
                self._remove(message)
        return messages

    def _deferred(self, number: int, session: MessageSession | None) -> Message:
        message = self._messages.in_state(number, MessageState.DEFERRED)
        if session is not None and message.session_id != session.id:
            raise ServiceBusError(MESSAGE_NOT_FOUND, f"message {number} is not of session '{session.id}'")
        if message.lock_token is not None:
            raise ServiceBusError(MESSAGE_LOCK_LOST, f"message {number} is locked by a receiver")
        if message.expires_at <= self.now():
            self._expire(message)
            raise ServiceBusError(MESSAGE_NOT_FOUND, f"there is no deferred message {number}: it has expired")
        return message

    def peek(self, number: int, count: int, session_id: str | None) -> list[Message]:
        """Up to `count` messages from sequence number `number` on, whatever their state; nothing changes."""
        return list(islice(self._messages.from_number(number, session_id), count))

    def purge(self, count: int, *, before: float, session_id: str | None) -> int:
        """Delete up to `count` messages that were enqueued before then and that nobody holds; how many it were."""
        every = self._messages.from_number(0, session_id)
        old = list(islice((one for one in every if one.enqueued_at < before and one.lock_token is None), count))
        for message in old:
            self._remove(message)
        return len(old)

    # --- settling ------------------------------------------------------------------------------------------------

    def complete(self, token: uuid.UUID) -> None:
        """Done with. Raises `ServiceBusError` (lock lost), like all settlements."""
        self._remove(self._locked_by(token))

    def abandon(self, token: uuid.UUID, changes: Mapping[str, object]) -> None:
        """Give back; one more delivery is counted."""
        message = self._locked_by(token)
        modify(message, changes)
        self.give_back(message, counted=True)
        self.pump()

    def release(self, token: uuid.UUID) -> None:
        """Give back as if it had never been taken."""
        self.give_back(self._locked_by(token), counted=False)
        self.pump()

    def defer(self, token: uuid.UUID, changes: Mapping[str, object]) -> None:
        """Set aside; only `receive_deferred` finds it again. One more delivery is counted.

        That it is counted, the JavaScript SDK's live tests say (batchReceiver.spec.ts). Whether the last delivery
        allowed would go to the dead-letter queue, they do not: here it stays.
        """
        message = self._locked_by(token)
        modify(message, changes)
        self._locks.end(message)
        self._count(message)
        self._messages.becomes(message, MessageState.DEFERRED)

    def dead_letter(
        self, token: uuid.UUID, reason: str | None, description: str | None, more: Mapping[str, object]
    ) -> None:
        """Move to the dead-letter queue. From there nothing goes further: it is given back, and the request refused."""
        self._bury(self._locked_by(token), reason, description, more)

    def renew(self, token: uuid.UUID) -> float:
        """Lock anew; until when."""
        message = self._locked_by(token)
        if not self.settings.requires_session:
            self._locks.watch(message, self._lock_end())
        return message.locked_until

    def expire_locks(self) -> int:
        """End every message's lock now, for tests of what a client does then; how many there were."""
        now = self.now()
        locked = [message for message in self.locked() if not self.sessions.is_held(message.session_id)]
        for message in locked:
            self._locks.watch(message, now)
        self._changed()
        return len(locked)

    def locked(self) -> Iterable[Message]:
        """All messages under a lock."""
        return self._locks.messages()

    def is_locked(self, token: uuid.UUID) -> bool:
        """Whether a message is under this lock."""
        return token in self._locks

    def _locked_by(self, token: uuid.UUID) -> Message:
        return self._locks.holds(token, self.now())

    def give_back(self, message: Message, *, counted: bool) -> None:
        """End a message's lock; it waits in line again, unless its deliveries or its time are used up."""
        self._locks.end(message)
        if counted:
            self._count(message)
            self._messages.changed(message)
        if message.delivery_count >= self.settings.max_delivery_count:
            text = f"delivered {message.delivery_count} times without being completed"
            self._bury(message, "MaxDeliveryCountExceeded", text, {})
        elif message.state is not MessageState.ACTIVE:
            return
        elif message.expires_at <= self.now():
            self._expire(message)
        else:
            self._wait_in_line(message)

    def _count(self, message: Message) -> None:
        """One delivery more; dead letters keep the number they came with (batchReceiver.spec.ts, as above)."""
        if self.dead_letters is not None:
            message.delivery_count += 1

    def _bury(self, message: Message, reason: str | None, description: str | None, more: Mapping[str, object]) -> None:
        if self.dead_letters is None:
            self.give_back(message, counted=False)
            self.pump()
            raise ServiceBusError(NOT_ALLOWED, "a message in the dead-letter queue cannot be dead-lettered again")
        self._remove(message)
        with_reason(message, reason, description, more)
        self.dead_letters.keep_dead(message)

    def keep_dead(self, message: Message) -> None:
        """As a dead-letter queue: keep the message until someone takes it, or pass it on. Its enqueued time stays."""
        buried = replace(message, expires_at=float("inf"), state=MessageState.ACTIVE, was_scheduled=False)
        self._messages.add(buried)
        if self.settings.forward_to is not None:
            source = self._key.removesuffix(TRANSFER_DEAD_LETTER_SUFFIX).removesuffix(DEAD_LETTER_SUFFIX)
            buried.dead_letter_source = buried.dead_letter_source or source
            self._forward_dead(buried, self.settings.forward_to)
            return
        self._line.push(buried)
        self.pump()

    def _forward_dead(self, message: Message, target: str) -> None:
        try:
            self._find(target).take_forwarded(message)
        except ServiceBusError:
            self._line.push(message)  # it stays here, where people look for dead letters
            self.pump()
        else:
            self._remove(message)

    def _expire(self, message: Message) -> None:
        if self.settings.dead_letter_on_expiration:
            self._bury(message, "TTLExpiredException", "the message expired before it was received", {})
        else:
            self._remove(message)

    def _remove(self, message: Message) -> None:
        self._locks.end(message)
        self._messages.remove(message)

    # --- sessions ------------------------------------------------------------------------------------------------

    def session_ids(self, skip: int, top: int, *, state_after: float | None = None) -> list[str]:
        """Sessions that have active messages or state, by ID; or only those whose state was set after a moment."""
        found = self.sessions.with_state(state_after)
        if state_after is None:
            active = (one for one in self._messages.from_number(0) if one.state is MessageState.ACTIVE)
            found |= {message.session_id or "" for message in active}
        return sorted(found)[skip : skip + top]

    def state_kept(self, session: MessageSession) -> None:
        """A session's state has changed."""
        self._store.put_session_state(self._key, session.id, session.state, session.state_at)

    # --- time ----------------------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """When `tick` has something to do next; infinity if never."""
        own = min(self._schedule.next(), self._locks.next_end(), self._expiries.next(), self.sessions.next_due())
        return min(own, *(queue.next_due() for queue in self.below()), float("inf"))

    def tick(self) -> None:
        """Do what is due: activate, unlock, expire, let go of sessions and waiters."""
        now = self.now()
        for moment, message in self._schedule.due(now):
            if message.state is MessageState.SCHEDULED and message.scheduled_at == moment and message in self._messages:
                self._remove(message)
                self._enqueue(message, now)
        for message in self._locks.ended(now):
            self.give_back(message, counted=True)
        for _, message in self._expiries.due(now):
            if self._waits(message) and message.expires_at <= now:
                self._expire(message)
        self.sessions.tick()
        self.pump()
        for queue in self.below():
            queue.tick()

    # --- what is told of it --------------------------------------------------------------------------------------

    def message_count(self) -> int:
        """Messages in it, whatever their state."""
        return len(self._messages)

    def in_use(self) -> bool:
        """Whether somebody receives from it."""
        return bool(self._consumers) or bool(self._locks) or any(queue.in_use() for queue in self.below())

    def counts(self) -> dict[str, int]:
        """Messages by state, those under a lock counted with the active ones, and those dead-lettered.

        Those that could not be forwarded are in `transfer_dead_letters`.
        """
        return {
            "active": self._messages.count(MessageState.ACTIVE),
            "deferred": self._messages.count(MessageState.DEFERRED),
            "scheduled": self._messages.count(MessageState.SCHEDULED),
            "dead_lettered": self.dead_letters.message_count() if self.dead_letters is not None else 0,
        }

    def restore(self, messages: Iterable[Message], last_number: int) -> None:
        """Put back what a store has kept. Locks are gone; nothing is told to the store."""
        for message in messages:
            self._messages.restore(message)
            if message.state is MessageState.SCHEDULED and message.scheduled_at is not None:
                self._schedule.add(message.scheduled_at, message)
            elif message.state is MessageState.ACTIVE:
                self._expiries.add(message.expires_at, message)
                self._wait_in_line(message)
        self._messages.number_from(last_number)
        self._changed()

    def restore_history(self, seen: Iterable[tuple[str, float]]) -> None:
        """Put back what duplicate detection has seen, the oldest first."""
        for key, at in seen:
            self._history.add(key, at)

"""A Service Bus queue: peek-lock, settlement, sessions, schedules, duplicate detection. No sockets, no AMQP links."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from emulator.servicebus.config import NEVER_SECONDS, QueueSettings
from emulator.servicebus.errors import (
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    MESSAGE_SIZE_EXCEEDED,
    NOT_ALLOWED,
    SESSION_CANNOT_BE_LOCKED,
    SESSION_LOCK_LOST,
    ServiceBusError,
)
from emulator.servicebus.message import Message, State, modify, with_reason
from emulator.servicebus.sessions import Session, Waiter
from emulator.servicebus.shelf import Deadlines, Line, Shelf

DEAD_LETTER_SUFFIX = "/$deadletterqueue"
_FOREVER = 10**9

Clock = Callable[[], float]


class Consumer(Protocol):
    """Someone messages are pushed to."""

    keeps: bool
    """True: peek-lock. False: receive-and-delete."""

    def wants(self) -> bool:
        """Whether it can take one more just now."""
        ...

    def take(self, message: Message) -> None:
        """Here is one; its lock token is in it."""
        ...


class Queue:
    """One queue. Every method is called from the event loop; times are seconds since the epoch by `clock`.

    `changed` is called whenever something may have become due sooner than was known.
    """

    def __init__(
        self,
        settings: QueueSettings,
        *,
        clock: Clock = time.time,
        changed: Callable[[], None] = lambda: None,
        dead_letters: Queue | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._changed = changed
        self._shelf = Shelf()
        self._line = Line()
        self._consumers: deque[Consumer] = deque()
        self._locked: dict[uuid.UUID, Message] = {}
        self._lock_ends = Deadlines()
        self._expiries = Deadlines()
        self._schedule = Deadlines()
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._sessions: dict[str, Session] = {}
        self._held_sessions: dict[str, Session] = {}
        self._waiting_sessions: dict[str, Session] = {}
        self._waiters: deque[Waiter] = deque()
        self._counts = {State.ACTIVE: 0, State.DEFERRED: 0, State.SCHEDULED: 0}
        self.dead_letters = dead_letters or self._own_dead_letters()

    def _own_dead_letters(self) -> Queue | None:
        if self.settings.name.lower().endswith(DEAD_LETTER_SUFFIX):
            return None
        rules = QueueSettings(
            name=self.settings.name + DEAD_LETTER_SUFFIX,
            lock_seconds=self.settings.lock_seconds,
            max_delivery_count=_FOREVER,
            max_message_bytes=self.settings.max_message_bytes,
        )
        return Queue(rules, clock=self._clock, changed=self._changed)

    # --- sending -------------------------------------------------------------------------------------------------

    def send(self, messages: Iterable[Message]) -> list[int]:
        """Accept all messages or none; their sequence numbers. Raises `ServiceBusError`.

        A message whose ID was seen within the duplicate-detection window is accepted and dropped.
        """
        accepted = list(messages)
        for message in accepted:
            self._check(message)
        numbers = [self._accept(message) for message in accepted]
        self._pump()
        return numbers

    def _check(self, message: Message) -> None:
        if message.size > self.settings.max_message_bytes:
            raise ServiceBusError(
                MESSAGE_SIZE_EXCEEDED,
                f"the message has {message.size} bytes; '{self.settings.name}' takes {self.settings.max_message_bytes}",
            )
        if self.settings.requires_session and message.session_id is None:
            raise ServiceBusError(
                NOT_ALLOWED, f"'{self.settings.name}' requires sessions: set the message's session ID"
            )

    def _accept(self, message: Message) -> int:
        if self._is_duplicate(message):
            return 0
        now = self._clock()
        if message.scheduled_at is not None and message.scheduled_at > now:
            message.state, message.was_scheduled = State.SCHEDULED, True
            self._shelf.put(message)
            message.enqueued_at = now
            self._counts[State.SCHEDULED] += 1
            self._schedule.add(message.scheduled_at, message)
            self._changed()
        else:
            self._enqueue(message, now)
        return message.sequence_number

    def _is_duplicate(self, message: Message) -> bool:
        key = message.dedup_key
        if not self.settings.requires_duplicate_detection or key is None:
            return False
        now = self._clock()
        while self._seen:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest] < self.settings.duplicate_detection_seconds:
                break
            del self._seen[oldest]
        if key in self._seen:
            return True
        self._seen[key] = now
        return False

    def _enqueue(self, message: Message, now: float) -> None:
        ttl = min(message.ttl if message.ttl is not None else NEVER_SECONDS, self.settings.default_ttl_seconds)
        message.state = State.ACTIVE
        self._shelf.put(message)
        message.enqueued_at = now
        self._counts[State.ACTIVE] += 1
        if ttl < NEVER_SECONDS:
            message.expires_at = now + ttl
            self._expiries.add(message.expires_at, message)
            self._changed()
        self._wait_in_line(message)

    def _wait_in_line(self, message: Message) -> None:
        if self.settings.requires_session:
            session = self._session(message.session_id or "")
            session.line.push(message)
            self._waiting_sessions[session.id] = session
        else:
            self._line.push(message)

    def cancel_scheduled(self, numbers: Iterable[int]) -> None:
        """Forget scheduled messages. Raises `ServiceBusError` if one is not scheduled (any more)."""
        for message in [self._in_state(number, State.SCHEDULED) for number in numbers]:
            self._remove(message)

    # --- receiving -----------------------------------------------------------------------------------------------

    def subscribe(self, consumer: Consumer) -> None:
        """Push messages to this consumer from now on, in turn with the others."""
        self._consumers.append(consumer)
        self._pump()

    def unsubscribe(self, consumer: Consumer) -> None:
        """Push no more. What it holds stays locked: closing a link is not settling."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def credit(self, session: Session | None = None) -> None:
        """A consumer can take more."""
        if session is not None:
            self._pump_session(session)
        else:
            self._pump()

    def _pump(self) -> None:
        if self.settings.requires_session:
            self._serve_waiters()
            for session in list(self._held_sessions.values()):
                self._pump_session(session)
            return
        while self._consumers and (consumer := self._next_ready()) is not None:
            message = self._next_in(self._line)
            if message is None:
                return
            self._hand_over(message, consumer, None)

    def _next_ready(self) -> Consumer | None:
        for _ in range(len(self._consumers)):
            consumer = self._consumers[0]
            self._consumers.rotate(-1)
            if consumer.wants():
                return consumer
        return None

    def _pump_session(self, session: Session) -> None:
        while session.consumer is not None and session.consumer.wants():
            message = self._next_in(session.line)
            if message is None:
                self._waiting_sessions.pop(session.id, None)
                return
            self._hand_over(message, session.consumer, session)

    def _next_in(self, line: Line) -> Message | None:
        """The first message of a line that is still there and has not expired."""
        now = self._clock()
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
        return (
            self._shelf.get(message.sequence_number) is message
            and message.state is State.ACTIVE
            and message.lock_token is None
        )

    def _hand_over(self, message: Message, consumer: Consumer, session: Session | None) -> None:
        if consumer.keeps:
            self._lock(message, session)
        else:
            self._remove(message)
        consumer.take(message)

    def _lock(self, message: Message, session: Session | None) -> None:
        message.lock_token = uuid.uuid4()
        self._locked[message.lock_token] = message
        if session is not None:
            message.locked_until = session.locked_until
            return
        message.locked_until = self._clock() + self.settings.lock_seconds
        self._lock_ends.add(message.locked_until, message)
        self._changed()

    def receive_deferred(self, numbers: Iterable[int], *, keep: bool, session_id: str | None) -> list[Message]:
        """Take deferred messages by number, under a lock or for good. Raises `ServiceBusError`."""
        session = self._held(session_id) if self.settings.requires_session else None
        messages = [self._in_state(number, State.DEFERRED) for number in dict.fromkeys(numbers)]
        for message in messages:
            if session is not None and message.session_id != session.id:
                raise ServiceBusError(
                    MESSAGE_NOT_FOUND, f"message {message.sequence_number} is not of session '{session.id}'"
                )
            if message.lock_token is not None:
                raise ServiceBusError(MESSAGE_LOCK_LOST, f"message {message.sequence_number} is locked by a receiver")
        for message in messages:
            if keep:
                self._lock(message, session)
            else:
                self._remove(message)
        return messages

    def peek(self, number: int, count: int, session_id: str | None) -> list[Message]:
        """Up to `count` messages from sequence number `number` on, whatever their state; nothing changes."""
        found: list[Message] = []
        for message in self._shelf.from_number(number):
            if len(found) >= count:
                break
            if session_id is None or message.session_id == session_id:
                found.append(message)
        return found

    # --- settling ------------------------------------------------------------------------------------------------

    def complete(self, token: uuid.UUID) -> None:
        """Done with. Raises `ServiceBusError` (lock lost), like all settlements."""
        self._remove(self._locked_by(token))

    def abandon(self, token: uuid.UUID, changes: Mapping[str, object]) -> None:
        """Give back; one more delivery is counted."""
        message = self._locked_by(token)
        modify(message, changes)
        self._give_back(message, counted=True)
        self._pump()

    def release(self, token: uuid.UUID) -> None:
        """Give back as if it had never been taken."""
        self._give_back(self._locked_by(token), counted=False)
        self._pump()

    def defer(self, token: uuid.UUID, changes: Mapping[str, object]) -> None:
        """Set aside; only `receive_deferred` finds it again."""
        message = self._locked_by(token)
        modify(message, changes)
        self._unlock(message)
        self._change_state(message, State.DEFERRED)

    def dead_letter(
        self, token: uuid.UUID, reason: str | None, description: str | None, more: Mapping[str, object]
    ) -> None:
        """Move to the dead-letter queue."""
        self._bury(self._locked_by(token), reason, description, more)

    def renew(self, token: uuid.UUID) -> float:
        """Lock anew; until when."""
        message = self._locked_by(token)
        if self.settings.requires_session:
            return message.locked_until
        message.locked_until = self._clock() + self.settings.lock_seconds
        self._lock_ends.add(message.locked_until, message)
        return message.locked_until

    def expire_locks(self) -> int:
        """End every message's lock now, for tests of what a client does then; how many there were."""
        now = self._clock()
        locked = [message for message in self._locked.values() if message.session_id not in self._held_sessions]
        for message in locked:
            message.locked_until = now
            self._lock_ends.add(now, message)
        self._changed()
        return len(locked)

    def _locked_by(self, token: uuid.UUID) -> Message:
        message = self._locked.get(token)
        # The deadline counts, not the sweep: a lock that is over is lost even if nobody noticed yet.
        if message is None or message.locked_until <= self._clock():
            raise ServiceBusError(MESSAGE_LOCK_LOST, "the lock has expired or was never given; receive it again")
        return message

    def _give_back(self, message: Message, *, counted: bool) -> None:
        self._unlock(message)
        if counted:
            message.delivery_count += 1
        if message.delivery_count >= self.settings.max_delivery_count:
            text = f"delivered {message.delivery_count} times without being completed"
            self._bury(message, "MaxDeliveryCountExceeded", text, {})
        elif message.expires_at <= self._clock():
            self._expire(message)
        elif message.state is State.ACTIVE:
            self._wait_in_line(message)

    def _unlock(self, message: Message) -> None:
        if message.lock_token is not None:
            self._locked.pop(message.lock_token, None)
            message.lock_token = None

    def _bury(self, message: Message, reason: str | None, description: str | None, more: Mapping[str, object]) -> None:
        if self.dead_letters is None:  # this is a dead-letter queue: there is nowhere else to put it
            self._unlock(message)
            self._wait_in_line(message)
            return
        self._remove(message)
        with_reason(message, reason, description, more)
        self.dead_letters.take_dead(message)

    def take_dead(self, message: Message) -> None:
        """As a dead-letter queue: keep the message until someone takes it. Its time of enqueuing stays."""
        buried = replace(message, expires_at=float("inf"), state=State.ACTIVE, was_scheduled=False)
        self._shelf.put(buried)
        self._counts[State.ACTIVE] += 1
        self._line.push(buried)
        self._pump()

    def _expire(self, message: Message) -> None:
        if self.settings.dead_letter_on_expiration:
            self._bury(message, "TTLExpiredException", "the message expired before it was received", {})
        else:
            self._remove(message)

    def _remove(self, message: Message) -> None:
        self._unlock(message)
        if message.sequence_number in self._shelf:
            self._shelf.remove(message)
            self._counts[message.state] -= 1

    def _change_state(self, message: Message, state: State) -> None:
        self._counts[message.state] -= 1
        self._counts[state] += 1
        message.state = state

    def _in_state(self, number: int, state: State) -> Message:
        message = self._shelf.get(number)
        if message is None or message.state is not state:
            raise ServiceBusError(MESSAGE_NOT_FOUND, f"there is no {state.name.lower()} message {number}")
        return message

    # --- sessions ------------------------------------------------------------------------------------------------

    def accept_session(self, session_id: str) -> Session:
        """Lock a named session. Raises `ServiceBusError` if another receiver holds it."""
        self._end_overdue_sessions()  # else its former holder, not told yet, would let go of the new holder's lock
        session = self._session(session_id)
        if session.held:
            raise ServiceBusError(SESSION_CANNOT_BE_LOCKED, f"session '{session_id}' is locked by another receiver")
        self._lock_session(session)
        return session

    def accept_next_session(self, waiter: Waiter) -> None:
        """Lock the next session that has messages; now, or when there is one: `waiter` is told."""
        self._waiters.append(waiter)
        self._changed()
        self._serve_waiters()

    def forget_waiter(self, waiter: Waiter) -> None:
        """It waits no longer."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def attach_to_session(self, session: Session, consumer: Consumer) -> None:
        """Push the session's messages to its holder."""
        session.consumer = consumer
        self._pump_session(session)

    def release_session(self, session: Session, *, counted: bool = False) -> None:
        """The holder is gone: its messages go back and the session is free.

        Closing a session counts no delivery, the end of its lock does (`counted`), as the service's documentation
        of message sessions says.
        """
        if self._sessions.get(session.id) is not session or not session.held:
            return
        session.free()
        self._held_sessions.pop(session.id, None)
        for message in [one for one in self._locked.values() if one.session_id == session.id]:
            self._give_back(message, counted=counted)
        self._drop_if_empty(session)
        self._pump()

    def renew_session(self, session_id: str | None) -> float:
        """Lock the session anew; until when. Raises `ServiceBusError` if it is not locked."""
        session = self._held(session_id)
        self._lock_session(session)
        for message in self._locked.values():
            if message.session_id == session.id:
                message.locked_until = session.locked_until
        return session.locked_until

    def session_state(self, session_id: str | None) -> bytes | None:
        """What was stored with the session."""
        return self._held(session_id).state

    def set_session_state(self, session_id: str | None, state: bytes | None) -> None:
        """Store something with the session; None clears it."""
        session = self._held(session_id)
        session.state, session.state_at = state, self._clock()

    def session_ids(self, skip: int, top: int, *, state_after: float | None = None) -> list[str]:
        """Sessions that have active messages or state, by ID; or only those whose state was set after a moment."""
        with_state = [session for session in self._sessions.values() if session.state is not None]
        if state_after is not None:
            found = {session.id for session in with_state if session.state_at > state_after}
        else:
            active = (one for one in self._shelf.from_number(0) if one.state is State.ACTIVE)
            found = {session.id for session in with_state} | {message.session_id or "" for message in active}
        return sorted(found)[skip : skip + top]

    def _session(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = Session(session_id)
        return session

    def _held(self, session_id: str | None) -> Session:
        session = self._sessions.get(session_id or "")
        if session_id is None or session is None or not session.is_locked(self._clock()):
            raise ServiceBusError(SESSION_LOCK_LOST, "the session's lock has expired; accept the session again")
        return session

    def _lock_session(self, session: Session) -> None:
        session.held = True
        self._held_sessions[session.id] = session
        session.locked_until = self._clock() + self.settings.lock_seconds
        self._changed()

    def _end_overdue_sessions(self) -> None:
        now = self._clock()
        for session in [one for one in self._held_sessions.values() if one.locked_until <= now]:
            lost = session.consumer
            self.release_session(session, counted=True)
            session.tell_lost(lost)

    def _serve_waiters(self) -> None:
        while self._waiters:
            free = (one for one in self._waiting_sessions.values() if not one.held)
            session = next(free, None)
            if session is None:
                return
            if not self._has_waiting(session):
                continue
            self._lock_session(session)
            self._waiters.popleft().granted(session)

    def _has_waiting(self, session: Session) -> bool:
        """Whether a message really waits in the session's line; what is gone or expired is cleared away."""
        message = self._next_in(session.line)
        if message is None:
            self._waiting_sessions.pop(session.id, None)
            self._drop_if_empty(session)
            return False
        session.line.push(message)
        return True

    def _drop_if_empty(self, session: Session) -> None:
        if not session.line and session.state is None and not session.held:
            self._sessions.pop(session.id, None)
            self._waiting_sessions.pop(session.id, None)

    # --- time ----------------------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """When `tick` has something to do next; infinity if never."""
        sessions = (one.locked_until for one in self._held_sessions.values())
        waiters = (waiter.until for waiter in self._waiters)
        own = min(self._schedule.next(), self._lock_ends.next(), self._expiries.next())
        below = self.dead_letters.next_due() if self.dead_letters else float("inf")
        return min(own, below, min(sessions, default=float("inf")), min(waiters, default=float("inf")))

    def tick(self) -> None:
        """Do what is due: activate, unlock, expire, let go of sessions and waiters."""
        now = self._clock()
        for moment, message in self._schedule.due(now):
            if message.state is State.SCHEDULED and message.scheduled_at == moment and self._is_here(message):
                self._remove(message)
                self._enqueue(message, now)
        for _, message in self._lock_ends.due(now):
            if message.lock_token is not None and message.locked_until <= now:
                self._give_back(message, counted=True)
        for _, message in self._expiries.due(now):
            if self._is_here(message) and message.lock_token is None and message.expires_at <= now:
                self._expire(message)
        self._end_overdue_sessions()
        for waiter in [one for one in self._waiters if one.until <= now]:
            self._waiters.remove(waiter)
            waiter.timed_out()
        self._pump()
        if self.dead_letters is not None:
            self.dead_letters.tick()

    def _is_here(self, message: Message) -> bool:
        return self._shelf.get(message.sequence_number) is message

    def counts(self) -> dict[str, int]:
        """Messages by state, those under a lock counted with the active ones, and those dead-lettered."""
        return {
            "active": self._counts[State.ACTIVE],
            "deferred": self._counts[State.DEFERRED],
            "scheduled": self._counts[State.SCHEDULED],
            "dead_lettered": len(self.dead_letters._shelf) if self.dead_letters else 0,
        }

"""Sessions: messages of one key in order, for one receiver at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from servicebus_emulator.servicebus.entities.indexes import ReadyMessages
from servicebus_emulator.servicebus.entities.message import Message
from servicebus_emulator.servicebus.entities.receiver import MessageReceiver, SessionLockObserver
from servicebus_emulator.servicebus.errors import SESSION_CANNOT_BE_LOCKED, SESSION_LOCK_LOST, ServiceBusError


class Waiter(Protocol):
    """Someone who waits for the next free session that has messages."""

    until: float
    """When it gives up, in seconds since the epoch."""

    def granted(self, session: MessageSession) -> None:
        """Here is one, locked."""
        ...

    def timed_out(self) -> None:
        """There was none in time."""
        ...


class MessageSession:
    """One session: its waiting messages, its state, and who holds it until when."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.line = ReadyMessages()
        self.state: bytes | None = None
        self.state_at = 0.0
        self.held = False
        self.locked_until = 0.0
        self.consumer: MessageReceiver | None = None

    def is_locked(self, now: float) -> bool:
        """Whether someone holds it."""
        return self.held and self.locked_until > now

    def free(self) -> None:
        """Nobody holds it any more."""
        self.held = False
        self.consumer = None

    @staticmethod
    def tell_lost(holder: MessageReceiver | None) -> None:
        """Tell the former holder that its lock has expired."""
        if holder is not None and isinstance(holder, SessionLockObserver):
            holder.session_lock_lost()


class Host(Protocol):
    """The queue whose messages the sessions hold."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def take_first(self, line: ReadyMessages) -> Message | None:
        """The first message of a line that is still to be had."""
        ...

    def hand_over(self, message: Message, consumer: MessageReceiver, session: MessageSession) -> None:
        """Give it to the session's holder."""
        ...

    def locked(self) -> Iterable[Message]:
        """All messages under a lock."""
        ...

    def give_back(self, message: Message, *, counted: bool) -> None:
        """End a message's lock."""
        ...

    def pump(self) -> None:
        """Hand over what can be."""
        ...

    def state_kept(self, session: MessageSession) -> None:
        """A session's state has changed."""
        ...


class QueueSessions:
    """All sessions of a queue. Those without messages, state or holder are forgotten."""

    def __init__(self, host: Host, *, lock_seconds: Callable[[], float], changed: Callable[[], None]) -> None:
        self._host = host
        self._lock_seconds = lock_seconds
        self._changed = changed
        self._all: dict[str, MessageSession] = {}
        self._held: dict[str, MessageSession] = {}
        self._with_messages: dict[str, MessageSession] = {}
        self._waiters: deque[Waiter] = deque()

    # --- locks ---------------------------------------------------------------------------------------------------

    def accept(self, session_id: str) -> MessageSession:
        """Lock a named session. Raises `ServiceBusError` if another receiver holds it."""
        self.end_overdue()  # else its former holder, not told yet, would let go of the new holder's lock
        session = self._named(session_id)
        if session.held:
            raise ServiceBusError(SESSION_CANNOT_BE_LOCKED, f"session '{session_id}' is locked by another receiver")
        self._lock(session)
        return session

    def accept_next(self, waiter: Waiter) -> None:
        """Lock the next session that has messages; now, or when there is one: `waiter` is told."""
        self._waiters.append(waiter)
        self._changed()
        self.serve_waiters()

    def forget_waiter(self, waiter: Waiter) -> None:
        """It waits no longer."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def attach(self, session: MessageSession, consumer: MessageReceiver) -> None:
        """Push the session's messages to its holder."""
        session.consumer = consumer
        self.pump_one(session)

    def release(self, session: MessageSession, *, counted: bool = False) -> None:
        """The holder is gone: its messages go back and the session is free.

        Closing a session counts no delivery, the end of its lock does (`counted`), as the service's documentation
        of message sessions says.
        """
        if self._all.get(session.id) is not session or not session.held:
            return
        session.free()
        self._held.pop(session.id, None)
        for message in [one for one in self._host.locked() if one.session_id == session.id]:
            self._host.give_back(message, counted=counted)
        self._drop_if_empty(session)
        self._host.pump()

    def renew(self, session_id: str | None) -> float:
        """Lock the session anew; until when. Raises `ServiceBusError` if it is not locked."""
        session = self.held(session_id)
        self._lock(session)
        for message in self._host.locked():
            if message.session_id == session.id:
                message.locked_until = session.locked_until
        return session.locked_until

    def held(self, session_id: str | None) -> MessageSession:
        """A session that is locked. Raises `ServiceBusError`."""
        session = self._all.get(session_id or "")
        if session_id is None or session is None or not session.is_locked(self._host.now()):
            raise ServiceBusError(SESSION_LOCK_LOST, "the session's lock has expired; accept the session again")
        return session

    def is_held(self, session_id: str | None) -> bool:
        """Whether someone holds it, or did until its lock ran out a moment ago."""
        return session_id in self._held

    def expire_locks(self) -> int:
        """End every session's lock now; how many there were."""
        for session in self._held.values():
            session.locked_until = self._host.now()
        return len(self._held)

    def end_overdue(self) -> None:
        """Free sessions whose lock is over, and tell their holders."""
        now = self._host.now()
        for session in [one for one in self._held.values() if one.locked_until <= now]:
            lost = session.consumer
            self.release(session, counted=True)
            session.tell_lost(lost)

    def _lock(self, session: MessageSession) -> None:
        session.held = True
        self._held[session.id] = session
        session.locked_until = self._host.now() + self._lock_seconds()
        self._changed()

    # --- messages ------------------------------------------------------------------------------------------------

    def wait(self, message: Message) -> None:
        """Let a message wait in its session."""
        session = self._named(message.session_id or "")
        session.line.push(message)
        self._with_messages[session.id] = session

    def pump(self) -> None:
        """Hand over what can be, first to those who wait for a session."""
        self.serve_waiters()
        for session in list(self._held.values()):
            self.pump_one(session)

    def pump_one(self, session: MessageSession) -> None:
        """Hand over what this session's holder can take."""
        while session.consumer is not None and session.consumer.has_capacity():
            message = self._host.take_first(session.line)
            if message is None:
                self._with_messages.pop(session.id, None)
                return
            self._host.hand_over(message, session.consumer, session)

    def serve_waiters(self) -> None:
        """Give those who wait what is free, in turn."""
        while self._waiters:
            session = next((one for one in self._with_messages.values() if not one.held), None)
            if session is None:
                return
            if not self._has_messages(session):
                continue
            self._lock(session)
            self._waiters.popleft().granted(session)

    def _has_messages(self, session: MessageSession) -> bool:
        """Whether a message really waits in the session's line; what is gone or expired is cleared away."""
        message = self._host.take_first(session.line)
        if message is None:
            self._with_messages.pop(session.id, None)
            self._drop_if_empty(session)
            return False
        session.line.push(message)
        return True

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self, session_id: str | None) -> bytes | None:
        """What was stored with the session. Raises `ServiceBusError` if it is not locked."""
        return self.held(session_id).state

    def set_state(self, session_id: str | None, state: bytes | None) -> None:
        """Store something with the session; None clears it. Raises `ServiceBusError` if it is not locked."""
        session = self.held(session_id)
        session.state, session.state_at = state, self._host.now()
        self._host.state_kept(session)

    def restore(self, session_id: str, state: bytes, state_at: float) -> None:
        """Put back what a store has kept."""
        session = self._named(session_id)
        session.state, session.state_at = state, state_at

    def with_state(self, after: float | None = None) -> set[str]:
        """Sessions that have state; or only those whose state was set after a moment."""
        kept = (session for session in self._all.values() if session.state is not None)
        return {session.id for session in kept if after is None or session.state_at > after}

    # --- time ----------------------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """When `tick` has something to do next; infinity if never."""
        held = (one.locked_until for one in self._held.values())
        waiting = (waiter.until for waiter in self._waiters)
        return min(min(held, default=float("inf")), min(waiting, default=float("inf")))

    def tick(self) -> None:
        """Let go of sessions whose lock is over, and of those who have waited long enough."""
        self.end_overdue()
        now = self._host.now()
        for waiter in [one for one in self._waiters if one.until <= now]:
            self._waiters.remove(waiter)
            waiter.timed_out()

    def _named(self, session_id: str) -> MessageSession:
        session = self._all.get(session_id)
        if session is None:
            session = self._all[session_id] = MessageSession(session_id)
        return session

    def _drop_if_empty(self, session: MessageSession) -> None:
        if not session.line and session.state is None and not session.held:
            self._all.pop(session.id, None)
            self._with_messages.pop(session.id, None)

"""Message sessions: the messages of one session ID in order, for one receiver at a time.

Source: Microsoft Learn, "Message sessions".
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from servicebus_emulator.servicebus.entities.expiry import MessageExpiry
from servicebus_emulator.servicebus.entities.indexes import ReadyMessages
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.peek_lock import PeekLock
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.entities.receiver import MessageReceiver, SessionLockObserver
from servicebus_emulator.servicebus.errors import SESSION_CANNOT_BE_LOCKED, SESSION_LOCK_LOST, ServiceBusError


class PendingAccept(Protocol):
    """A receiver that waits for the next session with messages."""

    until: float
    """The moment at which the wait times out, in seconds since the epoch."""

    def granted(self, session: MessageSession) -> None:
        """Handle the session that was locked for the receiver."""
        ...

    def timed_out(self) -> None:
        """Handle the end of the wait without a session."""
        ...


class SessionQueue(Protocol):
    """The operations of a queue that its sessions need."""

    def return_message(self, message: BrokeredMessage, *, counted: bool) -> None:
        """Unlock a message and make it ready again; `counted` counts the delivery."""
        ...

    def pump(self) -> None:
        """Deliver ready messages while receivers have capacity."""
        ...


class MessageSession:
    """One session: its ready messages, its state and its lock.

    `is_held` stays true after `locked_until` until the broker has released the session: only then are its messages
    unlocked.
    """

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.ready = ReadyMessages()
        self.state: bytes | None = None
        self.state_updated_at = 0.0
        self.is_held = False
        self.locked_until = 0.0
        self.receiver: MessageReceiver | None = None

    def is_locked(self, now: float) -> bool:
        """Return True if a receiver holds the session and its lock has not expired."""
        return self.is_held and self.locked_until > now


class QueueSessions:
    """All sessions of a queue. A session without messages, state and receiver is not kept."""

    def __init__(self, state: QueueState, queue: SessionQueue, expiry: MessageExpiry, peek_lock: PeekLock) -> None:
        self._state = state
        self._queue = queue
        self._expiry = expiry
        self._peek_lock = peek_lock
        self._all: dict[str, MessageSession] = {}
        self._held: dict[str, MessageSession] = {}
        self._with_messages: dict[str, MessageSession] = {}
        self._pending: deque[PendingAccept] = deque()

    # --- locks ---------------------------------------------------------------------------------------------------

    def accept(self, session_id: str) -> MessageSession:
        """Lock the session of this ID. Raises `ServiceBusError` (session-cannot-be-locked) if it is held."""
        # Release an expired lock before the check. Otherwise its old holder, whose release is still to come, would
        # later release the new holder's lock.
        self.release_expired()
        session = self._get_or_create(session_id)
        if session.is_held:
            raise ServiceBusError(SESSION_CANNOT_BE_LOCKED, f"session '{session_id}' is locked by another receiver")
        self._lock(session)
        return session

    def accept_next(self, pending: PendingAccept) -> None:
        """Lock the next session with messages, now or later. `pending` is called with the session or the timeout."""
        self._pending.append(pending)
        self._state.reschedule()
        self.grant_pending()

    def cancel_accept(self, pending: PendingAccept) -> None:
        """Stop waiting. Does nothing if the wait has ended."""
        if pending in self._pending:
            self._pending.remove(pending)

    def attach(self, session: MessageSession, receiver: MessageReceiver) -> None:
        """Push the session's messages to the receiver that holds it."""
        session.receiver = receiver
        self.pump_session(session)

    def release(self, session: MessageSession, *, counted: bool = False) -> None:
        """Unlock a session and its messages. Does nothing if it was released before.

        Closing a session does not count a delivery; the end of its lock does (Microsoft Learn, "Message sessions").
        """
        # The identity check covers a link that closes after its session was released, forgotten and created again.
        if self._all.get(session.id) is not session or not session.is_held:
            return
        session.is_held, session.receiver = False, None
        self._held.pop(session.id, None)
        for message in self._locked_messages(session):
            self._queue.return_message(message, counted=counted)
        self._drop_if_empty(session)
        self._queue.pump()

    def renew(self, session_id: str | None) -> float:
        """Renew the lock of a session and of its messages. Return the new end. Raises like `require_locked`."""
        session = self.require_locked(session_id)
        self._lock(session)
        for message in self._locked_messages(session):
            message.locked_until = session.locked_until
        return session.locked_until

    def require_locked(self, session_id: str | None) -> MessageSession:
        """Return a locked session. Raises `ServiceBusError` (session-lock-lost) if it is not locked."""
        session = self._all.get(session_id or "")
        if session_id is None or session is None or not session.is_locked(self._state.now()):
            raise ServiceBusError(SESSION_LOCK_LOST, "the session's lock has expired; accept the session again")
        return session

    def is_held(self, session_id: str | None) -> bool:
        """Return True if a receiver holds the session, or its expired lock still waits for the release."""
        return session_id in self._held

    def expire_locks(self) -> int:
        """End the lock of every session now. Return their number."""
        for session in self._held.values():
            session.locked_until = self._state.now()
        return len(self._held)

    def release_expired(self) -> None:
        """Release the sessions whose lock has expired, and notify their receivers."""
        now = self._state.now()
        # A list, because each release changes `_held`.
        for session in [held for held in self._held.values() if held.locked_until <= now]:
            receiver = session.receiver  # before the release, which clears it
            self.release(session, counted=True)
            if receiver is not None and isinstance(receiver, SessionLockObserver):
                receiver.session_lock_lost()

    def _lock(self, session: MessageSession) -> None:
        session.is_held = True
        self._held[session.id] = session
        session.locked_until = self._state.now() + self._state.settings.lock_seconds
        self._state.reschedule()

    def _locked_messages(self, session: MessageSession) -> list[BrokeredMessage]:
        return [message for message in self._state.locks.messages() if message.session_id == session.id]

    # --- delivery ------------------------------------------------------------------------------------------------

    def add_ready(self, message: BrokeredMessage) -> None:
        """Add a message that is ready for delivery to its session."""
        session = self._get_or_create(message.session_id or "")
        session.ready.push(message)
        self._with_messages[session.id] = session

    def pump(self) -> None:
        """Deliver ready messages.

        Waiting receivers come first: their sessions then take part in the same round of deliveries.
        """
        self.grant_pending()
        for session in list(self._held.values()):
            self.pump_session(session)

    def pump_session(self, session: MessageSession) -> None:
        """Deliver the session's ready messages while its receiver has capacity."""
        while session.receiver is not None and session.receiver.has_capacity():
            message = self._expiry.pop_ready(session.ready)
            if message is None:
                self._with_messages.pop(session.id, None)
                return
            self._peek_lock.deliver(message, session.receiver, session.locked_until)

    def grant_pending(self) -> None:
        """Lock free sessions with messages for the waiting receivers, in the order in which they came."""
        while self._pending:
            session = next((session for session in self._with_messages.values() if not session.is_held), None)
            if session is None:
                return
            if not self._has_messages(session):
                continue
            self._lock(session)
            self._pending.popleft().granted(session)

    def _has_messages(self, session: MessageSession) -> bool:
        # Taking a message out drops the obsolete and expired ones before it. A session must not be granted for those.
        message = self._expiry.pop_ready(session.ready)
        if message is None:
            self._with_messages.pop(session.id, None)
            self._drop_if_empty(session)
            return False
        session.ready.push(message)
        return True

    # --- state ---------------------------------------------------------------------------------------------------

    def get_state(self, session_id: str | None) -> bytes | None:
        """Return the session's state. Raises like `require_locked`."""
        return self.require_locked(session_id).state

    def set_state(self, session_id: str | None, state: bytes | None) -> None:
        """Set the session's state; None clears it. Raises like `require_locked`."""
        session = self.require_locked(session_id)
        session.state, session.state_updated_at = state, self._state.now()
        self._state.storage.put_session_state(self._state.key, session.id, state, session.state_updated_at)

    def restore(self, session_id: str, state: bytes, updated_at: float) -> None:
        """Restore a session's state from the storage."""
        session = self._get_or_create(session_id)
        session.state, session.state_updated_at = state, updated_at

    def with_state(self, after: float | None = None) -> set[str]:
        """Return the IDs of the sessions with state; with `after`, of those whose state was set after this moment."""
        sessions = (session for session in self._all.values() if session.state is not None)
        return {session.id for session in sessions if after is None or session.state_updated_at > after}

    # --- time ----------------------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """Return the moment at which `tick` has work next, infinity if never."""
        locks = (session.locked_until for session in self._held.values())
        waits = (pending.until for pending in self._pending)
        return min(min(locks, default=math.inf), min(waits, default=math.inf))

    def tick(self) -> None:
        """Release expired sessions, and end the waits that timed out."""
        self.release_expired()
        now = self._state.now()
        for pending in [waiting for waiting in self._pending if waiting.until <= now]:
            self._pending.remove(pending)
            pending.timed_out()

    def _get_or_create(self, session_id: str) -> MessageSession:
        session = self._all.get(session_id)
        if session is None:
            session = self._all[session_id] = MessageSession(session_id)
        return session

    def _drop_if_empty(self, session: MessageSession) -> None:
        if not session.ready and session.state is None and not session.is_held:
            self._all.pop(session.id, None)
            self._with_messages.pop(session.id, None)

"""Delivers ready messages to the receivers of a queue."""

from __future__ import annotations

from collections import deque

from servicebus_emulator.servicebus.entities.expiry import MessageExpiry
from servicebus_emulator.servicebus.entities.indexes import ReadyMessages
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.peek_lock import PeekLock
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.entities.receiver import MessageReceiver
from servicebus_emulator.servicebus.entities.sessions import QueueSessions


class MessageDelivery:
    """Pushes messages to receivers in turn. In a queue with sessions, the sessions deliver instead."""

    def __init__(self, state: QueueState, expiry: MessageExpiry, peek_lock: PeekLock, sessions: QueueSessions) -> None:
        self._state = state
        self._expiry = expiry
        self._peek_lock = peek_lock
        self._sessions = sessions
        self._ready = ReadyMessages()
        self._receivers: deque[MessageReceiver] = deque()

    @property
    def has_receivers(self) -> bool:
        """True if a receiver without a session is subscribed."""
        return bool(self._receivers)

    def subscribe(self, receiver: MessageReceiver) -> None:
        """Push messages to this receiver from now on, in turn with the others."""
        self._receivers.append(receiver)
        self.pump()

    def unsubscribe(self, receiver: MessageReceiver) -> None:
        """Push no more messages. The receiver's messages stay locked: closing a link settles nothing."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    def add_ready(self, message: BrokeredMessage) -> None:
        """Add a message that is ready for delivery."""
        if self._state.settings.requires_session:
            self._sessions.add_ready(message)
        else:
            self._ready.push(message)

    def pump(self) -> None:
        """Deliver ready messages while receivers have capacity."""
        if not self._state.settings.status.can_receive:
            return
        if self._state.settings.requires_session:
            self._sessions.pump()
            return
        # The receiver is chosen before the message: without capacity, the message stays where it is.
        while self._receivers and (receiver := self._next_receiver()) is not None:
            message = self._expiry.pop_ready(self._ready)
            if message is None:
                return
            self._peek_lock.deliver(message, receiver)

    def _next_receiver(self) -> MessageReceiver | None:
        for _ in range(len(self._receivers)):
            receiver = self._receivers[0]
            self._receivers.rotate(-1)
            if receiver.has_capacity():
                return receiver
        return None

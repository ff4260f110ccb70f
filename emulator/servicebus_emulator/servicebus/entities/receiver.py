"""The port through which a queue delivers messages to a receiver."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from servicebus_emulator.servicebus.entities.message import BrokeredMessage


class MessageReceiver(Protocol):
    """A receiver that a queue pushes messages to."""

    peek_lock: bool
    """True: peek-lock, the receiver settles each message. False: receive-and-delete."""

    def has_capacity(self) -> bool:
        """Return True if the receiver takes another message now."""
        ...

    def deliver(self, message: BrokeredMessage) -> None:
        """Deliver a message. Under peek-lock, the message carries its lock token."""
        ...


@runtime_checkable
class SessionLockObserver(Protocol):
    """A receiver that is notified when the lock of its session expires."""

    def session_lock_lost(self) -> None:
        """Handle the loss of the session lock."""
        ...

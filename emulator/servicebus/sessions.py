"""Sessions: messages of one key in order, for one receiver at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from emulator.servicebus.shelf import Line

if TYPE_CHECKING:
    from emulator.servicebus.queue import Consumer


class Waiter(Protocol):
    """Someone who waits for the next free session that has messages."""

    until: float
    """When it gives up, in seconds since the epoch."""

    def granted(self, session: Session) -> None:
        """Here is one, locked."""
        ...

    def timed_out(self) -> None:
        """There was none in time."""
        ...


@runtime_checkable
class LockHolder(Protocol):
    """A consumer that wants to know when its session's lock has expired."""

    def session_lock_lost(self) -> None:
        """The session is not its own any more."""
        ...


class Session:
    """One session: its waiting messages, its state, and who holds it until when."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.line = Line()
        self.state: bytes | None = None
        self.state_at = 0.0
        self.held = False
        self.locked_until = 0.0
        self.consumer: Consumer | None = None

    def is_locked(self, now: float) -> bool:
        """Whether someone holds it."""
        return self.held and self.locked_until > now

    def free(self) -> None:
        """Nobody holds it any more."""
        self.held = False
        self.consumer = None

    @staticmethod
    def tell_lost(holder: Consumer | None) -> None:
        """Tell the former holder that its lock has expired."""
        if holder is not None and isinstance(holder, LockHolder):
            holder.session_lock_lost()

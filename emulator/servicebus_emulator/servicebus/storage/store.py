"""What a queue tells of every change, so that somebody may keep it beyond the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servicebus_emulator.servicebus.errors import INTERNAL_ERROR, ServiceBusError

if TYPE_CHECKING:
    from servicebus_emulator.servicebus.config import QueueSettings
    from servicebus_emulator.servicebus.entities.message import Message


class DataError(Exception):
    """What is kept cannot be used; the message says why and what to do."""


class NotSaved(ServiceBusError):
    """What was told could not be made safe, and nobody may learn of it; it is kept, and tried again with the rest."""

    def __init__(self, why: str) -> None:
        super().__init__(INTERNAL_ERROR, f"The emulator cannot save messages: {why}.")


class Store:
    """Keeps queues and messages, by the queues' names in lower case; a dead-letter queue has its own.

    Nothing need be safe before `flush` returns, and all must be then. This one keeps nothing: queues live as long as
    the process.
    """

    def entity(self, settings: QueueSettings, created_at: float, updated_at: float) -> None:
        """A queue is new, or its rules have changed."""

    def forget_entity(self, name: str) -> None:
        """A queue is gone with all that was in it, its dead letters too."""

    def put(self, queue: str, message: Message) -> None:
        """A message is new, or has changed."""

    def remove(self, queue: str, number: int) -> None:
        """A message is gone."""

    def seen(self, queue: str, key: str, at: float) -> None:
        """Duplicate detection has a new ID to remember."""

    def session(self, queue: str, session_id: str, state: bytes | None, state_at: float) -> None:
        """A session's state has changed; None: there is none any more."""

    def flush(self) -> None:
        """Make safe what was told. Called before any client learns of it. Raises `NotSaved`."""


FORGETFUL = Store()

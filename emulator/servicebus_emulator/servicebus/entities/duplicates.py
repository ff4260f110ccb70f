"""Duplicate detection: the message IDs that a queue has seen within its window."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue_state import QueueState


class DuplicateDetector:
    """Recognizes messages whose ID was sent before.

    The window counts from the first message with an ID. A duplicate does not extend it (Microsoft Learn, "Duplicate
    detection").
    """

    def __init__(self, state: QueueState) -> None:
        self._state = state
        self._seen: OrderedDict[str, float] = OrderedDict()

    def is_duplicate(self, message: BrokeredMessage) -> bool:
        """Return True if the message is to be dropped; otherwise, remember its ID."""
        settings, key = self._state.settings, message.duplicate_key
        if not settings.requires_duplicate_detection or key is None:
            return False
        now = self._state.now()
        self._forget(now - settings.duplicate_detection_seconds)
        if key in self._seen:
            return True
        self._seen[key] = now
        self._state.storage.put_duplicate_key(self._state.key, key, now)
        return False

    def restore(self, seen: Iterable[tuple[str, float]]) -> None:
        """Restore IDs and the moments at which they were seen, the oldest first."""
        self._seen.update(seen)

    def _forget(self, until: float) -> None:
        # The oldest entry comes first, because an ID is only ever added with the current time.
        while self._seen and next(iter(self._seen.values())) <= until:
            self._seen.popitem(last=False)

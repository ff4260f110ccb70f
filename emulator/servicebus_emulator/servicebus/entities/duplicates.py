"""Duplicate detection: the message IDs a queue has seen of late."""

from __future__ import annotations

from collections import OrderedDict


class DuplicateDetector:
    """IDs and when they were first seen, the oldest first."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, float] = OrderedDict()

    def has(self, key: str, *, since: float) -> bool:
        """Whether the ID was seen since then; what is older is forgotten."""
        while self._seen and next(iter(self._seen.values())) <= since:
            self._seen.popitem(last=False)
        return key in self._seen

    def add(self, key: str, at: float) -> None:
        """Remember an ID that was not known."""
        self._seen[key] = at

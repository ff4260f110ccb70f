"""Limits the lines about one matter whose keys come from other people, such as key IDs and origins."""

from __future__ import annotations

import time
from collections.abc import Callable


class Seldom:
    """Says whether a line about a key is due: once per key and interval. It holds a bounded number of keys."""

    def __init__(
        self, *, seconds: float = 60.0, max_keys: int = 100, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Beyond `max_keys` keys in one interval, no further key is due: anybody can invent keys."""
        self._seconds = seconds
        self._max_keys = max_keys
        self._monotonic = monotonic
        self._written: dict[str, float] = {}

    def is_due(self, key: str) -> bool:
        """Return True if the key had no line within the interval. The caller then writes one."""
        now = self._monotonic()
        # The oldest line comes first, because a key is removed before it comes again.
        while self._written and now - next(iter(self._written.values())) >= self._seconds:
            del self._written[next(iter(self._written))]
        if key in self._written or len(self._written) >= self._max_keys:
            return False
        self._written[key] = now
        return True

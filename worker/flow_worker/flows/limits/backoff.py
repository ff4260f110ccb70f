"""Computes pauses that double with each repetition."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

LONG_AGO = datetime.min.replace(tzinfo=UTC)
_MAX_DOUBLINGS = 30


class Backoff:
    """A pause that ends at `until`. Each one is twice as long as the one before, from `first` to `longest` seconds.

    `jitter` is the fraction of its length by which a pause may be shorter or longer. `reset` starts over at `first`.
    """

    def __init__(self, first: float, longest: float, *, jitter: float = 0.0) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self.until = LONG_AGO
        self.repetitions = 0
        """The number of pauses since the last reset."""

    def begin(self, now: datetime) -> None:
        """Begin the next pause. A pause that ends later than the new one is kept."""
        seconds = min(self._longest, self._first * 2 ** min(self.repetitions, _MAX_DOUBLINGS))
        seconds *= random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 - spreads load, protects no secret
        self.repetitions += 1
        self.extend(now + timedelta(seconds=seconds))

    def extend(self, until: datetime) -> None:
        """Let the pause last at least until `until`. This does not count as a repetition."""
        self.until = max(self.until, until)

    def reset(self) -> None:
        """Make the next pause the shortest one. A pause that is under way goes to its end."""
        self.repetitions = 0

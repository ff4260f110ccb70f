"""A time in which nobody calls, longer with each repetition."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

LONG_AGO = datetime.min.replace(tzinfo=UTC)
_MAX_DOUBLINGS = 30


class Backoff:
    """Ends at `until`; each one after another doubles, from `first` to `longest` seconds, until `reset`.

    `jitter` is the part of its length by which it may be shorter or longer.
    """

    def __init__(self, first: float, longest: float, *, jitter: float = 0.0) -> None:
        self._first = first
        self._longest = longest
        self._jitter = jitter
        self.until = LONG_AGO
        self.times = 0
        """How many there were since all was well."""

    def begin(self, now: datetime) -> None:
        """Nobody calls for some time from now."""
        seconds = min(self._longest, self._first * 2 ** min(self.times, _MAX_DOUBLINGS))
        seconds *= random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311 - it keeps no secret
        self.times += 1
        self.until_at_least(now + timedelta(seconds=seconds))

    def until_at_least(self, until: datetime) -> None:
        """Nobody calls before `until`."""
        self.until = max(self.until, until)

    def reset(self) -> None:
        """All is well: the next one is short again."""
        self.times = 0

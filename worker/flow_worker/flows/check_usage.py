"""Counts the seconds that the checks of each sender's inputs take."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

_SECONDS_PER_SECOND = 0.5
"""What a sender may use for ever: half of a process. Honest inputs take milliseconds."""
_BURST_SECONDS = 1.0
_MAX_SECONDS = 30.0
"""The most that counts against a sender, so that it is slow for a minute at most after its last check."""
_EXCEEDED_SECONDS = 600.0
"""After a check that exceeded a limit, the sender is slow for this long."""
_MAX_SENDERS = 4096


class CheckUsage:
    """Knows the slow senders: those with too many seconds of checks lately, or with a check that exceeded a limit."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._free_at: dict[Hashable, float] = {}
        """By sender, the time at which its seconds no longer count."""

    def __len__(self) -> int:
        return len(self._free_at)

    def is_slow(self, sender: Hashable) -> bool:
        """Return whether the sender's checks may use no more than what the others leave."""
        return self._free_at.get(sender, 0.0) - self._now() > _BURST_SECONDS / _SECONDS_PER_SECOND

    def add(self, sender: Hashable, seconds: float) -> None:
        """Count a check that just ended."""
        now = self._now()
        known = max(self._free_at.get(sender, 0.0), now)
        longest = max(known, now + _MAX_SECONDS / _SECONDS_PER_SECOND)
        self._put(sender, min(longest, known + seconds / _SECONDS_PER_SECOND))

    def exceed(self, sender: Hashable) -> None:
        """Count a check that exceeded a limit of time or memory."""
        self._put(sender, self._now() + _EXCEEDED_SECONDS)

    def _put(self, sender: Hashable, free_at: float) -> None:
        if len(self._free_at) >= _MAX_SENDERS and sender not in self._free_at:
            # Those that used the most stay.
            kept = sorted(self._free_at.items(), key=lambda item: item[1])[_MAX_SENDERS // 4 :]
            self._free_at = dict(kept)
        self._free_at[sender] = free_at
